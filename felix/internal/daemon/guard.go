package daemon

import (
	"fmt"
	"slices"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/iptables"
	"calico.internal/felix/internal/routes"
	"calico.internal/felix/internal/rules"
	"calico.internal/felix/internal/sysctls"
	"calico.internal/libcalico/reconcile"
)

// Nothing is opened of a family whose packets are not known to be filtered: no route is made
// before its rules, and the host is not made to forward. Routes that are there stay, and go
// when they are not wanted any more.

// guardRoutes holds routes of a family that is not filtered. One that leads to an address's
// former owner goes, since that is not to get the packets of the next.
func (d *dataplane) guardRoutes(opts reconcile.Options[routes.Key, routes.Route]) reconcile.Options[routes.Key, routes.Route] {
	opts.Hold = func(k routes.Key) bool { return d.chains.blocked(familyOf(k)) != nil }
	opts.Displaces = d.handover.moves
	return opts
}

// guardForwarding does the same for the setting that makes the host a router of IPv6. That of
// IPv4 is Docker's as well.
func (d *dataplane) guardForwarding(opts reconcile.Options[sysctls.Key, string]) reconcile.Options[sysctls.Key, string] {
	opts.Hold = func(k sysctls.Key) bool { return k == sysctls.ForwardIPv6 && d.chains.blocked(rules.V6) != nil }
	return opts
}

func familyOf(k routes.Key) rules.Family {
	if k.Prefix.Addr().Is4() {
		return rules.V4
	}
	return rules.V6
}

// unfiltered says why an endpoint's packets are not known to be filtered as wanted; empty
// when they are. Where a family cannot be had at all, only an endpoint that has nothing else
// is concerned.
func (d *dataplane) unfiltered(e *desired.Endpoint) string {
	if d.chains.stuck { // no revision is in force then
		return ""
	}
	why, served := "", false
	for _, f := range d.familiesOf(e) {
		err := d.chains.blocked(f)
		switch {
		case err == nil:
			served = true
		case d.chains.without(f):
			why = err.Error()
		default:
			return err.Error()
		}
	}
	if served {
		return ""
	}
	return why
}

// gate stops the packets of a family's workloads as long as they do not meet felix's rules.
type gate interface {
	// shut does so, given the tables whose rules they do not meet.
	shut(f rules.Family, unmet []rules.Table) error
	reopen(rules.Family) error
}

func (d *dataplane) shut(f rules.Family, unmet []rules.Table) error {
	barrier := d.renderer.Barrier(f)
	if t := d.trackers[f]; t != nil {
		barrier = t.Barrier(unmet, d.control.etcd)
	}
	return d.iptables.Shut(f, barrier)
}

func (d *dataplane) reopen(f rules.Family) error { return d.iptables.Reopen(f) }

// untilThen says what becomes of packets that meet no rules.
const untilThen = "; until then felix drops all new connections of workloads of this family"

// shut adds to a fault by which packets meet no rules that they are stopped, or why they are not.
func (c *chains) shut(f rules.Family, t rules.Table, fault error) error {
	*c.reopened[f] = false
	var unmet []rules.Table
	for _, other := range filtering {
		if known := c.faults[f][other]; other == t || known != nil && iptables.IsUnhooked(known.err) {
			unmet = append(unmet, other)
		}
	}
	if err := c.gate.shut(f, unmet); err != nil {
		return fmt.Errorf("%w; and packets of workloads could not be stopped instead: %w", fault, err)
	}
	return fmt.Errorf("%w"+untilThen+", and of host endpoints whose policies are not met, but for failsafe ports", fault)
}

// reopen lets packets pass again once they meet all of felix's rules. What stops them may be
// there from before felix's start.
func (c *chains) reopen(f rules.Family) error {
	if *c.reopened[f] || c.gate == nil || c.blocked(f) != nil {
		return nil
	}
	for _, t := range filtering {
		table := c.tables[f][t]
		s := table.Status()
		if !s.Listed || slices.ContainsFunc(s.Failed, func(o reconcile.KeyStatus) bool { return !iptables.Owned(o.Key) }) {
			return nil
		}
	}
	if err := c.gate.reopen(f); err != nil {
		return lesser{err}
	}
	*c.reopened[f] = true
	return nil
}

// unhooked reports that packets of a family meet no rules of a table.
func (c *chains) unhooked() bool {
	for _, byTable := range c.faults {
		for _, fault := range byTable {
			if iptables.IsUnhooked(fault.err) {
				return true
			}
		}
	}
	return false
}
