package ipam

import (
	"fmt"
	"maps"
	"net/netip"

	"calico.internal/libcalico/model"
)

// changeOwner gives assigned addresses a handle and attributes.
type changeOwner struct {
	addrs []netip.Addr
	owner Owner
}

func (c *changeOwner) run(w *work) error {
	blocks, err := w.locateAll(c.addrs)
	if err != nil {
		return err
	}
	for i, a := range c.addrs {
		if err := c.one(w, blocks[i], a); err != nil {
			return err
		}
	}
	return nil
}

func (c *changeOwner) one(w *work, b *model.Block, a netip.Addr) error {
	missing := fmt.Errorf("%s: %w", a, ErrNotAssigned)
	if b == nil {
		return unlessFresh(w, missing)
	}
	b = w.current(b) // an owner's change never deletes it
	ordinal, ok := ordinalOf(b, a)
	if !ok {
		return unlessFresh(w, missing)
	}
	attrs, taken := attributesOf(b, ordinal)
	if !taken {
		return unlessFresh(w, missing)
	}
	old := ownerOf(attrs)
	if old.Handle != "" && c.owner.Handle != "" && old.Handle != c.owner.Handle {
		return unlessFresh(w, &InUseError{Addr: a, Owner: old})
	}
	next := mergeOwner(old, c.owner)
	if sameOwner(old, next) {
		return nil
	}
	setOwner(w.edit(b), ordinal, next)
	if next.Handle == old.Handle {
		return nil
	}
	return w.count(next.Handle, b.CIDR, 1)
}

// mergeOwner changes what the new owner names: a handle if it has one, and
// attributes, of which an empty one is removed.
func mergeOwner(old, change Owner) Owner {
	out := Owner{Handle: old.Handle, Attrs: maps.Clone(old.Attrs)}
	if change.Handle != "" {
		out.Handle = change.Handle
	}
	for name, value := range change.Attrs {
		if out.Attrs == nil {
			out.Attrs = map[string]string{}
		}
		if value == "" {
			delete(out.Attrs, name)
		} else {
			out.Attrs[name] = value
		}
	}
	return out
}
