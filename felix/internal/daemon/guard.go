package daemon

import (
	"context"
	"errors"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/routes"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/reconcile"
)

// guard is the target for routes, which makes none of a family whose packets are not known
// to be filtered: no route before its rules. Those that are there stay, and go when they are
// not wanted any more, or are to lead to another interface.
type guard struct {
	*handover

	blocked func(rules.Family) error
	// held are routes that were not made.
	held []routes.Key
}

// Apply makes the changes that are allowed.
func (g *guard) Apply(ctx context.Context, c reconcile.Changes[routes.Key, routes.Route]) error {
	var refused reconcile.KeyErrors[routes.Key]
	for _, item := range c.Set {
		if err := g.blocked(familyOf(item.Key)); err != nil {
			refused.Add(item.Key, err)
			g.held = append(g.held, item.Key)
		}
	}
	c = g.without(c, refused)
	var err error
	if !c.Empty() {
		err = g.handover.Apply(ctx, c)
	}
	return errors.Join(refused.Err(), err)
}

func familyOf(k routes.Key) rules.Family {
	if k.Prefix.Addr().Is4() {
		return rules.V4
	}
	return rules.V6
}

// release is the step between chains and routes: what was held is tried at once when its
// family is filtered again.
func (d *dataplane) release() {
	var still []routes.Key
	for _, k := range d.guard.held {
		if d.chains.blocked(familyOf(k)) != nil {
			still = append(still, k)
			continue
		}
		d.routes.Forget(k)
	}
	d.guard.held = still
}

// unfiltered says why an endpoint's packets are not known to be filtered as wanted; empty
// when they are. Where a family cannot be had at all, only an endpoint that has nothing else
// is concerned.
func (d *dataplane) unfiltered(e *desired.Endpoint) string {
	handled := len(e.Nets) == 0
	for _, n := range e.Nets {
		for _, f := range d.families {
			if !f.Of(n) {
				continue
			}
			handled = true
			if err := d.chains.blocked(f); err != nil && !d.chains.stuck { // else no revision is in force
				return err.Error()
			}
		}
	}
	if !handled {
		return d.lost
	}
	return ""
}
