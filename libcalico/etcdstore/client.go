package etcdstore

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
)

const (
	// maxRedial is the longest pause between attempts to connect.
	maxRedial = time.Second
	// patience is how long an operation without a deadline waits for a connection.
	patience = 2 * time.Second
	// window is how much an answer may be ahead of its reader, and readBuffer how much
	// is read from the connection at a time.
	window     = 4 << 20
	readBuffer = 256 << 10
	// keepalive is the shortest interval that grpc allows; a connection that is dead
	// while a watch is open is noticed sooner, by the watch itself.
	keepaliveInterval = 10 * time.Second
	keepaliveTimeout  = 3 * time.Second
	// pageTimeout limits the reading of one page of a list.
	pageTimeout = 30 * time.Second
)

// Client is a connection to etcd. It may be used by several goroutines.
type Client struct {
	cfg   Config
	etcd  *clientv3.Client
	dials *dialer
	floor floor
	login *login
}

// New makes a client. It does not wait for the server: a missing one shows at the
// first operation.
func New(cfg Config) (*Client, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	files, err := newCertificates(cfg)
	if err != nil {
		return nil, err
	}
	login := &login{username: cfg.Username, password: cfg.Password}
	c := &Client{cfg: cfg, dials: &dialer{timeout: cfg.DialTimeout}, login: login}
	unary := []grpc.UnaryClientInterceptor{failFast, login.unary}
	if cfg.Log != nil {
		unary = append(unary, trace(cfg.Log))
	}
	options := []grpc.DialOption{
		grpc.WithContextDialer(c.dials.dial),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxRedial},
			MinConnectTimeout: cfg.DialTimeout,
		}),
		// Lists are large: with gRPC's small default window each would wait for several
		// round trips.
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		grpc.WithReadBufferSize(readBuffer),
		grpc.WithChainUnaryInterceptor(unary...),
		grpc.WithChainStreamInterceptor(login.stream),
		grpc.WithPerRPCCredentials(login),
	}
	if files != nil {
		// In place of the client library's, which would keep what it read first.
		options = append(options, grpc.WithTransportCredentials(newHandshakes(files, c.dials)))
	}
	c.etcd, err = clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		DialTimeout:          cfg.DialTimeout,
		DialKeepAliveTime:    keepaliveInterval,
		DialKeepAliveTimeout: keepaliveTimeout,
		MaxUnaryRetries:      4,
		BackoffWaitBetween:   50 * time.Millisecond,
		Logger:               zap.NewNop(),
		DialOptions:          options,
	})
	if err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	return c, nil
}

// failFast makes a call end with the reason when there is no connection; the client
// library would wait for one without saying why. Waiting is up to [Client.do].
func failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
}

// Close ends all operations and watches.
func (c *Client) Close() error { return c.etcd.Close() }

// Raw is the client underneath, for leases and elections. Its errors are not
// explained.
func (c *Client) Raw() *clientv3.Client { return c.etcd }

// Endpoints are the URLs that the client uses.
func (c *Client) Endpoints() []string { return c.cfg.Endpoints }

// MemberURLs are the URLs at which etcd's members serve clients, as they say.
func (c *Client) MemberURLs(ctx context.Context) (urls []string, err error) {
	err = c.do(ctx, 0, func(ctx context.Context) error {
		resp, err := c.etcd.MemberList(ctx)
		if err != nil {
			return err
		}
		for _, m := range resp.Members {
			urls = append(urls, m.ClientURLs...)
		}
		return nil
	})
	return urls, err
}

// Ping makes sure that etcd answers and has a leader.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.head(ctx)
	return err
}

// position is a point in the history of one cluster.
type position struct {
	cluster  uint64
	revision int64
}

// forkedFrom says whether now, which was read later, cannot be of the same history.
func (p position) forkedFrom(now position) bool {
	return now.cluster != p.cluster || now.revision < p.revision
}

// head reads the present position from the leader.
func (c *Client) head(ctx context.Context) (p position, err error) {
	err = c.do(ctx, 0, func(ctx context.Context) error {
		resp, err := c.etcd.Get(ctx, readyPath, clientv3.WithCountOnly())
		if err == nil {
			p = position{resp.Header.ClusterId, resp.Header.Revision}
		}
		return err
	})
	return p, err
}

// do runs an operation and explains its error. limit is the time for an operation
// whose context has no deadline, 0 meaning the default.
func (c *Client) do(ctx context.Context, limit time.Duration, op func(context.Context) error) error {
	if limit == 0 {
		limit = c.cfg.DialTimeout
	}
	wait := ctx
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
		wait, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	c.awaitConnection(wait)
	return c.explain(ctx, op(ctx))
}

// awaitConnection waits until a server is connected or ctx ends; the operation that
// follows says what is the matter.
func (c *Client) awaitConnection(ctx context.Context) {
	conn := c.etcd.ActiveConnection()
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready, connectivity.Shutdown:
			return
		case connectivity.Idle:
			conn.Connect()
		case connectivity.Connecting, connectivity.TransientFailure:
		}
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}
