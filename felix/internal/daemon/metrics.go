package daemon

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"calico.internal/felix/internal/statusapi"
	"calico.internal/libcalico/reconcile"
)

// metrics are felix's figures for Prometheus, under the names of the original where it
// has them.
type metrics struct {
	registry  *prometheus.Registry
	applyTime prometheus.Histogram
	failures  prometheus.Counter
	partial   prometheus.Counter

	endpoints, policies, profiles, sets prometheus.Gauge
	notInForce, problems                prometheus.Gauge
	resyncState, connected              prometheus.Gauge
	seen, applied                       prometheus.Gauge
	objects                             *prometheus.GaugeVec
	changes                             *prometheus.CounterVec
}

func newMetrics() *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		applyTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "felix_int_dataplane_apply_time_seconds", Help: "Time that one pass over the kernel's tables took.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18),
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "felix_int_dataplane_failures", Help: "Number of passes that failed and will be tried again.",
		}),
		partial: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "felix_int_dataplane_object_failures", Help: "Number of passes in which the kernel refused single objects.",
		}),
		endpoints:   gauge("felix_active_local_endpoints", "Number of workload endpoints of this host."),
		policies:    gauge("felix_active_local_policies", "Number of policies that apply on this host."),
		profiles:    gauge("felix_active_local_profiles", "Number of profiles that apply on this host."),
		sets:        gauge("felix_ipsets_calico", "Number of IP sets of felix."),
		notInForce:  gauge("felix_endpoints_not_in_force", "Number of workload endpoints that are not in force."),
		problems:    gauge("felix_problems", "Number of objects that are not as written in the store, or not in the kernel."),
		resyncState: gauge("felix_resync_state", "State of the datastore: 1 waiting, 2 reading, 3 in sync."),
		connected:   gauge("felix_datastore_connected", "Whether the datastore answers."),
		seen:        gauge("felix_datastore_revision_seen", "Revision of the datastore that felix has read."),
		applied:     gauge("felix_datastore_revision_applied", "Revision of the datastore whose state is in the kernel."),
		objects: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "felix_kernel_objects", Help: "Number of objects of one kind, by state: desired, actual, pending, failed.",
		}, []string{"table", "state"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "felix_kernel_changes_total", Help: "Number of objects of one kind that were written (set) or removed (deleted).",
		}, []string{"table", "change"}),
	}
	m.registry.MustRegister(
		m.applyTime, m.failures, m.partial, m.endpoints, m.policies, m.profiles, m.sets, m.notInForce, m.problems,
		m.resyncState, m.connected, m.seen, m.applied, m.objects, m.changes,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.resyncState.Set(1)
	return m
}

func (m *metrics) pass(took time.Duration, err error) {
	m.applyTime.Observe(took.Seconds())
	switch {
	case err == nil:
	case reconcile.IsPartial(err):
		m.partial.Inc()
	default:
		m.failures.Inc()
	}
}

// changed counts what a pass wrote to a table.
func (m *metrics) changed(table string, set, deleted int) {
	m.changes.WithLabelValues(table, "set").Add(float64(set))
	m.changes.WithLabelValues(table, "deleted").Add(float64(deleted))
}

// state takes over the figures of a posted state.
func (m *metrics) state(st *statusapi.State, d *dataplane) {
	m.connected.Set(number(st.Connected))
	m.seen.Set(float64(st.Seen))
	m.applied.Set(float64(st.Revision))
	m.problems.Set(float64(len(st.Problems)))
	switch {
	case st.InSync:
		m.resyncState.Set(3)
	case st.Connected:
		m.resyncState.Set(2)
	default:
		m.resyncState.Set(1)
	}
	if d == nil {
		return
	}
	m.endpoints.Set(float64(len(st.Endpoints)))
	m.policies.Set(float64(len(d.policies)))
	m.profiles.Set(float64(len(d.profiles)))
	m.notInForce.Set(float64(len(d.workloads.dirty)))
	for _, t := range st.Tables {
		if t.Name == d.sets.Name() {
			m.sets.Set(float64(t.Actual))
		}
		m.objects.WithLabelValues(t.Name, "desired").Set(float64(t.Desired))
		m.objects.WithLabelValues(t.Name, "actual").Set(float64(t.Actual))
		m.objects.WithLabelValues(t.Name, "pending").Set(float64(t.Pending))
		m.objects.WithLabelValues(t.Name, "failed").Set(float64(len(t.Failed)))
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
