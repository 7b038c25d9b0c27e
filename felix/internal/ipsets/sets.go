package ipsets

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/nlconn"
	"calico.internal/libcalico/reconcile"
)

// Sets is the target for the sets themselves, without their members.
type Sets struct{ kernel *Kernel }

// Sets is the target for sets.
func (k *Kernel) Sets() *Sets { return &Sets{k} }

// List reads the headers of felix's sets, temporary ones included.
func (t *Sets) List(context.Context) (map[string]Spec, error) {
	headers, _, err := t.kernel.headers()
	if err != nil {
		return nil, err
	}
	out := make(map[string]Spec, len(headers))
	clear(t.kernel.sets)
	for name, h := range headers {
		out[name] = h.spec
		t.kernel.sets[name] = outside{spec: h.spec, elements: int(h.elements)}
	}
	return out, nil
}

// Apply creates sets, rebuilds those that are of another kind than wanted, and destroys
// those that are not wanted.
func (t *Sets) Apply(_ context.Context, c reconcile.Changes[string, Spec]) error {
	var faults reconcile.KeyErrors[string]
	for _, s := range c.Set {
		if err := t.set(s.Key, s.Value); err != nil {
			faults.Add(s.Key, err)
			delete(t.kernel.sets, s.Key)
		}
	}
	if err := t.destroy(c.Delete, &faults); err != nil {
		return err
	}
	return faults.Err()
}

func (t *Sets) set(name string, spec Spec) error {
	if err := checkName(name); err != nil {
		return err
	}
	err := t.kernel.do(createRequest(name, spec))
	if errors.Is(err, unix.EEXIST) {
		return t.rebuild(name, spec)
	}
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	t.kernel.sets[name] = outside{spec: spec, elements: t.kernel.sets[name].elements}
	return nil
}

// rebuild puts a new set with the old one's members in the place of one that differs in
// size, without a moment in which the set is absent or empty.
func (t *Sets) rebuild(name string, spec Spec) error {
	var members []Member
	old, err := t.kernel.members(name, func(m Member) { members = append(members, m) })
	if err != nil {
		return err
	}
	if old.spec.Type != spec.Type || old.spec.Family != spec.Family {
		return t.replace(name, old, spec)
	}
	temp := temporary(name)
	if err := t.kernel.do(destroyRequest(temp)); err != nil && !absent(err) {
		return fmt.Errorf("destroy %s: %w", temp, err)
	}
	if err := t.kernel.do(createRequest(temp, spec)); err != nil {
		return fmt.Errorf("create %s: %w", temp, err)
	}
	err = t.kernel.addAll(temp, members)
	if err == nil {
		err = t.kernel.do(swapRequest(name, temp))
	}
	if destroyErr := t.kernel.do(destroyRequest(temp)); err == nil {
		err = destroyErr
	}
	if err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	t.kernel.sets[name] = outside{spec: spec, elements: len(members)}
	return nil
}

// replace makes a set of another type, which cannot be swapped in; it works as long as
// no rule names the set.
func (t *Sets) replace(name string, old header, spec Spec) error {
	if old.references > 0 {
		return fmt.Errorf("is %s, want %s: %w", old.spec.Type, spec.Type, errWrongType)
	}
	if err := t.kernel.do(destroyRequest(name)); err != nil {
		return fmt.Errorf("destroy: %w", err)
	}
	if err := t.kernel.do(createRequest(name, spec)); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	t.kernel.sets[name] = outside{spec: spec}
	return nil
}

func (t *Sets) destroy(names []string, faults *reconcile.KeyErrors[string]) error {
	if len(names) == 0 {
		return nil
	}
	reqs := make([]nlconn.Request, 0, len(names))
	for _, name := range names {
		reqs = append(reqs, destroyRequest(name))
	}
	results, err := t.kernel.batch(reqs)
	if err != nil {
		return fmt.Errorf("destroy sets: %w", err)
	}
	for i, err := range results {
		if err != nil && !absent(err) {
			faults.Add(names[i], fmt.Errorf("destroy: %w", setError(err)))
			continue
		}
		delete(t.kernel.sets, names[i])
	}
	return nil
}

// addAll adds members to one set.
func (k *Kernel) addAll(set string, members []Member) error {
	for len(members) > 0 {
		n := min(len(members), maxPerMessage)
		if err := k.do(changeRequest(nl.IPSET_CMD_ADD, set, members[:n])); err != nil {
			return err
		}
		members = members[n:]
	}
	return nil
}
