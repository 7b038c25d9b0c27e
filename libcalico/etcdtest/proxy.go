package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Loss is what happens to a write that a [Proxy] loses.
type Loss int

const (
	// AnswerCut is a write that etcd does, and whose connection breaks before the answer.
	AnswerCut Loss = iota
	// AnswerHeld is a write that etcd does, and that is never answered.
	AnswerHeld
	// RequestCut is a write whose connection breaks before etcd hears of it. For its
	// client it looks like AnswerCut.
	RequestCut
	// RequestLate is one that etcd does only a second after its client has been cut off.
	RequestLate
)

const late = time.Second

// Losses are all of them.
var Losses = []Loss{AnswerCut, AnswerHeld, RequestCut, RequestLate}

func (l Loss) String() string {
	return [...]string{"answer cut", "answer held", "request cut", "request late"}[l]
}

// Proxy stands between programs and a server and loses single writes, as a change of
// etcd's leader or a failing network does. It passes on everything else, watches and
// logins too. It serves without TLS.
type Proxy struct {
	addr string
	etcd *grpc.ClientConn

	mu     sync.Mutex
	seen   int // writes since Lose
	at     int // which of them is lost; 0 is none
	how    Loss
	late   sync.WaitGroup
	closed chan struct{}
}

// Proxy starts a proxy before the server, for one test.
func (s *Server) Proxy(tb testing.TB) *Proxy {
	tb.Helper()
	etcd, err := grpc.NewClient("passthrough:///"+s.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(asIs{}), grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		tb.Fatal("etcdtest: proxy: ", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal("etcdtest: proxy: ", err)
	}
	p := &Proxy{addr: l.Addr().String(), etcd: etcd, closed: make(chan struct{})}
	server := grpc.NewServer(grpc.UnknownServiceHandler(p.forward), grpc.ForceServerCodecV2(asIs{}), grpc.MaxRecvMsgSize(1<<30), grpc.MaxSendMsgSize(1<<30))
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	tb.Cleanup(func() {
		close(p.closed)
		server.Stop()
		if err := errors.Join(<-served, etcd.Close()); err != nil {
			tb.Error("etcdtest: proxy: ", err)
		}
	})
	return p
}

// Endpoint is the proxy's URL.
func (p *Proxy) Endpoint() string { return "http://" + p.addr }

// Lose makes the n-th write from now a lost one, n from 1; with 0 it loses none, and
// counts from anew.
func (p *Proxy) Lose(n int, how Loss) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen, p.at, p.how = 0, n, how
}

// AwaitLate waits until etcd has done what [RequestLate] has kept back.
func (p *Proxy) AwaitLate() { p.late.Wait() }

// Writes is how many writes came since [Proxy.Lose].
func (p *Proxy) Writes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// count counts a write and says whether it is to be lost, and how.
func (p *Proxy) count() (how Loss, lost bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen++
	return p.how, p.seen == p.at
}

func (p *Proxy) forward(_ any, from grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(from)
	ctx, cancel := context.WithCancel(outgoing(from.Context()))
	defer cancel()
	if unary := strings.HasPrefix(method, "/etcdserverpb.KV/"); unary {
		return p.call(ctx, method, from)
	}
	return p.stream(ctx, method, from)
}

// call passes on one call of the key-value service.
func (p *Proxy) call(ctx context.Context, method string, from grpc.ServerStream) error {
	var request, answer frame
	if err := from.RecvMsg(&request); err != nil {
		return err
	}
	var how Loss
	lost := false
	if writes(method, request) {
		how, lost = p.count()
	}
	if lost && how == RequestCut {
		return errCut
	}
	if lost && how == RequestLate {
		p.late.Go(func() { p.callLate(context.WithoutCancel(ctx), method, &request) })
		return errCut
	}
	if err := p.etcd.Invoke(ctx, method, &request, &answer); err != nil {
		return err
	}
	switch {
	case lost && how == AnswerHeld:
		select {
		case <-ctx.Done():
		case <-p.closed:
		}
		return errCut
	case lost:
		return errCut
	}
	return from.SendMsg(&answer)
}

// callLate makes a call that nobody waits for.
func (p *Proxy) callLate(ctx context.Context, method string, request *frame) {
	select {
	case <-time.After(late):
	case <-p.closed:
	}
	// What etcd says to it is nobody's business any more.
	_ = p.etcd.Invoke(ctx, method, request, &frame{})
}

// errCut is what a client makes of a connection that breaks.
var errCut = status.Error(codes.Unavailable, "error reading from server: EOF")

// stream passes on messages of both directions until one of them ends.
func (p *Proxy) stream(ctx context.Context, method string, from grpc.ServerStream) error {
	to, err := p.etcd.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	go func() {
		// What fails here ends the stream, which the loop below hears of.
		_ = pass(from, to)
		_ = to.CloseSend()
	}()
	return pass(to, from)
}

type receiver interface{ RecvMsg(any) error }

type sender interface{ SendMsg(any) error }

func pass(from receiver, to sender) error {
	for {
		var m frame
		if err := from.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := to.SendMsg(&m); err != nil {
			return err
		}
	}
}

// outgoing passes on what clients say beside their requests: the token of a login, the
// wish for a leader.
func outgoing(ctx context.Context) context.Context {
	said, _ := metadata.FromIncomingContext(ctx)
	pass := metadata.MD{}
	for k, v := range said {
		if !strings.HasPrefix(k, ":") && k != "content-type" && k != "user-agent" {
			pass[k] = v
		}
	}
	return metadata.NewOutgoingContext(ctx, pass)
}

// statusPrefix holds what programs say of themselves at times of their own choice, which
// would make counts differ from run to run.
const statusPrefix = "/calico/status/"

// writes tells whether a call of the key-value service changes anything that the test
// could miss.
func writes(method string, request frame) bool {
	if method != "/etcdserverpb.KV/Txn" {
		return method == "/etcdserverpb.KV/Put" || method == "/etcdserverpb.KV/DeleteRange"
	}
	var txn etcdserverpb.TxnRequest
	if err := proto.Unmarshal(request.data, &txn); err != nil {
		return true
	}
	for _, op := range append(txn.Success, txn.Failure...) {
		if put := op.GetRequestPut(); put != nil && !strings.HasPrefix(string(put.Key), statusPrefix) {
			return true
		}
		if del := op.GetRequestDeleteRange(); del != nil && !strings.HasPrefix(string(del.Key), statusPrefix) {
			return true
		}
	}
	return false
}

// frame is a message as it is on the wire.
type frame struct{ data []byte }

// asIs is the codec of a proxy: it knows no messages. Its name is what clients ask for.
type asIs struct{}

func (asIs) Name() string { return "proto" }

func (asIs) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("etcdtest: proxy: a message of type %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(f.data)}, nil
}

func (asIs) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("etcdtest: proxy: a message of type %T", v)
	}
	f.data = data.Materialize()
	return nil
}
