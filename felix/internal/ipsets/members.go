package ipsets

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink/nl"

	"calico.internal/felix/internal/nlconn"
	"calico.internal/libcalico/reconcile"
)

// Members is the target for the members of felix's sets.
type Members struct{ kernel *Kernel }

// Members is the target for members.
func (k *Kernel) Members() *Members { return &Members{k} }

// List reads the members of all of felix's sets but the temporary ones.
func (t *Members) List(context.Context) (map[Member]struct{}, error) {
	headers, _, err := t.kernel.headers()
	if err != nil {
		return nil, err
	}
	out := map[Member]struct{}{}
	for name, h := range headers {
		if isTemporary(name) {
			continue
		}
		before := len(out)
		if h.elements > 0 {
			_, err := t.kernel.members(name, func(m Member) { out[m] = struct{}{} })
			if absent(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		t.kernel.sets[name] = outside{spec: h.spec, elements: len(out) - before}
	}
	return out, nil
}

// Apply adds and deletes members, many in one message. Where a message is refused, its
// members go one by one, so that the error falls on the one at fault.
func (t *Members) Apply(_ context.Context, c reconcile.Changes[Member, struct{}]) error {
	var faults reconcile.KeyErrors[Member]
	added := make([]Member, 0, len(c.Set))
	for _, s := range c.Set {
		added = append(added, s.Key)
	}
	// Deletes first would make room, but could leave a gap that an add closes again.
	if err := t.change(nl.IPSET_CMD_ADD, added, &faults); err != nil {
		return fmt.Errorf("add members: %w", err)
	}
	if err := t.change(nl.IPSET_CMD_DEL, c.Delete, &faults); err != nil {
		return fmt.Errorf("delete members: %w", err)
	}
	return faults.Err()
}

// change sends members, which are sorted by set, in messages of one set each.
func (t *Members) change(cmd int, members []Member, faults *reconcile.KeyErrors[Member]) error {
	var (
		reqs   []nlconn.Request
		groups [][]Member
	)
	for len(members) > 0 {
		n := 1
		for n < len(members) && n < maxPerMessage && members[n].Set == members[0].Set {
			n++
		}
		reqs = append(reqs, changeRequest(cmd, members[0].Set, members[:n]))
		groups = append(groups, members[:n])
		members = members[n:]
	}
	results, err := t.kernel.batch(reqs)
	if err != nil {
		return err
	}
	for i, err := range results {
		switch {
		case err == nil:
			t.count(cmd, groups[i])
		case len(groups[i]) == 1:
			t.fault(cmd, groups[i][0], err, faults)
		default:
			if err := t.oneByOne(cmd, groups[i], faults); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Members) oneByOne(cmd int, members []Member, faults *reconcile.KeyErrors[Member]) error {
	reqs := make([]nlconn.Request, 0, len(members))
	for i := range members {
		reqs = append(reqs, changeRequest(cmd, members[i].Set, members[i:i+1]))
	}
	results, err := t.kernel.batch(reqs)
	if err != nil {
		return err
	}
	for i, err := range results {
		if err == nil {
			t.count(cmd, members[i:i+1])
			continue
		}
		t.fault(cmd, members[i], err, faults)
	}
	return nil
}

// fault records the error of one member; one that is gone with its set was deleted.
func (t *Members) fault(cmd int, m Member, err error, faults *reconcile.KeyErrors[Member]) {
	if cmd == nl.IPSET_CMD_DEL && absent(err) {
		return
	}
	faults.Add(m, setError(err))
}

func (t *Members) count(cmd int, members []Member) {
	o, ok := t.kernel.sets[members[0].Set]
	if !ok {
		return
	}
	if cmd == nl.IPSET_CMD_ADD {
		o.elements += len(members)
	} else {
		o.elements -= len(members)
	}
	t.kernel.sets[members[0].Set] = o
}
