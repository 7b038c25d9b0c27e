package launch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// The names of containers during a replacement: the new one until it is started, the old
// one until the new one is ready, and the one that only checks.
const (
	nextName     = ContainerName + "-next"
	previousName = ContainerName + "-previous"
	checkName    = ContainerName + "-check"
)

// giveUp is how long it may take to put the old container back, and serveLimit how long its
// programs are then waited for.
const (
	giveUp     = 2 * time.Minute
	serveLimit = 30 * time.Second
)

// names are those of a replacement.
type names struct{ current, next, previous string }

var nodeNames = names{ContainerName, nextName, previousName}

// swap replaces a container by another, and puts it back if that does not become ready.
//
// The engine starts after a reboot what has a restart policy. Until the new container has
// become ready only the old one has one, under whatever name: so a power cut in the middle
// leaves a node that runs, and the next run ends or undoes what was begun (see mend).
type swap struct {
	names

	out io.Writer
	// policy is when the engine starts the new container again, once that has become ready.
	policy string
	// create makes the new container under a name, without a restart policy.
	create func(ctx context.Context, name string) error
	// ready starts a container and returns once it is ready, or why it is not.
	ready func(ctx context.Context, name string) error
	// serves waits until the programs of a container that runs are ready, or says which are
	// not.
	serves func(ctx context.Context, c *container) error
	// plugin is where the plugin of the containers is, if not in them.
	plugin pluginMove
}

// run replaces the container, or starts the first one. A failure leaves what there was.
func (s swap) run(ctx context.Context) error {
	old, err := inspect(ctx, s.current)
	if err != nil {
		return err
	}
	if err := s.create(ctx, s.next); err != nil {
		return s.dropped(ctx, s.next, err)
	}
	if err := s.plugin.prepare(ctx); err != nil {
		return s.dropped(ctx, s.next, err)
	}
	if old != nil {
		if err := s.setAside(ctx, old); err != nil {
			return s.restored(ctx, old, err)
		}
	}
	err = s.begin(ctx)
	switch {
	case err == nil:
		return errors.Join(s.keep(ctx), s.plugin.end(context.WithoutCancel(ctx)))
	case old == nil:
		return s.dropped(ctx, s.current, err)
	}
	return s.restored(ctx, old, err)
}

// begin starts the new container under its name.
func (s swap) begin(ctx context.Context) error {
	if _, err := docker(ctx, "rename", s.next, s.current); err != nil {
		return err
	}
	if err := s.plugin.start(ctx); err != nil {
		return err
	}
	return s.ready(ctx, s.current)
}

// setAside ends the old container in order, and keeps it under another name.
func (s swap) setAside(ctx context.Context, old *container) error {
	if old.State.Running {
		fmt.Fprintf(s.out, "Stopping the old %s container; traffic flows on.\n", s.current)
		if _, err := docker(ctx, "stop", s.current); err != nil {
			return err
		}
	}
	_, err := docker(ctx, "rename", s.current, s.previous)
	return err
}

// keep makes the new container the one that the engine starts, and removes the old one.
func (s swap) keep(ctx context.Context) error {
	// From here on half of it would be worse than a moment more.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUp)
	defer cancel()
	if _, err := docker(ctx, "update", "--restart="+s.policy, s.current); err != nil {
		return err
	}
	return remove(ctx, s.previous)
}

// dropped removes a new container that is of no use, and returns why.
func (s swap) dropped(ctx context.Context, name string, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUp)
	defer cancel()
	if err := errors.Join(remove(ctx, name), s.plugin.undo(ctx)); err != nil {
		return fmt.Errorf("%w\nThe new container %s could not be removed: %w", why, name, err)
	}
	return fmt.Errorf("%w\nThe new container was removed; nothing else was changed", why)
}

// restored puts the old container back, and returns why.
func (s swap) restored(ctx context.Context, old *container, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUp)
	defer cancel()
	// A container that is about to be put back needs its own plugin's sockets.
	if err := errors.Join(remove(ctx, s.next), s.endNew(ctx, old), s.plugin.undo(ctx), s.putBack(ctx, old)); err != nil {
		return fmt.Errorf("%w\nThe old container could not be put back (run this again to try once more): %w", why, err)
	}
	if !old.State.Running {
		return fmt.Errorf("%w\nThe new container was removed, and the old one is there as it was: stopped", why)
	}
	if err := s.serves(ctx, old); err != nil {
		return fmt.Errorf("%w\nThe new container was removed, and the old one runs again, but is %w", why, err)
	}
	return fmt.Errorf("%w\nThe new container was removed, and the old one runs again and is ready", why)
}

// endNew ends the new container, so that its plugin answers the calls that it has.
func (s swap) endNew(ctx context.Context, old *container) error {
	now, err := inspect(ctx, s.current)
	if err != nil || now == nil || now.ID == old.ID {
		return err
	}
	_, err = docker(ctx, "stop", now.ID)
	return err
}

// putBack gives the old container, by its id, its name back, and starts it if it ran.
func (s swap) putBack(ctx context.Context, old *container) error {
	now, err := inspect(ctx, old.ID)
	if err != nil {
		return err
	}
	if now == nil {
		return fmt.Errorf("container %.12s is gone", old.ID)
	}
	if err := remove(ctx, s.next); err != nil {
		return err
	}
	if now.State.Running && old.State.Running && now.Name == s.current {
		// An interrupted stop may still be under way, and would come after a start.
		if _, err := docker(ctx, "stop", old.ID); err != nil {
			return err
		}
	}
	if now.Name != s.current {
		if err := remove(ctx, s.current); err != nil {
			return err
		}
		if _, err := docker(ctx, "rename", old.ID, s.current); err != nil {
			return err
		}
	}
	if !old.State.Running {
		return nil
	}
	_, err = docker(ctx, "start", old.ID)
	return err
}

// mend ends or undoes a replacement that was interrupted: the new container stays if it
// serves; otherwise the old one comes back.
func (s swap) mend(ctx context.Context) error {
	if err := remove(ctx, s.next); err != nil {
		return err
	}
	previous, err := inspect(ctx, s.previous)
	if err != nil {
		return err
	}
	current, err := inspect(ctx, s.current)
	if err != nil {
		return err
	}
	if previous == nil {
		return s.mendFirst(ctx, current)
	}
	if current != nil && current.State.Running && !previous.State.Running && s.serves(ctx, current) == nil {
		fmt.Fprintf(s.out, "A replacement of %s was interrupted; its new container is ready: the old one is removed.\n", s.current)
		s.policy = cmp.Or(previous.HostConfig.RestartPolicy.Name, s.policy)
		return s.keep(ctx)
	}
	fmt.Fprintf(s.out, "A replacement of %s was interrupted before the new container was ready: the old one is put back.\n", s.current)
	previous.State.Running = true
	if err := s.plugin.suit(ctx, previous.Config.Env); err != nil {
		return err
	}
	return s.putBack(ctx, previous)
}

// mendFirst gives a container that runs the restart policy that it lacks, if the command that started
// it was killed before that: the replacement may fail, and what then stays must outlive a reboot.
// An upgrade has no policy of its own, and leaves the container's.
func (s swap) mendFirst(ctx context.Context, current *container) error {
	if current == nil || !current.State.Running || current.HostConfig.AutoRemove || !current.HostConfig.RestartPolicy.none() || s.policy == "" {
		return nil
	}
	fmt.Fprintf(s.out, "The engine would not start %s again after a reboot (its first start was interrupted); from now on it does.\n", s.current)
	_, err := docker(ctx, "update", "--restart="+s.policy, current.ID)
	return err
}
