package etcdstore

import (
	"context"
	"errors"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// authenticateMethod is the call that gets a token.
const authenticateMethod = "/etcdserverpb.Auth/Authenticate"

// login gets a token by user and password when the first call needs it, and a new one
// when etcd has forgotten it. The client library would do so too, but only after
// waiting for the server at start.
type login struct {
	username, password string

	renewing sync.Mutex // one at a time

	mu    sync.Mutex
	token string
	asked bool
}

// GetRequestMetadata adds the token to each call (credentials.PerRPCCredentials).
// Asking for a new one goes without: etcd would refuse the old token there too.
func (l *login) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	call, _ := credentials.RequestInfoFromContext(ctx)
	if token, _ := l.current(); token != "" && call.Method != authenticateMethod {
		return map[string]string{rpctypes.TokenFieldNameGRPC: token}, nil
	}
	return nil, nil
}

func (l *login) current() (token string, asked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token, l.asked
}

// RequireTransportSecurity is false: whether to use TLS is the operator's choice.
func (l *login) RequireTransportSecurity() bool { return false }

func (l *login) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if l.username == "" || method == authenticateMethod {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	token, asked := l.current()
	if !asked {
		if err := l.renew(ctx, cc, token); err != nil {
			return err
		}
		token, _ = l.current()
	}
	err := invoke(ctx, method, req, reply, cc, opts...)
	if !isStaleToken(err) {
		return err
	}
	if err := l.renew(ctx, cc, token); err != nil {
		return err
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}

// stream uses the token that there is. etcd looks at it when the first request of the stream
// has come: whoever is refused then says so by refused, and opens another stream.
func (l *login) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if token, asked := l.current(); l.username != "" && !asked {
		if err := l.renew(ctx, cc, token); err != nil {
			return nil, err
		}
	}
	return open(ctx, desc, cc, method, opts...)
}

// refused says that etcd does not know a token any longer: the next call gets a new one.
func (l *login) refused(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == token {
		l.asked = false
	}
}

// renew gets a token in place of an old one, unless another call has just done so.
func (l *login) renew(ctx context.Context, cc *grpc.ClientConn, old string) error {
	l.renewing.Lock()
	defer l.renewing.Unlock()
	if token, asked := l.current(); asked && token != old {
		return nil
	}
	resp, err := etcdserverpb.NewAuthClient(cc).Authenticate(ctx, &etcdserverpb.AuthenticateRequest{Name: l.username, Password: l.password})
	if err != nil && !errors.Is(rpctypes.Error(err), rpctypes.ErrAuthNotEnabled) {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked, l.token = true, resp.GetToken()
	return nil
}

func isStaleToken(err error) bool {
	if err == nil {
		return false
	}
	err = rpctypes.Error(err)
	return errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthOldRevision) || errors.Is(err, rpctypes.ErrUserEmpty)
}
