package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/reconcile"
)

// isolate is called when a transaction was refused. It puts the stand-ins of chains that do
// not exist yet in place, so that any other chain can be written whatever it refers to, and
// then tries the chains in halves. What remains is at fault. Chains that packets of the host
// pass come behind those of single objects, and hooks at last: whenever felix is stopped,
// nothing leads to a chain whose content is still to come.
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
	objects, frame, hooks := t.inOrder(sets)
	for _, part := range [][]named{objects, frame} {
		if err := t.trySets(ctx, part, &faults); err != nil {
			return err
		}
	}
	if err := t.tryHooks(ctx, hooks, frame, &faults); err != nil {
		return err
	}
	if err := t.tryDeletes(ctx, deletes, &faults); err != nil {
		return err
	}
	return faults.Err()
}

func (t *Target) standIn(name string) named {
	return named{name, t.standIns(t.family, rules.ChainID{Table: t.table, Name: name})}
}

// inOrder splits chains into those of single objects, those of the frame, and those of
// others.
func (t *Target) inOrder(sets []named) (objects, frame, hooks []named) {
	for _, s := range sets {
		part := &objects
		switch {
		case !Owned(s.name):
			part = &hooks
		case rules.ChainID{Table: t.table, Name: s.name}.OfFrame():
			part = &frame
		}
		*part = append(*part, s)
	}
	return objects, frame, hooks
}

// tryHooks sets hooks. The kernel refuses some rules only when a hook leads to them; then the
// hook is as right as the chain that it leads to is at fault, and without it nothing would be
// filtered. So chains of the frame are closed, one after the other, until the hooks are taken.
// What was not to be written now stays closed then, and comes back with the next try.
func (t *Target) tryHooks(ctx context.Context, hooks, frame []named, faults *reconcile.KeyErrors[string]) error {
	refused, err := t.refusedOf(ctx, hooks)
	if err != nil || len(refused.Errs) == 0 {
		return err
	}
	for name := range t.have {
		unchanged := !slices.ContainsFunc(frame, func(f named) bool { return f.name == name })
		if unchanged && Owned(name) && (rules.ChainID{Table: t.table, Name: name}).OfFrame() {
			frame = append(frame, named{name: name})
		}
	}
	for _, f := range frame {
		if faults.Errs[f.name] != nil {
			continue
		}
		if err := t.close(ctx, f.name); err != nil {
			return err
		}
		now, err := t.refusedOf(ctx, hooks)
		switch {
		case err != nil:
			return err
		case len(now.Errs) == 0:
			faults.Add(f.name, refused.Err())
			return nil
		}
		if unchanged := f.chain.Rules == nil; unchanged {
			faults.Add(f.name, refused.Err())
			continue
		}
		if err := t.write(ctx, []named{f}, nil); err != nil {
			return err
		}
	}
	for name, why := range refused.Errs {
		faults.Add(name, why)
	}
	return nil
}

// refusedOf tries to set chains and tells which are refused.
func (t *Target) refusedOf(ctx context.Context, sets []named) (refused reconcile.KeyErrors[string], err error) {
	err = t.trySets(ctx, sets, &refused)
	return refused, err
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

// close leaves a chain at fault with its stand-in. In a chain of others there is nothing to
// close.
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
