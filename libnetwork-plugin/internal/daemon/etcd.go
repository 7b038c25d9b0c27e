package daemon

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/logattr"
)

// The times of the watch over etcd: for one question, between two while it answers,
// between two while it does not, and for the first answer.
const (
	pingLimit  = 2 * time.Second
	pingEvery  = 10 * time.Second
	pingRetry  = time.Second
	startLimit = 2 * time.Second
)

// etcdWatch knows whether etcd answers, and with that whether the plugin is ready: it
// can give out addresses, and Docker finds it.
type etcdWatch struct {
	store  *etcdstore.Client
	log    *slog.Logger
	health *health.Server
	up     atomic.Bool
	// served tells whether Docker's sockets are there.
	served atomic.Bool
	// first is closed when the first question has been answered, or not.
	first chan struct{}
	// onUp is called when etcd answers again.
	onUp func(context.Context)
}

func newEtcdWatch(store *etcdstore.Client, onUp func(context.Context), log *slog.Logger) *etcdWatch {
	w := &etcdWatch{store: store, log: log, health: health.NewServer(), first: make(chan struct{}), onUp: onUp}
	w.report()
	return w
}

// connected tells whether etcd answered last time.
func (w *etcdWatch) connected() bool { return w.up.Load() }

// ready tells whether the plugin can do its work.
func (w *etcdWatch) ready() bool { return w.up.Load() && w.served.Load() }

// serving notes that Docker's sockets are there.
func (w *etcdWatch) serving() {
	w.served.Store(true)
	w.report()
}

// report sets the health that others see.
func (w *etcdWatch) report() {
	status := healthgrpc.HealthCheckResponse_NOT_SERVING
	if w.ready() {
		status = healthgrpc.HealthCheckResponse_SERVING
	}
	w.health.SetServingStatus("", status)
}

// wait returns when etcd has been asked once, and not later than in a moment.
func (w *etcdWatch) wait(ctx context.Context) {
	t := time.NewTimer(startLimit)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-w.first:
	}
}

// run asks etcd now and then, until ctx ends.
func (w *etcdWatch) run(ctx context.Context) error {
	for asked := false; ; asked = true {
		was := w.connected()
		pause := w.ask(ctx)
		if !asked {
			close(w.first)
		}
		if w.connected() && !was {
			w.onUp(ctx)
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// ask asks once and returns when to ask again.
func (w *etcdWatch) ask(ctx context.Context) time.Duration {
	limited, cancel := context.WithTimeout(ctx, pingLimit)
	defer cancel()
	err := w.store.Ping(limited)
	if ctx.Err() != nil {
		return pingRetry // The process is about to end.
	}
	was := w.up.Swap(err == nil)
	switch {
	case err == nil && !was:
		w.log.Info("etcd answers")
	case err != nil:
		w.log.Warn("etcd does not answer: no container can be started or stopped properly", logattr.Err, err)
	}
	w.report()
	if err != nil {
		return pingRetry
	}
	return pingEvery
}
