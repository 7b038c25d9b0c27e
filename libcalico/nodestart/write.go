package nodestart

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/liveness"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nodestart/address"
)

// write plans and commits until no other host has come between.
func (st *start) write(ctx context.Context) (p *plan, changed bool, err error) {
	here, err := localnet.List()
	if err != nil {
		return nil, false, err
	}
	return st.writeBeside(ctx, here)
}

// writeBeside is write with what the host has for itself; it asks the kernel nothing.
func (st *start) writeBeside(ctx context.Context, here []localnet.Place) (p *plan, changed bool, err error) {
	running, err := st.cfg.Running()
	if err != nil {
		return nil, false, err
	}
	for range maxTries {
		c, err := st.look(ctx)
		if err != nil {
			return nil, false, err
		}
		c.taken = append(c.taken, here...)
		c.running = running
		p, err := st.plan(ctx, c)
		if err == nil && p.held == "" && !st.cfg.Check {
			changed, err = commit(ctx, st.client, c, p)
		}
		if errors.Is(err, etcdstore.ErrConflict) {
			if err := pause(ctx); err != nil {
				return nil, false, err
			}
			continue
		}
		if p != nil {
			st.out.say(p.lines...)
		}
		if err != nil {
			return p, false, err
		}
		if !st.cfg.Check {
			st.out.say(p.done...)
		}
		return p, changed, nil
	}
	return nil, false, fmt.Errorf("the cluster's defaults and addresses were written by others %d times in a row: start this host again", maxTries)
}

// pause waits a moment, each host another one: of many that begin at once, one gets on each time.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(rand.N(longestPause)):
		return nil
	}
}

// look reads the cluster.
func (st *start) look(ctx context.Context) (cluster, error) {
	c, err := readCluster(ctx, st.client, st.name.Node)
	if err != nil {
		return c, err
	}
	if c.taken, err = ipam.New(st.client, st.name.Node).Taken(ctx); err != nil {
		return c, err
	}
	c.known, c.member, c.where = st.record.ClusterGUID, st.member, strings.Join(st.client.Endpoints(), ",")
	return c, nil
}

// plan decides everything before anything is written, but for what a host gives up that is
// refused.
func (st *start) plan(ctx context.Context, c cluster) (*plan, error) {
	name, line := chooseName(st.name, st.record, st.host, c.nodes, st.here)
	p, err := newPlan(name, st.host, c)
	if err != nil || p.held != "" {
		return p, err
	}
	if line != "" {
		p.say("%s", line)
	}
	if st.member && st.record.Name != "" && st.record.Name != name {
		p.warn("this host was node %s before: what is stored of that stays until it is deleted (calicoctl delete node %s)", st.record.Name, st.record.Name)
	}
	p.say("Building new node resource Name=%q", name)
	if err := st.sole(ctx, p); err != nil {
		return p, err
	}
	p.say("Initialise BGP data")
	if err := p.addresses(ctx, st.s, st.interfaces); err != nil {
		return p, err
	}
	if err := st.conflicts(ctx, p, c); err != nil {
		return p, err
	}
	return p, p.rest(st.s, c, st.cfg.Version, NewGUID())
}

func (st *start) here(a netip.Addr) bool {
	_, err := address.Find(st.interfaces, a)
	return a.IsValid() && err == nil
}

// conflicts refuses an address that another node has, which must live for that.
func (st *start) conflicts(ctx context.Context, p *plan, c cluster) error {
	rivals := p.rivals(st.s, c)
	living := map[string][]liveness.Alive{}
	for _, r := range rivals {
		var err error
		living[r.name], err = st.living(ctx, func() ([]liveness.Alive, error) { return st.rivalPrograms(ctx, r.name) }, func(open []liveness.Alive) {
			st.out.say(fmt.Sprintf("Waiting up to %s to see whether node %s lives, which is stored with the address %s too (%s)", liveness.Look, r.name, r.addr, liveness.Names(open)))
		})
		if err != nil {
			return err
		}
	}
	err := p.conflict(rivals, living)
	kept := p.without(st.interfaces)
	if err == nil || kept == nil || st.cfg.Check {
		return err
	}
	if _, wrong := st.client.Update(ctx, model.NodeKey{Name: p.name}, kept, c.revisions[model.NodeKey{Name: p.name}]); wrong != nil {
		return errors.Join(err, wrong)
	}
	return fmt.Errorf("%w (the address that was stored of this host, and that it does not have, is given up: that host may take it)", err)
}

// NameTakenError says that another host has the node's name. It has the facts for a message.
type NameTakenError struct {
	Name string
	// Node is what is stored of the node.
	Node *model.Node
	// Own is this host.
	Own model.Identity
	// By are the other host's programs.
	By []liveness.Alive
}

// Error says who has the name, and what to do.
func (e *NameTakenError) Error() string {
	by := e.By[0].Host
	who := "another host"
	cure := ""
	if by.SameHost(e.Own) {
		who = "another host with the same id, of which one is a copy,"
		cure = "on the copy, remove /var/lib/calico/node.json; "
	}
	var facts []string
	if e.Node != nil {
		for _, a := range []netip.Addr{e.Node.IPv4, e.Node.IPv6} {
			if a.IsValid() {
				facts = append(facts, a.String())
			}
		}
	}
	if by.Known() {
		facts = append(facts, "id "+by.ID, "start "+by.Boot)
	}
	facts = append(facts, "running "+liveness.Names(e.By))
	return fmt.Sprintf("%s has the node name '%s' and lives (%s): %sgive this one another name (NODENAME, calicoctl node run --name), "+
		"or stop calico-node there; to take the name away from it on purpose, start this one with --force (CALICO_FORCE_NAME=true)",
		who, e.Name, strings.Join(facts, ", "), cure)
}

// sole makes sure that no other host that lives has the name. One that was killed, or this one
// before it started again, shows by its lease, which is not renewed.
func (st *start) sole(ctx context.Context, p *plan) error {
	if st.s.force {
		others, err := st.others(ctx, p)
		if len(others) > 0 {
			p.warn("the node name %s is taken from another host (%s)", p.name, liveness.Names(others))
		}
		return err
	}
	living, err := st.living(ctx, func() ([]liveness.Alive, error) { return st.others(ctx, p) }, func(open []liveness.Alive) {
		st.out.say(fmt.Sprintf("Waiting up to %s to see whether another host with the name %s lives, or has ended (%s)", liveness.Look, p.name, liveness.Names(open)))
	})
	if err != nil {
		return err
	}
	if len(living) > 0 {
		return &NameTakenError{Name: p.name, Node: p.before, Own: st.host, By: living}
	}
	if before := p.before; before != nil && before.Host.Known() && !before.Host.SameHost(st.host) {
		p.warn("node %s was another host (id %s), of which nothing lives: this host takes its place", p.name, before.Host.ID)
	}
	return nil
}

// living waits until it is known which of some programs live; list tells them, and is asked
// again after a wait: what was only a start-up before may have programs by then.
func (st *start) living(ctx context.Context, list func() ([]liveness.Alive, error), waiting func([]liveness.Alive)) ([]liveness.Alive, error) {
	var known []liveness.Alive
	for {
		now, err := list()
		if err != nil {
			return nil, err
		}
		open := slices.DeleteFunc(now, func(a liveness.Alive) bool { return slices.ContainsFunc(known, a.Is) })
		if len(open) == 0 {
			return nil, nil
		}
		known = append(known, open...)
		living, err := liveness.Renewed(ctx, st.client, open, st.host, func() { waiting(open) })
		if err != nil || len(living) > 0 {
			return living, err
		}
	}
}

// rivalPrograms lists the programs of another node, but for those of this very host, as it was
// called before.
func (st *start) rivalPrograms(ctx context.Context, node string) ([]liveness.Alive, error) {
	programs, err := liveness.On(ctx, st.client, node)
	return slices.DeleteFunc(programs, func(a liveness.Alive) bool { return a.Host.Same(st.host) }), err
}

// others lists the programs under the node's name that another host has, or may have.
func (st *start) others(ctx context.Context, p *plan) ([]liveness.Alive, error) {
	programs, err := liveness.On(ctx, st.client, p.name)
	if err != nil {
		return nil, err
	}
	var others []liveness.Alive
	for _, a := range programs {
		// An older program does not say where it is. On the host that has the node's address it is
		// what ran here until now.
		older := st.host.Known() && !a.Host.Known() && p.before != nil && (p.before.IPv4.IsValid() || p.before.IPv6.IsValid()) &&
			!st.here(p.before.IPv4) && !st.here(p.before.IPv6)
		if a.Elsewhere(st.host) || older {
			others = append(others, a)
		}
	}
	return others, nil
}
