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

// etcdWatch knows whether etcd answers. That is what readiness means for the plugin: it
// can give out addresses.
type etcdWatch struct {
	store *etcdstore.Client
	log   *slog.Logger
	up    atomic.Bool
	// first is closed when the first question has been answered, or not.
	first chan struct{}
	// onUp is called when etcd answers again.
	onUp func(context.Context)
}

func newEtcdWatch(store *etcdstore.Client, onUp func(context.Context), log *slog.Logger) *etcdWatch {
	return &etcdWatch{store: store, log: log, first: make(chan struct{}), onUp: onUp}
}

// connected tells whether etcd answered last time.
func (w *etcdWatch) connected() bool { return w.up.Load() }

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

// run asks etcd now and then, until ctx ends, and sets the health accordingly.
func (w *etcdWatch) run(ctx context.Context, hs *health.Server) error {
	hs.SetServingStatus("", healthgrpc.HealthCheckResponse_NOT_SERVING)
	for asked := false; ; asked = true {
		was := w.connected()
		pause := w.ask(ctx, hs)
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
func (w *etcdWatch) ask(ctx context.Context, hs *health.Server) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, pingLimit)
	defer cancel()
	err := w.store.Ping(ctx)
	was := w.up.Swap(err == nil)
	switch {
	case err == nil && !was:
		w.log.Info("etcd answers")
		hs.SetServingStatus("", healthgrpc.HealthCheckResponse_SERVING)
	case err != nil:
		w.log.Warn("etcd does not answer: no container can be started or stopped properly", logattr.Err, err)
		hs.SetServingStatus("", healthgrpc.HealthCheckResponse_NOT_SERVING)
	}
	if err != nil {
		return pingRetry
	}
	return pingEvery
}
