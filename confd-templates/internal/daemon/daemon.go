// Package daemon wires confd together: etcd, the values, the template engine, and the loop that keeps the files.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/confd-templates/internal/backend"
	"calico.internal/confd-templates/internal/command"
	"calico.internal/confd-templates/internal/drift"
	"calico.internal/confd-templates/internal/expect"
	"calico.internal/confd-templates/internal/loop"
	"calico.internal/confd-templates/internal/options"
	"calico.internal/confd-templates/internal/render"
	"calico.internal/confd-templates/internal/resource"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/history"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/liveness"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nodename"
)

const (
	// A burst of changes makes one file: what comes within quiet is waited for, but no longer than limit.
	quiet = 20 * time.Millisecond
	limit = 200 * time.Millisecond
	// audit is how often files are looked at in watch mode though nothing is known to have changed.
	audit = 30 * time.Second
	// patience is how long -onetime waits for all values.
	patience = 30 * time.Second
)

// daemon is confd with all its parts.
type daemon struct {
	options   options.Options
	logger    *slog.Logger
	node      string
	resources []resource.Resource
	etcd      *etcdstore.Client
	guard     *etcdstore.Guard
	prefixes  []string
	values    *backend.Store
	engine    *render.Engine
	loop      *loop.Loop
	health    *health.Server
	// held has room for the reason why etcd is not followed.
	held chan error

	// filesReady says that all files are as they must be; ready also that etcd is followed.
	readyMu    sync.Mutex
	filesReady bool
	ready      atomic.Bool
}

// Run does what the options ask for: all files once, or until ctx ends.
func Run(ctx context.Context, o options.Options, logger *slog.Logger) (err error) {
	d, err := newDaemon(ctx, o, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if o.OneTime {
		return d.once(ctx)
	}
	return d.keep(ctx)
}

func newDaemon(ctx context.Context, o options.Options, logger *slog.Logger) (*daemon, error) {
	d := &daemon{options: o, logger: logger, health: health.NewServer(), held: make(chan error, 1)}
	d.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if err := d.load(); err != nil {
		return nil, err
	}
	keyring, err := readKeyring(o.SecretKeyring)
	if err != nil {
		return nil, err
	}
	if d.etcd, err = etcdstore.New(o.Etcd); err != nil {
		return nil, err
	}
	record, _, err := hostrecord.Read(o.StateDir)
	if err != nil {
		logger.Warn("this host does not know which cluster it belongs to", logattr.Err, err)
	}
	d.guard = d.etcd.Guard(record.ClusterGUID, logger)
	d.engine, err = render.New(render.Config{
		ConfDir: o.ConfDir, StoreClient: d.values, PGPPrivateKey: keyring, Debug: logger.Enabled(ctx, slog.LevelDebug),
	}, d.resources)
	if err != nil {
		return nil, errors.Join(err, d.etcd.Close())
	}
	d.loop = loop.New(loop.Config{
		Resources: d.resources, Renderer: d.engine, Command: command.Run, CommandTimeout: o.CommandTimeout, Audit: d.auditInterval(),
		Noop: o.Noop, SyncOnly: o.SyncOnly, KeepStageFile: o.KeepStageFile, Logger: logger, OnStatus: d.setFilesReady,
	})
	return d, nil
}

// load reads the template resources, and tells templates the name of this host.
func (d *daemon) load() error {
	resources, warnings, err := resource.Load(d.options.ConfDir, d.options.Prefix)
	for _, warning := range append(d.options.Warnings, warnings...) {
		d.logger.Warn("unknown setting is not read", "setting", warning)
	}
	if err != nil {
		return err
	}
	d.resources = resources
	if d.node, err = nodename.Resolve(d.options.NodeName, os.Getenv); err != nil {
		return err
	}
	if err := os.Setenv("NODENAME", d.node); err != nil {
		return err
	}
	var keys []string
	var rules expect.Rules
	for _, r := range resources {
		keys = append(keys, r.Paths()...)
		rules = append(rules, r.Rules()...)
		if err := render.Sweep(r); err != nil {
			return err
		}
	}
	d.prefixes = backend.Prefixes(keys)
	d.values = backend.New(d.prefixes, rules, d.logger)
	return nil
}

func readKeyring(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	keyring, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("-secret-keyring: %w", err)
	}
	return keyring, nil
}

// auditInterval is -interval, but no more than audit in watch mode: there it only has to find what no event told of.
func (d *daemon) auditInterval() time.Duration {
	if d.options.Watch {
		return min(d.options.Interval, audit)
	}
	return d.options.Interval
}

func (d *daemon) close() error { return errors.Join(d.engine.Close(), d.etcd.Close()) }

// setFilesReady says whether all files are as they must be.
func (d *daemon) setFilesReady(ready bool) {
	d.readyMu.Lock()
	defer d.readyMu.Unlock()
	d.filesReady = ready
	d.tellReady()
}

// tellReady says to others whether confd is ready. readyMu is held.
func (d *daemon) tellReady() {
	ready := d.filesReady && d.values.Held() == nil
	status := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if ready {
		status = grpc_health_v1.HealthCheckResponse_SERVING
	}
	d.ready.Store(ready)
	d.health.SetServingStatus("", status)
}

// follow takes over what etcd holds below a prefix, until ctx ends.
func (d *daemon) follow(ctx context.Context, prefix string) {
	for b := range d.guard.Watch(ctx, []string{prefix}, etcdstore.WatchOptions{WentBack: history.New(d.etcd, d.node).Watch()}) {
		d.values.Apply(prefix, b)
		d.readyMu.Lock()
		d.tellReady()
		d.readyMu.Unlock()
		if b.Held != nil {
			select {
			case d.held <- b.Held:
			default:
			}
		}
	}
}

// once reads the values and makes all files.
func (d *daemon) once(ctx context.Context) error {
	// Asked first, because a watch would wait for etcd in silence.
	if err := d.etcd.Ping(ctx); err != nil {
		return err
	}
	watching, stop := context.WithTimeout(ctx, patience)
	defer stop()
	for _, prefix := range d.prefixes {
		go d.follow(watching, prefix)
	}
	select {
	case <-d.values.Synced():
		return d.loop.Once(ctx)
	case err := <-d.held:
		return err
	case <-watching.Done():
		return fmt.Errorf("%s did not send all values within %s", d.etcd.Endpoints(), patience)
	}
}

// keep makes the files again whenever a value changes, until ctx ends.
func (d *daemon) keep(ctx context.Context) error {
	tasks, ctx := errgroup.WithContext(ctx)
	for _, prefix := range d.prefixes {
		tasks.Go(func() error {
			d.follow(ctx, prefix)
			return nil
		})
	}
	tasks.Go(func() error {
		return grpcsock.Serve(ctx, filepath.Join(d.options.RunDir, "confd.sock"), d.health, nil)
	})
	tasks.Go(func() error {
		return liveness.Run(ctx, d.etcd, liveness.Program{
			Node: d.node, Name: "confd", Host: d.identity(), Ready: d.ready.Load, Ours: d.guard.Follows, Log: d.logger,
		})
	})
	tasks.Go(func() error { return d.keepFiles(ctx) })
	d.logger.Info("confd started", logattr.Node, d.node, logattr.Dir, d.options.ConfDir, logattr.Endpoints, d.etcd.Endpoints())
	err := tasks.Wait()
	d.logger.Info("confd stopped")
	return err
}

// identity is which host this is.
func (d *daemon) identity() model.Identity {
	host, err := hostrecord.Identity(d.options.StateDir, os.Getenv)
	if err != nil {
		d.logger.Warn("this host has no identity: another one of the same name is not noticed", logattr.Err, err)
	}
	return host
}

// keepFiles runs the loop once the values are there.
func (d *daemon) keepFiles(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.values.Synced():
	}
	d.logger.Info("all values are read")
	if !d.options.Watch {
		d.loop.Run(ctx, nil)
		return nil
	}
	drifted, err := d.watchFiles(ctx)
	if err != nil {
		return err
	}
	d.loop.Run(ctx, loop.Coalesce(ctx, merge(ctx, d.values.Changed(), drifted), quiet, limit))
	return nil
}

// watchFiles signals when somebody else changes a file. A watch needs the folders, so they are made.
func (d *daemon) watchFiles(ctx context.Context) (<-chan struct{}, error) {
	var files []string
	for _, r := range d.resources {
		if err := os.MkdirAll(filepath.Dir(r.Dest), 0o755); err != nil {
			return nil, fmt.Errorf("folder of %s: %w", r.Dest, err)
		}
		files = append(files, r.Dest)
	}
	return drift.Watch(ctx, d.logger, files)
}

// merge passes on the signals of both channels.
func merge(ctx context.Context, a, b <-chan struct{}) <-chan struct{} {
	both := make(chan struct{})
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-a:
			case <-b:
			}
			select {
			case both <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return both
}
