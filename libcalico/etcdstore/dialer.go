package etcdstore

import (
	"context"
	"net"
	"sync"
	"time"
)

// dialer opens connections and remembers why the last attempt failed: an operation
// that runs into its deadline meanwhile can then say so.
type dialer struct {
	timeout time.Duration

	mu   sync.Mutex
	last error
}

func (d *dialer) dial(ctx context.Context, addr string) (net.Conn, error) {
	nd := net.Dialer{
		Timeout:         d.timeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 3 * time.Second, Interval: 2 * time.Second, Count: 2},
	}
	conn, err := nd.DialContext(ctx, "tcp", addr)
	d.note(err)
	return conn, err
}

// note remembers how an attempt ended: also one that came to a connection, which could
// then not be secured.
func (d *dialer) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = err
}

func (d *dialer) lastError() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}
