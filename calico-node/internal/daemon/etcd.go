package daemon

import (
	"context"
	"sync"
	"time"

	"calico.internal/libcalico/etcdstore"
)

// The times of the watch over etcd: for one question, and between two while it answers and while
// it does not. That a connection is lost is heard, so that nothing is asked much.
const (
	pingLimit = 2 * time.Second
	pingEvery = time.Minute
	pingRetry = time.Second
)

// etcd knows whether etcd answers.
type etcd struct {
	store *etcdstore.Client
	// lost is told that a watch has lost etcd.
	lost chan struct{}

	mu        sync.Mutex
	asked     bool
	connected bool
	since     time.Time
	why       string
}

// ask asks once.
func (e *etcd) ask(ctx context.Context, limit time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := e.store.Ping(limited)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e.note(err)
	return err
}

// note keeps what the last question came to.
func (e *etcd) note(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if connected := err == nil; !e.asked || connected != e.connected {
		e.asked, e.connected, e.since = true, connected, time.Now()
	}
	e.why = ""
	if err != nil {
		e.why = err.Error()
	}
}

func (e *etcd) state() (connected bool, since time.Time, why string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.connected, e.since, e.why
}

// run asks now and then, until ctx ends.
func (e *etcd) run(ctx context.Context) {
	for ctx.Err() == nil {
		pause := pingEvery
		if e.ask(ctx, pingLimit) != nil {
			pause = pingRetry
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-e.lost:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// hear is told what a watch says of etcd.
func (e *etcd) hear(err error) {
	if err == nil {
		return
	}
	select {
	case e.lost <- struct{}{}:
	default:
	}
}

// pauseFor waits, or until ctx ends.
func pauseFor(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
