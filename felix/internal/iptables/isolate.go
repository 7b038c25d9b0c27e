package iptables

import (
	"context"
	"errors"
	"fmt"

	"calico.internal/libcalico/reconcile"
)

// isolate is called when a transaction was refused. It puts chains that do not exist yet
// in place with a rule that drops, so that any other chain can be written whatever it
// refers to, and then tries the chains in halves. What remains is at fault.
func (t *Target) isolate(ctx context.Context, sets []named, deletes []string) error {
	if err := t.read(ctx); err != nil {
		return err
	}
	t.suspect = true
	var fresh []named
	for _, s := range sets {
		if _, exists := t.have[s.name]; Owned(s.name) && !exists {
			fresh = append(fresh, t.standIn(s.name))
		}
	}
	if err := t.write(ctx, fresh, nil); err != nil {
		return err
	}
	var faults reconcile.KeyErrors[string]
	if err := t.trySets(ctx, sets, &faults); err != nil {
		return err
	}
	if err := t.tryDeletes(ctx, deletes, &faults); err != nil {
		return err
	}
	return faults.Err()
}

func (t *Target) standIn(name string) named {
	return named{name, FailClosed(t.family, t.table, name)}
}

func (t *Target) trySets(ctx context.Context, sets []named, faults *reconcile.KeyErrors[string]) error {
	if len(sets) == 0 {
		return nil
	}
	err := t.write(ctx, sets, nil)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil || errors.Is(err, errBusy):
		return err
	case len(sets) == 1:
		faults.Add(sets[0].name, err)
		return t.close(ctx, sets[0].name)
	}
	half := len(sets) / 2
	if err := t.trySets(ctx, sets[:half], faults); err != nil {
		return err
	}
	return t.trySets(ctx, sets[half:], faults)
}

// close leaves a chain at fault with a rule that drops. In a chain of others there is
// nothing to close.
func (t *Target) close(ctx context.Context, name string) error {
	if !Owned(name) {
		return nil
	}
	if err := t.write(ctx, []named{t.standIn(name)}, nil); err != nil {
		return fmt.Errorf("close chain %s: %w", name, err)
	}
	return nil
}

func (t *Target) tryDeletes(ctx context.Context, names []string, faults *reconcile.KeyErrors[string]) error {
	if len(names) == 0 {
		return nil
	}
	err := t.write(ctx, nil, names)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil || errors.Is(err, errBusy):
		return err
	case len(names) == 1:
		faults.Add(names[0], err)
		return nil
	}
	half := len(names) / 2
	if err := t.tryDeletes(ctx, names[:half], faults); err != nil {
		return err
	}
	return t.tryDeletes(ctx, names[half:], faults)
}
