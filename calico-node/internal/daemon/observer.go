package daemon

import (
	"log/slog"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/calico-node/internal/judge"
	"calico.internal/calico-node/internal/reaper"
	"calico.internal/calico-node/internal/services"
	"calico.internal/libcalico/logattr"
)

// orphanLimit is how long a program whose runsv has died may take to end.
const orphanLimit = 5 * time.Second

// observer brings what runit and the programs say together.
type observer struct {
	dir    services.Dir
	log    *slog.Logger
	health *health.Server
	// moved is told of each change of a service, for the supervisor.
	moved chan struct{}

	mu    sync.Mutex
	judge *judge.Judge
	pids  map[string]int
	said  map[string]judge.State
	ready bool
	// ending says that the programs are ended, of which no more is to be said.
	ending bool
	// again looks at all once more when time alone changes something.
	again *time.Timer
}

func newObserver(dir services.Dir, s settings, log *slog.Logger) *observer {
	o := &observer{
		dir: dir, log: log, health: health.NewServer(), moved: make(chan struct{}, 1),
		judge: judge.New(s.programs, s.logs), pids: map[string]int{}, said: map[string]judge.State{},
	}
	o.health.SetServingStatus("", healthgrpc.HealthCheckResponse_NOT_SERVING)
	if s.pluginOnHost {
		o.judge.See(plugin, judge.Seen{OnHost: true, Since: time.Now()})
	}
	return o
}

// follow takes in what runit says of the services, until the watch is closed.
func (o *observer) follow(w *services.Watch, programs []string) {
	for _, name := range programs {
		o.look(name)
	}
	for name := range w.Changed {
		o.look(name)
		select {
		case o.moved <- struct{}{}:
		default:
		}
	}
}

// look takes in how a service is.
func (o *observer) look(name string) {
	svc, err := o.dir.Read(name)
	if err != nil {
		o.log.Error("state of a service", logattr.Program, name, logattr.Err, err)
		return
	}
	seen := judge.Seen{
		Running: svc.State == services.Running, PID: svc.PID, Since: svc.Since, Wanted: svc.Wanted, Supervised: svc.Supervised,
	}
	if e := svc.Last; e != nil {
		seen.Last = &judge.Exit{Code: e.Code, Signal: e.Signal, At: e.At}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.pids[name]
	if seen.Running {
		o.pids[name] = seen.PID
		if before != 0 && before != seen.PID && reaper.Inherited(before) {
			go o.endOrphan(name, before)
		}
	}
	o.judge.See(name, seen)
	o.sum()
}

// endOrphan ends a program that has lost its runsv, so that the one that the next runsv has
// started can take its place.
func (o *observer) endOrphan(name string, pid int) {
	o.log.Warn("ended, since its runsv has died and another has started it anew", logattr.Program, name, logattr.PID, pid)
	_ = syscall.Kill(pid, syscall.SIGTERM)
	tick := time.NewTicker(look)
	defer tick.Stop()
	for begun := time.Now(); time.Since(begun) < orphanLimit; <-tick.C {
		if !reaper.Inherited(pid) {
			return
		}
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

// end notes that the programs are ended.
func (o *observer) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ending = true
}

// hear takes in what a program says of itself.
func (o *observer) hear(name string, h judge.Health) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.judge.Hear(name, h)
	o.sum()
}

// sum says what has changed, and looks again when time will change something.
func (o *observer) sum() {
	now := time.Now()
	ready := true
	for _, p := range o.judge.Programs(now) {
		ready = ready && p.State == judge.Ready
		if p.State != o.said[p.Name] && !o.ending {
			o.log.Info("program", logattr.Program, p.Name, logattr.State, p.State, logattr.Why, p.Why)
			o.said[p.Name] = p.State
		}
	}
	if ready != o.ready {
		o.ready = ready
		o.health.SetServingStatus("", serving(ready))
	}
	if o.again != nil {
		o.again.Stop()
	}
	if next := o.judge.Next(now); !next.IsZero() {
		o.again = time.AfterFunc(next.Sub(now), func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.sum()
		})
	}
}

func serving(ready bool) healthgrpc.HealthCheckResponse_ServingStatus {
	if ready {
		return healthgrpc.HealthCheckResponse_SERVING
	}
	return healthgrpc.HealthCheckResponse_NOT_SERVING
}

// programs is how all programs are.
func (o *observer) programs() []judge.Program {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.judge.Programs(time.Now())
}

// isReady is whether all programs are.
func (o *observer) isReady() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ready
}
