// Package daemon wires bgpd together: it makes the edges, owns the one goroutine in
// which everything is decided, and ends when its context does, leaving the kernel's
// routes and the peers' sessions to look after themselves.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"calico.internal/bgpd/internal/statusapi"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/history"
	"calico.internal/libcalico/liveness"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/reconcile"
	"calico.internal/libcalico/version"
)

// program is the name of the liveness key.
const program = "bgpd"

const (
	// audit is how often everything in the kernel and in GoBGP is compared.
	audit = 5 * time.Minute
	// minGap is the least time between two passes, so that a burst makes few of them.
	minGap = 2 * time.Millisecond
	// maxBackoff bounds the wait after a pass that failed.
	maxBackoff = 5 * time.Second
)

// Config is what a daemon needs.
type Config struct {
	// File is the configuration document; RunDir holds the sockets, StateDir what this host
	// remembers.
	File, RunDir, StateDir string
	// Node is this host's name in etcd.
	Node string
	Etcd etcdstore.Config
	// ClusterGUID is the id of the cluster that this host belongs to, as it remembers; empty
	// when it does not.
	ClusterGUID string
	// Host is which host this is, as its liveness key says; zero when it does not know.
	Host model.Identity
	Log  *slog.Logger
	// Level is the level of Log, which the document sets.
	Level *slog.LevelVar
	// Hangup asks to read File again, as operators of BIRD do by SIGHUP; nil is never.
	Hangup <-chan os.Signal
}

// Run runs bgpd until ctx ends, or something fails that a new start may mend.
func Run(ctx context.Context, cfg Config) error {
	client, err := etcdstore.New(cfg.Etcd)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	defer func() { _ = client.Close() }()

	tasks, ctx := errgroup.WithContext(ctx)
	guard := client.Guard(cfg.ClusterGUID, cfg.Log)
	c := newCore(cfg, guard, history.New(client, cfg.Node), tasks)
	server := statusapi.New(c)
	c.onReady = server.SetReady

	tasks.Go(func() error { return server.Serve(ctx, filepath.Join(cfg.RunDir, statusapi.Socket)) })
	tasks.Go(func() error {
		return liveness.Run(ctx, client, liveness.Program{
			Node: cfg.Node, Name: program, Host: cfg.Host, Ready: c.ready.Load, Ours: guard.Follows, Log: cfg.Log,
		})
	})
	for _, s := range c.sources {
		tasks.Go(func() error { return s.follow(ctx, c, c.onBatch) })
	}
	tasks.Go(func() error { return followFile(ctx, cfg.File, cfg.Log, c.onFile) })
	tasks.Go(func() error { return c.followHangup(ctx) })
	tasks.Go(func() error { return c.followEtcd(ctx) })
	tasks.Go(func() error { return c.keeper.Run(ctx, c.collect) })
	tasks.Go(func() error { return c.run(ctx) })
	cfg.Log.Info("started", logattr.Version, version.String(), logattr.Node, cfg.Node, logattr.File, cfg.File)
	return tasks.Wait()
}

// followHangup reads the configuration at each signal.
func (c *core) followHangup(ctx context.Context) error {
	for {
		select {
		case <-c.cfg.Hangup:
			c.onFile(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// run is the one goroutine.
func (c *core) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.end = cancel
	err := reconcile.Run(ctx, reconcile.Ordered{c.pipeline}, reconcile.Loop{
		Kick:       c.kick,
		Resync:     audit,
		MinGap:     minGap,
		MaxBackoff: maxBackoff,
		Prepare:    c.prepare,
		Done:       c.done,
	})
	c.stopTimer()
	c.keeper.Finish(c.collectLast)
	if c.speaker != nil {
		for _, socket := range c.gobgpSockets() {
			_ = os.Remove(socket)
		}
	}
	return errors.Join(c.fatal, err)
}

// prefixesOf lists what is watched in etcd: this host's blocks, everybody's addresses,
// and this host's containers. Each is a watch of its own, because one over all of them
// would bring every endpoint of every host.
func prefixesOf(node string) []string {
	return []string{
		blocksOf(node),
		model.PrefixBGP + "host/",
		model.PrefixV1 + "host/" + node + "/workload/",
	}
}

// blocksOf is the prefix of a node's block affinities.
func blocksOf(node string) string { return model.PrefixIPAM + "host/" + node + "/" }
