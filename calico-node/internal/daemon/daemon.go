// Package daemon is calico-node: process 1 of the container. It finds out who this host is, has
// runit run the programs, watches over them, tells others, and ends them in order (wiring).
package daemon

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"calico.internal/calico-node/internal/health"
	"calico.internal/calico-node/internal/judge"
	"calico.internal/calico-node/internal/reaper"
	"calico.internal/calico-node/internal/services"
	"calico.internal/calico-node/internal/statusapi"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/liveness"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/nodestart"
	"calico.internal/libcalico/trust"
	"calico.internal/libcalico/version"
	nodev1 "calico.internal/proto/node/v1"
)

// Config is the world around calico-node.
type Config struct {
	Getenv  func(string) string
	Environ []string
	// Out gets what users of the container read, Log the rest.
	Out io.Writer
	Log *slog.Logger
	// RunDir is the directory of sockets, StateDir that of what the host remembers, LogDir that of
	// the programs' logs.
	RunDir, StateDir, LogDir string
	// Available holds the services that there are, Enabled gets those that run.
	Available, Enabled string
}

// closing is how long what tells others may take to end.
const closing = 1200 * time.Millisecond

// daemon is the parts of calico-node.
type daemon struct {
	cfg      Config
	log      *slog.Logger
	started  time.Time
	settings settings
	start    nodestart.Config
	etcd     *etcd
	dir      services.Dir
	observer *observer
	tasks    sync.WaitGroup

	mu      sync.Mutex
	startup startup
}

// Run is calico-node until a signal comes, and then ends all programs in order. An error says
// why the host is no node.
func Run(cfg Config, signals <-chan os.Signal) error {
	d, err := build(cfg)
	if err != nil {
		return err
	}
	children, err := reaper.New()
	if err != nil {
		return err
	}
	reaping, done := context.WithCancel(context.Background())
	defer done()
	go children.Run(reaping)

	ctx, cancel := context.WithCancel(reaping)
	defer d.close(cancel)
	d.tasks.Go(func() { d.serve(ctx) })
	if signalled, err := d.beginUnless(ctx, signals); signalled || err != nil {
		return err
	}
	return d.keep(ctx, children, signals, cancel)
}

func build(cfg Config) (*daemon, error) {
	d := &daemon{cfg: cfg, log: cfg.Log, started: time.Now(), dir: services.Dir(cfg.Enabled)}
	var err error
	if d.settings, err = readSettings(cfg.Getenv); err != nil {
		return nil, err
	}
	d.start = nodestart.Config{
		Getenv: cfg.Getenv, Out: cfg.Out, Version: version.Version, RunDir: cfg.RunDir, LogDir: cfg.LogDir, StateDir: cfg.StateDir,
		Running: localnet.Running, Supervisor: program, NoWait: true, // it waits itself, and starts from the record meanwhile
	}
	if d.start.Store, err = etcdstore.ConfigFromEnv(cfg.Getenv); err != nil {
		return nil, err
	}
	store, err := etcdstore.New(d.start.Store)
	if err != nil {
		return nil, err
	}
	d.etcd = &etcd{store: store, lost: make(chan struct{}, 1)}
	d.observer = newObserver(d.dir, d.settings, d.log)
	for _, dir := range []string{cfg.RunDir, cfg.LogDir} { // node.sock is served before the start-up
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// beginUnless begins, unless a signal comes before it is done.
func (d *daemon) beginUnless(ctx context.Context, signals <-chan os.Signal) (signalled bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begun := make(chan error, 1)
	go func() { begun <- d.begin(ctx) }()
	select {
	case err := <-begun:
		return false, err
	case <-signals:
		cancel()
		<-begun
		return true, nil
	}
}

// keep runs the programs until a signal comes. Those that tell others end while the programs
// do.
func (d *daemon) keep(ctx context.Context, children *reaper.Reaper, signals <-chan os.Signal, cancel func()) error {
	own := d.settings.own()
	if err := d.dir.Lay(d.cfg.Available, own, d.settings.files); err != nil {
		return err
	}
	watch, err := d.dir.Watch(own)
	if err != nil {
		return err
	}
	var watching sync.WaitGroup
	watching.Go(func() { d.observer.follow(watch, own) })
	defer watching.Wait()
	defer watch.Close()
	d.settings.announce(d.cfg.Out)
	d.tell(ctx)
	s := &supervisor{
		dir: d.dir, programs: own, env: d.environ(), reaper: children, log: d.log,
		changed: d.observer.moved, ending: func() { d.observer.end(); cancel() },
	}
	return s.run(signals)
}

// environ is the environment of the programs.
func (d *daemon) environ() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	env := make([]string, 0, len(d.cfg.Environ)+1)
	for _, v := range d.cfg.Environ {
		if !strings.HasPrefix(v, "NODENAME=") {
			env = append(env, v)
		}
	}
	return append(env, "NODENAME="+d.startup.name)
}

// tell listens to the programs and lets others know, until ctx ends.
func (d *daemon) tell(ctx context.Context) {
	for _, name := range d.settings.programs {
		d.tasks.Go(func() {
			if err := health.Follow(ctx, d.cfg.RunDir, name, d.observer.hear); err != nil {
				d.log.Error("listen to a program", logattr.Program, name, logattr.Err, err)
			}
		})
	}
	d.tasks.Go(func() {
		d.makeUp(ctx)
		d.tasks.Go(func() { d.followAddresses(ctx) })
		d.etcd.run(ctx)
	})
	d.tasks.Go(func() {
		if err := d.live(ctx); err != nil {
			d.log.Error("tell etcd that this program lives", logattr.Err, err)
		}
	})
}

// live keeps the liveness key while the store is this cluster's.
func (d *daemon) live(ctx context.Context) error {
	who := d.who()
	guard := d.etcd.store.Guard(who.clusterGUID, d.log)
	// The guard judges by what its own watches see.
	d.tasks.Go(func() {
		for b := range guard.Watch(ctx, trust.Paths(), etcdstore.WatchOptions{}) {
			d.etcd.hear(b.Err)
		}
	})
	host, err := hostrecord.Identity(d.cfg.StateDir, d.cfg.Getenv)
	if err != nil {
		d.log.Warn("this host has no identity: another one of the same name is not noticed", logattr.Err, err)
	}
	return liveness.Run(ctx, d.etcd.store, liveness.Program{
		Node: who.name, Name: program, Host: host, Ready: d.observer.isReady, Ours: guard.Follows, Log: d.log,
	})
}

// serve serves node.sock until ctx ends. Without it this host's status is not known; that is
// no reason to stop its programs.
func (d *daemon) serve(ctx context.Context) {
	api := statusapi.New(d.cfg.RunDir, d.snapshot)
	err := grpcsock.Serve(ctx, filepath.Join(d.cfg.RunDir, "node.sock"), d.observer.health, func(s *grpc.Server) {
		nodev1.RegisterNodeServer(s, api)
	})
	if err != nil {
		d.log.Error("status is not served", logattr.Err, err)
	}
}

// snapshot is what is known at the moment.
func (d *daemon) snapshot() statusapi.Snapshot {
	connected, since, why := d.etcd.state()
	programs := d.observer.programs()
	d.quoteLastWords(programs)
	d.mu.Lock()
	defer d.mu.Unlock()
	s := statusapi.Snapshot{
		Node: d.startup.name, Version: version.Version, Started: d.started, ID: d.startup.Host.ID, Boot: d.startup.Host.Boot,
		Addresses: addresses(d.startup.Outcome),
		Backend:   d.settings.backend, Endpoints: d.etcd.store.Endpoints(),
		Host: judge.Node{
			StartedUp: d.startup.done, FromRecord: d.startup.fromRecord, Held: d.startup.Held, StartupWhy: d.startup.why,
			Connected: connected, Since: since, Why: why,
		},
		Programs: append(programs, judge.Program{
			Name: program, Wanted: true, State: judge.Ready, PID: os.Getpid(), Since: d.started, Answers: true,
		}),
	}
	return s
}

// close ends what tells others, and waits for it, but not for long.
func (d *daemon) close(cancel func()) {
	cancel()
	ended := make(chan struct{})
	go func() {
		d.tasks.Wait()
		close(ended)
	}()
	t := time.NewTimer(closing)
	defer t.Stop()
	select {
	case <-ended:
		_ = d.etcd.store.Close()
	case <-t.C:
	}
}
