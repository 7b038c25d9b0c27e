package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/felix/internal/config"
	"calico.internal/felix/internal/statusapi"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
)

// reporter writes into etcd how felix does: its status with a lease and, without one,
// the last status; and, when that is configured, the state of each endpoint.
type reporter struct {
	d *Daemon
	// lease holds the status keys, for ttl.
	lease clientv3.LeaseID
	ttl   time.Duration
	// told is what was reported of each endpoint.
	told map[model.WorkloadEndpointKey]string
}

// pollReports is how often a change of the state, or a report that failed, is looked after.
const pollReports = time.Second

func (r *reporter) run(ctx context.Context) error {
	r.told = map[model.WorkloadEndpointKey]string{}
	var next time.Time
	var nextEndpoints time.Time
	timer := time.NewTimer(pollReports)
	defer timer.Stop()
	for {
		cfg, reconfigured := r.d.live.get()
		st, _ := r.d.board.State()
		now := time.Now()
		if st.Held {
			// What is followed next may know nothing of it.
			for key := range r.told {
				r.told[key] = ""
			}
		}
		writable := st.Connected && r.d.guard.Follows()
		if writable && cfg.ReportingInterval > 0 && !now.Before(next) {
			next = now.Add(cfg.ReportingInterval)
			err := r.status(ctx, cfg, st)
			if ctx.Err() == nil {
				r.d.unreported.set(unwritable(err))
			}
			if err != nil && ctx.Err() == nil {
				next = now
				r.d.log.Warn("status not reported", logattr.Err, err)
			}
		}
		if writable && st.InSync && !now.Before(nextEndpoints) {
			nextEndpoints = now.Add(cfg.EndpointReportingDelay)
			if err := r.endpoints(ctx, cfg, st); err != nil && ctx.Err() == nil {
				r.d.log.Warn("endpoint status not reported", logattr.Err, err)
			}
		}
		timer.Reset(pollReports)
		if writable && st.InSync && !cfg.EndpointReportingEnabled && len(r.told) == 0 && now.Before(next) {
			timer.Reset(next.Sub(now)) // nothing else can become due
		}
		select {
		case <-timer.C:
		case <-reconfigured:
		case <-ctx.Done():
			r.revoke(context.WithoutCancel(ctx))
			return nil
		}
	}
}

// reportTimeout bounds one report.
const reportTimeout = 10 * time.Second

func (r *reporter) status(ctx context.Context, cfg *config.Config, st *statusapi.State) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	if err := r.holdLease(ctx, cfg.ReportingTTL); err != nil {
		return err
	}
	report := &model.FelixStatus{
		Time:        time.Now().UTC(),
		UptimeSecs:  time.Since(r.d.started).Seconds(),
		FirstUpdate: st.InSync,
	}
	leased, err := etcdstore.PutWrite(model.FelixStatusKey{Node: r.d.cfg.Node}, report)
	if err != nil {
		return err
	}
	last, err := etcdstore.PutWrite(model.FelixStatusKey{Node: r.d.cfg.Node, Last: true}, report)
	if err != nil {
		return err
	}
	setUp, err := etcdstore.ExistsWrite(model.ReadyKey{}) // the guard may not know yet of one that was emptied
	if err != nil {
		return err
	}
	if _, err := r.d.cfg.Etcd.Commit(ctx, setUp, leased.WithLease(r.lease), last); err != nil {
		r.lease = 0
		return err
	}
	return nil
}

// holdLease keeps a lease of the wanted length alive, or takes a new one.
func (r *reporter) holdLease(ctx context.Context, ttl time.Duration) error {
	if r.lease != 0 && r.ttl == ttl {
		if _, err := r.d.cfg.Etcd.Raw().KeepAliveOnce(ctx, r.lease); err == nil {
			return nil
		}
	}
	granted, err := r.d.cfg.Etcd.Lease(ctx, ttl)
	if err != nil {
		return fmt.Errorf("get a lease for the status key: %w", err)
	}
	r.lease, r.ttl = granted, ttl
	return nil
}

// unwritable says why a report could not be written: the first that felix, which only reads
// otherwise, learns of an etcd that refuses writes. A lost etcd is told of elsewhere.
func unwritable(err error) string {
	if err == nil || errors.Is(err, etcdstore.ErrUnavailable) {
		return ""
	}
	return err.Error()
}

// notice is what another goroutine has to tell the loop, for the status; empty when that is
// nothing.
type notice struct {
	mu   sync.Mutex
	text string
}

func (n *notice) set(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text = text
}

func (n *notice) get() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text
}

// revoke lets the status key vanish when felix ends.
func (r *reporter) revoke(ctx context.Context) {
	if r.lease == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, pollReports)
	defer cancel()
	_, _ = r.d.cfg.Etcd.Raw().Revoke(ctx, r.lease)
}

// endpoints writes the states of endpoints that changed, and takes away those of
// endpoints that are gone.
func (r *reporter) endpoints(ctx context.Context, cfg *config.Config, st *statusapi.State) error {
	wanted := map[model.WorkloadEndpointKey]string{}
	if cfg.EndpointReportingEnabled {
		for key, e := range st.Endpoints {
			wanted[key] = endpointStatus(e)
		}
	}
	for key, status := range wanted {
		if r.told[key] == status {
			continue
		}
		if _, _, err := r.d.cfg.Etcd.Apply(ctx, statusKey(key), &model.EndpointStatus{Status: status}); err != nil {
			return err
		}
		r.told[key] = status
	}
	for key := range r.told {
		if _, still := wanted[key]; still {
			continue
		}
		gone, err := etcdstore.DeleteWrite(statusKey(key), 0)
		if err != nil {
			return err
		}
		if _, err := r.d.cfg.Etcd.Commit(ctx, gone); err != nil {
			return err
		}
		delete(r.told, key)
	}
	return nil
}

func statusKey(k model.WorkloadEndpointKey) model.EndpointStatusKey {
	return model.EndpointStatusKey(k)
}

func endpointStatus(e statusapi.Endpoint) string {
	switch {
	case e.InForce() && e.Up:
		return model.EndpointUp
	case e.InForce():
		return model.EndpointDown
	}
	return model.EndpointError
}
