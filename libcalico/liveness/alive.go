package liveness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// Alive is a program that has a key. It lives, or was killed less than [TTL] ago.
type Alive struct {
	Program string
	model.Liveness
	// Unreadable says that its key has a value that cannot be used: where it runs is not known.
	Unreadable bool

	lease clientv3.LeaseID
}

// Is says whether both are the same program with the same lease: one that began anew has another.
func (a Alive) Is(b Alive) bool { return a.Program == b.Program && a.lease == b.lease }

// On lists the programs that have keys under a node's name, whichever host they run on.
func On(ctx context.Context, c *etcdstore.Client, node string) ([]Alive, error) {
	programs, _, err := at(ctx, c, node)
	return programs, err
}

// at is On with the revision at which it was so.
func at(ctx context.Context, c *etcdstore.Client, node string) ([]Alive, int64, error) {
	entries, revision, err := c.LeasedUnder(ctx, folder(node))
	if err != nil {
		return nil, 0, err
	}
	var out []Alive
	for _, e := range entries {
		k, ok := e.Key.(model.LivenessKey)
		if !ok {
			continue
		}
		a := Alive{Program: k.Program, Unreadable: e.Err != nil, lease: e.Lease}
		if l, ok := e.Value.(*model.Liveness); ok {
			a.Liveness = *l
		}
		out = append(out, a)
	}
	return out, revision, nil
}

// folder is where the keys of a node's programs are.
func folder(node string) string {
	path := model.Paths(model.LivenessKey{Node: node, Program: "x"})[0]
	return path[:strings.LastIndexByte(path, '/')+1]
}

// Elsewhere says whether a program runs on another host than this one, or on another start of
// it, or may do so since its key cannot be read. A host that has no id knows by its boot alone
// what is its own.
func (a Alive) Elsewhere(host model.Identity) bool { return a.Unreadable || isAnother(a.Host, host) }

func isAnother(other, host model.Identity) bool {
	if host.Known() {
		return other.Other(host)
	}
	return other.Known() && (host.Boot == "" || other.Boot != host.Boot)
}

// TakenError says that a node's name is not this host's alone.
type TakenError struct {
	Node string
	// Host is the other one, and By its programs that have keys, if any.
	Host model.Identity
	By   []Alive
	// Nameless says that this host has no id, so that the other may be itself.
	Nameless bool
}

// Error says who has the name, and what to do.
func (e *TakenError) Error() string {
	who := "its id cannot be read"
	if e.Host.Known() {
		who = "id " + e.Host.ID + ", start " + e.Host.Boot
	}
	if len(e.By) > 0 {
		who += "; " + Names(e.By)
	}
	cure := "give one of the two another name (NODENAME), and start it again; if the other is gone for good, start this one again"
	if e.Nameless {
		cure = "this host has no id of its own to tell whether it is itself: make its /var/lib/calico one that can be written, and start it again"
	}
	return fmt.Sprintf("another host has the name of this node, %s (%s): %s", e.Node, who, cure)
}

// Names lists programs, and since when the first of them runs.
func Names(programs []Alive) string {
	names := make([]string, len(programs))
	var since time.Time
	for i, p := range programs {
		if names[i] = p.Program; i == 0 || p.Started.Before(since) {
			since = p.Started
		}
	}
	return strings.Join(names, ", ") + " since " + since.UTC().Format(time.RFC3339)
}

// Sole makes sure that a node's name is this host's alone, before something is removed because
// this host does not know it: the node's object is not another host's, and no program of
// another host, or of another start of this one, has a key. Otherwise it is a [*TakenError].
// A host without an id is only sure while none that has one has the name.
//
// The conditions say that it is still so, in the transaction that removes something.
func Sole(ctx context.Context, c *etcdstore.Client, node string, host model.Identity) (still []etcdstore.Write, err error) {
	key := model.NodeKey{Name: node}
	e, err := c.Get(ctx, key)
	if errors.Is(err, etcdstore.ErrUnreadable) {
		return nil, fmt.Errorf("which host has the name of this node is not known: mend what is stored of it, or start this host again: %w", err)
	}
	if err != nil && !errors.Is(err, etcdstore.ErrNotFound) {
		return nil, err
	}
	if n, ok := e.Value.(*model.Node); ok && isAnother(n.Host, host) && !n.Host.SameHost(host) {
		return nil, &TakenError{Node: node, Host: n.Host, Nameless: !host.Known()}
	}
	programs, revision, err := at(ctx, c, node)
	if err != nil {
		return nil, err
	}
	others := slices.DeleteFunc(programs, func(a Alive) bool { return !a.Elsewhere(host) })
	if len(others) > 0 {
		return nil, &TakenError{Node: node, Host: others[0].Host, By: others, Nameless: !host.Known()}
	}
	same, err := etcdstore.CheckWrite(key, e.Revision)
	if err != nil {
		return nil, err
	}
	return []etcdstore.Write{same, etcdstore.StillWrite(model.LivenessKey{Node: node, Program: "x"}, folder(node), revision)}, nil
}

// silence is how long the lease of a program of this very host may go without a renewal, if it
// lives: it is renewed more often.
const silence = TTL / 3

// Look is how long [Renewed] waits at most, unless etcd gets another leader meanwhile.
const Look = TTL + 2*poll

// Renewed waits until it is known whether some programs live, and returns those that do: their
// lease is renewed. One that was killed shows by its lease, which ends. What this host ran
// before it started again shows sooner: by a lease that is older than that of a program that
// lives. A program of another host may live and be cut off from etcd: its lease is waited for.
// waiting is called once, if there is something to wait for. What answers first is enough: of
// the programs of one host, as soon as one is known to live.
func Renewed(ctx context.Context, c *etcdstore.Client, programs []Alive, host model.Identity, waiting func()) ([]Alive, error) {
	tick := time.NewTicker(poll / 2)
	defer tick.Stop()
	first := map[clientv3.LeaseID]etcdstore.LeaseState{}
	for said := false; len(programs) > 0; said = true {
		var open, living []Alive
		for _, p := range programs {
			if p.lease == 0 {
				continue // it was put there by hand
			}
			state, err := c.LeaseState(ctx, p.lease)
			if err != nil {
				return nil, err
			}
			was, seen := first[p.lease]
			switch {
			case p.ended(state, host):
			case seen && was.Term == state.Term && state.Left > was.Left:
				living = append(living, p)
			default:
				open = append(open, p)
			}
			first[p.lease] = state
		}
		if len(living) > 0 || len(open) == 0 {
			return living, nil
		}
		programs = open
		if !said {
			waiting()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, nil
}

// ended says whether a program's lease shows that it lives no more.
func (a Alive) ended(lease etcdstore.LeaseState, host model.Identity) bool {
	if lease.Granted == 0 {
		return true
	}
	return a.Host.SameHost(host) && lease.Left < lease.Granted-silence
}
