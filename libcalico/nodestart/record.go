package nodestart

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"calico.internal/libcalico/nodestart/address"
)

// ErrNoRecord says that this host cannot start without etcd.
var ErrNoRecord = errors.New("this host cannot start without etcd")

// FromRecord is what the programs of this host start with while etcd is away: what the host
// was when it last started. It leaves the name for them; [Run] makes up for the rest when etcd
// is back. A host that was no node before, or is to have another name, needs etcd
// ([ErrNoRecord]).
func FromRecord(cfg Config) (Outcome, error) {
	st, err := begin(cfg)
	if err != nil {
		return Outcome{}, err
	}
	r := st.record
	switch {
	case r.Name == "" && st.member:
		return Outcome{}, fmt.Errorf("%w: what it remembers of itself in %s is lost or cannot be read; make etcd reachable (ETCD_ENDPOINTS)",
			ErrNoRecord, filepath.Join(cfg.StateDir, "node.json"))
	case r.Name == "":
		return Outcome{}, fmt.Errorf("%w: it was no node before (%s does not say so); make etcd reachable (ETCD_ENDPOINTS) for its first start",
			ErrNoRecord, filepath.Join(cfg.StateDir, "node.json"))
	case st.name.Host == "" && st.name.Node != r.Name:
		return Outcome{}, fmt.Errorf("%w: it was node %s before, and is to be %s; for that etcd must be reachable, or set NODENAME=%s",
			ErrNoRecord, r.Name, st.name.Node, r.Name)
	}
	o := st.settled(Outcome{Name: r.Name, IPv4: r.IPv4, IPv6: r.IPv6, IPv4Net: r.IPv4Net, IPv6Net: r.IPv6Net})
	o.Missing = missing(o, st.interfaces)
	st.out.say(st.early...)
	for _, a := range o.Missing {
		st.out.warn("the address %s of this node is not on this host; another one counts when etcd is back", a)
	}
	if cfg.Check {
		return o, nil
	}
	st.out.say("This host starts as it was before", "Using node name: "+o.Name)
	return o, st.leaveName(o.Name)
}

// Look looks at the addresses again, with the same settings, while the node runs; last is what
// the start-up, or the last look, came to. An address that was found, and that the host does
// not have any more, is found again, and written as [Run] does; one that somebody has given is
// only warned of, once. One that is still there stays, even if another would be chosen now.
// changed says that the addresses are others than before. Nobody is asked but the kernel while
// nothing changes.
func Look(ctx context.Context, cfg Config, last Outcome) (now Outcome, changed bool, err error) {
	s, err := readHost(cfg)
	if err != nil {
		return last, false, err
	}
	interfaces, err := address.Host()
	if err != nil {
		return last, false, err
	}
	now = last
	now.Missing = missing(last, interfaces)
	if s.backend == backendNone || last.Held != "" {
		return now, false, nil
	}
	v4, v6 := families(s, last.IPv4, last.IPv6)
	if !moved(ctx, v4, interfaces) && !moved(ctx, v6, interfaces) {
		out := printer{cfg.Out, s.logLevel}
		for _, a := range now.Missing {
			if !slices.Contains(last.Missing, a) {
				out.warn("the address %s of this node is not on this host any more", a)
			}
		}
		return now, false, nil
	}
	cfg.NoWait = true
	now, err = Run(ctx, cfg)
	if err != nil {
		return last, false, err
	}
	return now, now.IPv4 != last.IPv4 || now.IPv6 != last.IPv6, nil
}

// moved says whether there is another address of a family than the one that was found before.
func moved(ctx context.Context, f family, interfaces []address.Interface) bool {
	if f.given() || !f.wanted() {
		return false
	}
	if _, err := address.Find(interfaces, f.stored); err == nil {
		return false
	}
	found, err := f.method.Choose(ctx, interfaces, f.number)
	return err == nil && found.Prefix.Addr() != f.stored
}
