// Package grpcsock serves and dials gRPC on unix sockets, which is how the programs
// of one host talk to each other. It is an edge.
package grpcsock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

const (
	// probeTimeout bounds the question whether somebody serves a socket already.
	probeTimeout = time.Second
	// stopTimeout bounds how long calls in progress may take once the server stops.
	stopTimeout = 3 * time.Second
	// maxPath is the longest path of a unix socket (sun_path of unix(7), with its final
	// zero byte).
	maxPath = 107
)

// ErrInUse says that another process serves the socket.
var ErrInUse = errors.New("in use by another process")

// Serve serves grpc.health.v1 and what register adds (nil adds nothing) on the
// socket until ctx ends, then lets calls in progress finish for a moment. The
// socket's directory is made if it is missing; the socket has mode 0600 and is
// removed at the end. A socket that a dead process left is replaced; one that is
// served is refused with [ErrInUse].
func Serve(ctx context.Context, path string, hs *health.Server, register func(*grpc.Server)) error {
	l, err := listen(path)
	if err != nil {
		return err
	}
	srv := grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			if info.FullMethod != healthgrpc.Health_Watch_FullMethodName {
				return handle(srv, stream)
			}
			return watchUntil(ctx, srv, stream, handle)
		}),
	)
	healthgrpc.RegisterHealthServer(srv, hs)
	if register != nil {
		register(srv)
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		l.remove()
		return fmt.Errorf("serve %s: %w", path, err)
	case <-ctx.Done():
	}
	l.remove()
	hs.Shutdown()
	stop(srv)
	<-failed
	return nil
}

// watchUntil serves one who watches the health, until ctx ends: whoever watches does not end by
// himself, and is no reason for the server to stay.
func watchUntil(ctx context.Context, srv any, stream grpc.ServerStream, handle grpc.StreamHandler) error {
	both, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	return handle(srv, endingStream{stream, both})
}

// endingStream is a stream with a context of its own.
type endingStream struct {
	grpc.ServerStream

	ctx context.Context
}

// Context ends when the server does.
func (s endingStream) Context() context.Context { return s.ctx }

// stop ends the server, at once when calls in progress take too long.
func stop(srv *grpc.Server) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.GracefulStop()
	}()
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		srv.Stop()
		<-done
	}
}

// Dial makes a client of the program that serves the socket. It does not wait for
// the program; calls fail at once while nobody serves, unless they ask to wait
// ([grpc.WaitForReady]), and connect again within a second once somebody does.
func Dial(path string) (*grpc.ClientConn, error) {
	dialer := func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	conn, err := grpc.NewClient("passthrough:///localhost",
		grpc.WithContextDialer(dialer),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", path, err)
	}
	return conn, nil
}

// listener removes its own socket, and no later one of the same path.
type listener struct {
	*net.UnixListener
	path string
	file fs.FileInfo
}

// listen makes the socket under a name of its own and moves it into place, so that
// nobody ever sees it with another mode or not yet served.
func listen(path string) (*listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of socket %s: %w", path, err)
	}
	if err := vacant(path); err != nil {
		return nil, err
	}
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if len(tmp) > maxPath {
		return nil, fmt.Errorf("socket %s: the path is longer than %d bytes; choose a shorter --run-dir",
			path, maxPath-len(tmp)+len(path))
	}
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	file, err := place(tmp, path)
	if err != nil {
		_ = l.Close()
		_ = os.Remove(tmp)
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	return &listener{UnixListener: l, path: path, file: file}, nil
}

func place(tmp, path string) (fs.FileInfo, error) {
	if err := os.Chmod(tmp, 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

// vacant fails unless the path is free or a socket that nobody serves.
func vacant(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("socket %s: a file that is not a socket stands there; remove it first", path)
	}
	conn, err := net.DialTimeout("unix", path, probeTimeout)
	switch {
	case err == nil:
		defer conn.Close() //nolint:errcheck // only asked
		if ownerIsDead(conn) {
			return nil
		}
		return fmt.Errorf("socket %s: %w; stop that one first, or use another --run-dir", path, ErrInUse)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("socket %s: see whether it is in use: %w", path, err)
}

// ownerIsDead reports whether the process that listens has ended. Its socket can outlive
// it: when a process is killed while it starts another program, the child that has not come
// that far yet holds the parent's files until it ends too.
func ownerIsDead(conn net.Conn) bool {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return false
	}
	dead := false
	err = raw.Control(func(fd uintptr) {
		// The process as it was when it began to listen (unix(7), SO_PEERCRED); 0 if it
		// is not of this PID namespace.
		cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		dead = err == nil && cred.Pid > 0 && hasEnded(int(cred.Pid))
	})
	return err == nil && dead
}

// hasEnded reports whether a process is gone, or waits only to be looked after.
func hasEnded(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	// The state follows the name, which is in parentheses and may hold any character.
	i := bytes.LastIndexByte(text, ')')
	return err == nil && i >= 0 && i+2 < len(text) && (text[i+2] == 'Z' || text[i+2] == 'X')
}

func (l *listener) remove() {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.file) {
		_ = os.Remove(l.path)
	}
}
