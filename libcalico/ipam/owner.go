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

func (c *changeOwner) run(w *work) *stop {
	blocks, s := w.locateAll(c.addrs)
	if s != nil {
		return s
	}
	for i, a := range c.addrs {
		if s := c.one(w, blocks[i], a); s != nil {
			return s
		}
	}
	return nil
}

func (c *changeOwner) one(w *work, b *model.Block, a netip.Addr) *stop {
	missing := fmt.Errorf("%s: %w", a, ErrNotAssigned)
	if b == nil {
		return w.unlessFresh(missing)
	}
	b = w.current(b) // an owner's change never deletes it
	ordinal, ok := ordinalOf(b, a)
	if !ok {
		return w.unlessFresh(missing)
	}
	attrs, taken := attributesOf(b, ordinal)
	if !taken {
		return w.unlessFresh(missing)
	}
	old := ownerOf(attrs)
	if old.Handle != "" && c.owner.Handle != "" && old.Handle != c.owner.Handle {
		return w.unlessFresh(&InUseError{Addr: a, Owner: old})
	}
	next := mergeOwner(old, c.owner)
	if sameOwner(old, next) {
		w.relyOn(b.CIDR) // what is known of it may be old
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
