// Package revive starts the containers that Docker's engine could not start because
// the plugin was away.
//
// An engine that starts brings up the containers with a restart policy, and gives up,
// for good, on those whose network driver does not answer. Once the engine and felix
// are there, each of them is started, once.
package revive

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"calico.internal/libcalico/logattr"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
)

// The times of a round: for the lists, and for one container's start.
const (
	listLimit  = 30 * time.Second
	startLimit = 2 * time.Minute
)

// Engine is what is asked of Docker's engine.
type Engine interface {
	Containers(ctx context.Context) ([]dockerapi.Container, error)
	Inspect(ctx context.Context, id string) (dockerapi.Details, error)
	Start(ctx context.Context, id string) error
}

// Reviver starts containers of one node.
type Reviver struct {
	engine Engine
	// ready waits until containers can be started.
	ready func(context.Context) error
	// ours reports whether a network is one of ours, by name.
	ours func(network string) bool
	log  *slog.Logger
	kick chan struct{}
	// tried holds the containers that were started, with the time at which they had
	// ended.
	tried map[string]string
}

// New returns a reviver.
func New(engine Engine, ready func(context.Context) error, ours func(network string) bool, log *slog.Logger) *Reviver {
	return &Reviver{
		engine: engine, ready: ready, ours: ours, log: log, kick: make(chan struct{}, 1), tried: make(map[string]string),
	}
}

// Kick asks for a round: the engine has come up.
func (r *Reviver) Kick() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Run does a round whenever it is kicked, until ctx ends.
func (r *Reviver) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.kick:
		}
		if err := r.Round(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("containers that could not start are not looked for", logattr.Err, err)
		}
	}
}

// Round starts the containers that need it.
func (r *Reviver) Round(ctx context.Context) error {
	victims, err := r.victims(ctx)
	if err != nil || len(victims) == 0 {
		return err
	}
	if err := r.ready(ctx); err != nil {
		return err
	}
	for _, v := range victims {
		r.tried[v.ID] = v.State.FinishedAt
		if err := r.start(ctx, v.ID); err != nil {
			r.log.Warn("container that had failed for want of its network fails again",
				logattr.Container, strings.TrimPrefix(v.Name, "/"), logattr.Err, err)
			continue
		}
		r.log.Info("started container that had failed for want of its network",
			logattr.Container, strings.TrimPrefix(v.Name, "/"))
	}
	return nil
}

// victims lists the containers that failed because of us and were not tried since.
func (r *Reviver) victims(ctx context.Context) ([]dockerapi.Details, error) {
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	containers, err := r.engine.Containers(ctx)
	if err != nil {
		return nil, err
	}
	var victims []dockerapi.Details
	for _, c := range containers {
		network, ok := r.network(c)
		if !ok || c.State != "exited" {
			continue
		}
		d, err := r.engine.Inspect(ctx, c.ID)
		if errors.Is(err, dockerapi.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if Failed(d, network) && r.tried[d.ID] != d.State.FinishedAt {
			victims = append(victims, d)
		}
	}
	return victims, nil
}

// network returns the first network of a container that is ours.
func (r *Reviver) network(c dockerapi.Container) (string, bool) {
	for name := range c.NetworkSettings.Networks {
		if r.ours(name) {
			return name, true
		}
	}
	return "", false
}

func (r *Reviver) start(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return r.engine.Start(ctx, id)
}

// Failed reports whether the engine should have started a container and could not for
// a reason that has to do with its network. A container that ended by itself, or that a
// user stopped, has no error; a program that cannot be run has another one.
func Failed(d dockerapi.Details, network string) bool {
	switch d.HostConfig.RestartPolicy.Name {
	case "always", "unless-stopped", "on-failure":
	default:
		return false
	}
	text := strings.ToLower(d.State.Error)
	for _, sign := range []string{"calico", "networkdriver.", "ipamdriver.", "endpoint", "network " + strings.ToLower(network)} {
		if text != "" && strings.Contains(text, sign) {
			return true
		}
	}
	return false
}
