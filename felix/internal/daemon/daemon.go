package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/felix/internal/config"
	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/statusapi"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/history"
	"calico.internal/libcalico/liveness"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
	"calico.internal/libcalico/version"
	felixv1 "calico.internal/proto/felix/v1"
)

// program is felix's name in liveness keys and sockets.
const program = "felix"

// Config is what the daemon needs to start.
type Config struct {
	// Node is the name of this host in the store.
	Node string
	// RunDir is where the socket is made.
	RunDir string
	// Environment and File are the parameters from there; those of the store are read
	// when it answers.
	Environment, File map[string]string
	Etcd              *etcdstore.Client
	// ClusterGUID is the id of the cluster that this host belongs to, as it remembers; empty
	// when it does not.
	ClusterGUID string
	// Host is which host this is, as its liveness key says; zero when it does not know.
	Host model.Identity
	Log  *slog.Logger
	// Level, when not nil, follows the parameter LogSeverityScreen.
	Level *slog.LevelVar
}

// Daemon is felix.
type Daemon struct {
	cfg     Config
	log     *slog.Logger
	started time.Time
	local   *config.Config
	board   *statusapi.Board
	health  *health.Server
	metrics *metrics
	beat    *heartbeat
	live    *live
	// unreported is why the status of this host cannot be written into etcd, and unlocated what
	// of the control plane is not found.
	unreported, unlocated *notice
	guard                 *etcdstore.Guard
	// view is what is known of the store. It outlives the loop, to which it belongs: what a
	// restored store lacks cannot be read anew.
	view *store.View
	// control is where the control plane is, nil until that is known, and keeping what is
	// known of what a restored store lacks. They outlive the loop, too.
	control *controlPlane
	keeping *keeping
	history *history.Counter
}

// New checks the local configuration. It touches nothing.
func New(cfg Config) (*Daemon, error) {
	result, err := config.Resolve(config.Sources{Environment: cfg.Environment, File: cfg.File})
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if result.Config.Dataplane == "nftables" {
		return nil, errors.New("dataplane nftables: not built yet; set Dataplane to auto or iptables")
	}
	for _, w := range result.Warnings {
		cfg.Log.Warn("configuration", "warning", w)
	}
	d := &Daemon{
		cfg: cfg, log: cfg.Log, started: time.Now(), local: &result.Config,
		health: health.NewServer(), beat: &heartbeat{}, live: newLive(&result.Config), unreported: &notice{}, unlocated: &notice{},
		guard:   cfg.Etcd.Guard(cfg.ClusterGUID, cfg.Log),
		view:    store.New(store.Options{Filter: wanted(cfg.Node), KeepLastGood: true, Facts: facts}),
		history: history.New(cfg.Etcd, cfg.Node), keeping: newKeeping(cfg.Etcd),
	}
	d.health.SetServingStatus("", healthgrpc.HealthCheckResponse_NOT_SERVING)
	d.board = statusapi.NewBoard(statusapi.State{Node: cfg.Node, Version: version.String(), Started: d.started})
	d.metrics = newMetrics(d.board)
	setLevel(cfg.Level, result.Config.LogSeverityScreen)
	return d, nil
}

// Run works until the context ends, and leaves everything in the kernel as it is then.
func (d *Daemon) Run(ctx context.Context) error {
	if err := preflight(); err != nil {
		return err
	}
	setGCPercent(startGCPercent)
	g, ctx := errgroup.WithContext(ctx)
	socket := filepath.Join(d.cfg.RunDir, program+".sock")
	g.Go(func() error {
		return grpcsock.Serve(ctx, socket, d.health, func(s *grpc.Server) {
			felixv1.RegisterFelixServer(s, statusapi.NewServer(d.board))
		})
	})
	g.Go(func() error {
		// Whoever has the socket is this host's felix; nobody else touches the kernel.
		if err := d.awaitSocket(ctx, socket); err != nil {
			return err
		}
		d.log.Info("started", "node", d.cfg.Node, "version", version.String())
		return d.runLoops(ctx)
	})
	g.Go(func() error { return d.followHealth(ctx) })
	g.Go(func() error { return (&servers{d: d}).run(ctx) })
	g.Go(func() error { return (&reporter{d: d}).run(ctx) })
	g.Go(func() error {
		return d.history.Run(ctx, history.MinGap, d.guard.Follows, func(err error) { d.log.Warn("history not counted", logattr.Err, err) })
	})
	g.Go(func() error {
		return liveness.Run(ctx, d.cfg.Etcd, liveness.Program{
			Node: d.cfg.Node, Name: program, Host: d.cfg.Host, Log: d.log, Ours: d.guard.Follows,
			Ready: func() bool {
				ready, _ := d.board.Ready()
				return ready
			},
		})
	})
	return g.Wait()
}

// awaitSocket waits until the socket answers as this process.
func (d *Daemon) awaitSocket(ctx context.Context, path string) error {
	conn, err := grpcsock.Dial(path)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	for {
		st, err := felixv1.NewFelixClient(conn).Status(ctx, &felixv1.StatusRequest{}, grpc.WaitForReady(true))
		if err == nil && st.GetStarted().AsTime().Equal(d.started) {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// runLoops runs the loop, and again each time that a parameter changes which is read at
// start only.
func (d *Daemon) runLoops(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	batches := d.guard.Watch(ctx, []string{model.PrefixV1}, etcdstore.WatchOptions{WentBack: d.history.Watch()})
	found := make(chan controlPlane)
	g.Go(func() error { return newLocator(d, found).run(ctx) })
	g.Go(func() error {
		for ctx.Err() == nil {
			if err := d.runLoop(ctx, batches, found); !errors.Is(err, errRestart) {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

func (d *Daemon) runLoop(ctx context.Context, batches <-chan store.Batch, found <-chan controlPlane) error {
	monitor, err := ifmonitor.New()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	events := make(chan ifmonitor.Event, 64)
	g.Go(func() error { return monitor.Run(ctx, events) })
	g.Go(func() error {
		cfg := *d.local
		l := newLoop(d, &cfg)
		l.found = found
		defer func() { d.control = l.control }()
		return l.run(ctx, batches, events)
	})
	return g.Wait()
}

// followHealth makes the gRPC health service say what readiness is.
func (d *Daemon) followHealth(ctx context.Context) error {
	for {
		ready, changed := d.board.Ready()
		serving := healthgrpc.HealthCheckResponse_NOT_SERVING
		if ready {
			serving = healthgrpc.HealthCheckResponse_SERVING
		}
		d.health.SetServingStatus("", serving)
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
