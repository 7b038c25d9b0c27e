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
	changes   *prometheus.CounterVec
}

func newMetrics(board *statusapi.Board) *metrics {
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
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "felix_kernel_changes_total", Help: "Number of objects of one kind that were written (set) or removed (deleted).",
		}, []string{"table", "change"}),
	}
	m.registry.MustRegister(
		m.applyTime, m.failures, m.partial, m.changes, stateMetrics{board},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
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

// table has the counts of a table begin at 0.
func (m *metrics) table(name string) {
	m.changes.WithLabelValues(name, "set")
	m.changes.WithLabelValues(name, "deleted")
}

// changed counts what a pass wrote to a table.
func (m *metrics) changed(table string, set, deleted int) {
	if set > 0 {
		m.changes.WithLabelValues(table, "set").Add(float64(set))
	}
	if deleted > 0 {
		m.changes.WithLabelValues(table, "deleted").Add(float64(deleted))
	}
}

// stateMetrics are the figures of the last posted state, taken when somebody asks for them.
type stateMetrics struct{ board *statusapi.Board }

// figure is one number of a state.
type figure struct {
	desc *prometheus.Desc
	of   func(*statusapi.State) float64
}

var figures = func() []figure {
	one := func(name, help string, of func(*statusapi.State) float64) figure {
		return figure{prometheus.NewDesc(name, help, nil, nil), of}
	}
	return []figure{
		one("felix_active_local_endpoints", "Number of workload endpoints of this host.",
			func(st *statusapi.State) float64 { return float64(len(st.Endpoints)) }),
		one("felix_active_local_policies", "Number of policies that apply on this host.",
			func(st *statusapi.State) float64 { return float64(st.Policies) }),
		one("felix_active_local_profiles", "Number of profiles that apply on this host.",
			func(st *statusapi.State) float64 { return float64(st.Profiles) }),
		one("felix_ipsets_calico", "Number of IP sets of felix.",
			func(st *statusapi.State) float64 { return float64(st.Table(setsTable).Actual) }),
		one("felix_endpoints_not_in_force", "Number of workload endpoints that are not in force.",
			func(st *statusapi.State) float64 { return float64(st.NotInForce) }),
		one("felix_problems", "Number of objects that are not as written in the store, or not in the kernel.",
			func(st *statusapi.State) float64 { return float64(len(st.Problems)) }),
		one("felix_resync_state", "State of the datastore: 1 waiting, 2 reading, 3 in sync.", resyncState),
		one("felix_datastore_connected", "Whether the datastore answers.",
			func(st *statusapi.State) float64 { return number(st.Connected) }),
		one("felix_datastore_revision_seen", "Revision of the datastore that felix has read.",
			func(st *statusapi.State) float64 { return float64(st.Seen) }),
		one("felix_datastore_revision_applied", "Revision of the datastore whose state is in the kernel.",
			func(st *statusapi.State) float64 { return float64(st.Revision) }),
	}
}()

var objectsDesc = prometheus.NewDesc("felix_kernel_objects",
	"Number of objects of one kind, by state: desired, actual, pending, failed.", []string{"table", "state"}, nil)

var listsDesc = prometheus.NewDesc("felix_kernel_lists_total",
	"Number of times that all objects of one kind were read from the kernel.", []string{"table"}, nil)

// Describe lists the figures.
func (s stateMetrics) Describe(descs chan<- *prometheus.Desc) {
	for _, f := range figures {
		descs <- f.desc
	}
	descs <- objectsDesc
	descs <- listsDesc
}

// Collect gives the figures of the last posted state.
func (s stateMetrics) Collect(out chan<- prometheus.Metric) {
	st, _ := s.board.State()
	for _, f := range figures {
		out <- prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, f.of(st))
	}
	for _, t := range st.Tables {
		for state, n := range map[string]int{"desired": t.Desired, "actual": t.Actual, "pending": t.Pending, "failed": len(t.Failed)} {
			out <- prometheus.MustNewConstMetric(objectsDesc, prometheus.GaugeValue, float64(n), t.Name, state)
		}
		out <- prometheus.MustNewConstMetric(listsDesc, prometheus.CounterValue, float64(t.Lists), t.Name)
	}
}

func resyncState(st *statusapi.State) float64 {
	switch {
	case st.InSync:
		return 3
	case st.Connected:
		return 2
	}
	return 1
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
