package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/libcalico/reconcile"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TableMain is the table that the kernel looks into for ordinary packets.
const TableMain = unix.RT_TABLE_MAIN

// Options say which routes are ours.
type Options struct {
	// Table is the routing table, Protocol the number that marks our routes in it.
	Table    uint32
	Protocol uint8
	// Notify is called when [FIB.Changes] has something to tell; it must not block.
	Notify func()
}

// FIB is our part of one routing table. It belongs to the network namespace of the
// thread that made it.
type FIB struct {
	opts    Options
	monitor *monitor

	// mu guards all below.
	mu   sync.Mutex
	sock *socket
	// ours has the metrics of our routes by prefix, as far as we know. Routes of an
	// earlier program (BIRD uses metric 32) keep theirs until they change.
	ours map[netip.Prefix][]uint32
	// contested are prefixes to which another's route stands beside ours, with the same
	// metric, so that a replacement could hit that one.
	contested map[netip.Prefix]struct{}
	// links are those that routes of ours lead over, or ever did.
	links map[int]struct{}
}

var _ reconcile.Target[netip.Prefix, calc.Route] = (*FIB)(nil)

// New opens the sockets. Notifications count from here on: subscribe, then list.
func New(opts Options) (*FIB, error) {
	sock, err := openSocket()
	if err != nil {
		return nil, err
	}
	f := &FIB{
		opts:      opts,
		sock:      sock,
		ours:      map[netip.Prefix][]uint32{},
		contested: map[netip.Prefix]struct{}{},
		links:     map[int]struct{}{},
	}
	if f.monitor, err = newMonitor(f, sock); err != nil {
		sock.close()
		return nil, err
	}
	return f, nil
}

// Run follows notifications until ctx ends, and closes the sockets then. The routes
// stay.
func (f *FIB) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, f.monitor.sock.close)
	defer stop()
	err := f.monitor.run(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sock.close()
	return err
}

// List returns the routes of our protocol.
func (f *FIB) List(ctx context.Context) (map[netip.Prefix]calc.Route, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return f.list()
}

func (f *FIB) list() (map[netip.Prefix]calc.Route, error) {
	entries, err := f.entries()
	if err != nil {
		return nil, err
	}
	clear(f.ours)
	clear(f.contested)
	out := map[netip.Prefix]calc.Route{}
	for _, e := range entries {
		if e.protocol != f.opts.Protocol {
			continue
		}
		// Of several, the one that the kernel prefers is the one that counts.
		if metrics := f.ours[e.prefix]; len(metrics) == 0 || e.metric < slices.Min(metrics) {
			out[e.prefix] = e.route()
		}
		f.ours[e.prefix] = append(f.ours[e.prefix], e.metric)
		f.noteLinks(e.hops)
	}
	for _, e := range entries {
		_, ours := f.ours[e.prefix]
		if ours && e.protocol != f.opts.Protocol && e.metric == metricOf(e.prefix) && e.tos == 0 {
			f.contested[e.prefix] = struct{}{}
		}
	}
	return out, nil
}

// entries dumps the table, both families.
func (f *FIB) entries() ([]entry, error) {
	var out []entry
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		var part []entry
		m := &nl.RtMsg{RtMsg: unix.RtMsg{Family: family}}
		err := f.sock.dump(unix.RTM_GETROUTE, m.Serialize(), func(msg syscall.NetlinkMessage) error {
			e, err := decode(msg.Data)
			if err == nil && e.table == f.opts.Table && !e.cloned {
				part = append(part, e)
			}
			return nil // what cannot be read is no route of ours
		}, func() { part = nil })
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		out = append(out, part...)
	}
	return out, nil
}

// Others is what the routes of others say.
type Others struct {
	// Hosts are the single addresses to which there are routes; true for those that lead to
	// a container.
	Hosts map[netip.Prefix]bool
	// Around is what this host must go on to reach.
	Around calc.Surroundings
}

// Others reads the routes of others.
func (f *FIB) Others(ctx context.Context) (Others, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return Others{}, err
	}
	entries, err := f.entries()
	if err != nil {
		return Others{}, err
	}
	subnets, err := f.subnets()
	if err != nil {
		return Others{}, err
	}
	out := Others{Hosts: map[netip.Prefix]bool{}}
	for _, e := range entries {
		if e.protocol != f.opts.Protocol {
			f.readOther(e, subnets, &out)
		}
	}
	slices.SortFunc(out.Around.Networks, netip.Prefix.Compare)
	out.Around.Networks = slices.Compact(out.Around.Networks)
	slices.SortFunc(out.Around.Gateways, netip.Addr.Compare)
	out.Around.Gateways = slices.Compact(out.Around.Gateways)
	return out, nil
}

func (f *FIB) readOther(e entry, subnets map[int][]netip.Prefix, out *Others) {
	if e.single() {
		out.Hosts[e.prefix] = f.monitor.leadsToContainer(e)
		return
	}
	if e.kind != unix.RTN_UNICAST {
		return
	}
	for _, h := range e.hops {
		switch {
		case h.Gateway.IsValid() && !h.Gateway.IsLinkLocalUnicast():
			out.Around.Gateways = append(out.Around.Gateways, h.Gateway)
		case h.Gateway.IsValid(), isLinkLocal(e.prefix), f.monitor.isContainer(h.Link):
		case e.connects(subnets[h.Link]):
			out.Around.Networks = append(out.Around.Networks, e.prefix)
		}
	}
}

// connects reports whether e leads to a network that this host is a part of, by an address
// of the link: its subnet, or what the kernel or a router's announcement made of it. A
// route to others behind a tunnel has no gateway either, and may be as wide as it likes.
func (e entry) connects(subnets []netip.Prefix) bool {
	told := e.prefix.Bits() > 0 && (e.protocol == unix.RTPROT_KERNEL || e.protocol == unix.RTPROT_RA)
	return slices.ContainsFunc(subnets, func(s netip.Prefix) bool {
		return e.prefix == s.Masked() || told && e.prefix.Contains(s.Addr())
	})
}

// subnets lists the addresses of each link, with the lengths of their subnets.
func (f *FIB) subnets() (map[int][]netip.Prefix, error) {
	out := map[int][]netip.Prefix{}
	err := f.sock.dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(msg syscall.NetlinkMessage) error {
		if link, subnet, ok := decodeAddress(msg.Data); ok {
			out[link] = append(out[link], subnet)
		}
		return nil
	}, func() { clear(out) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return out, nil
}

// isLinkLocal knows the routes that each link has for itself.
func isLinkLocal(p netip.Prefix) bool {
	return p.Addr().Is6() && (p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast())
}

// Apply writes and removes routes, many with one system call.
func (f *FIB) Apply(ctx context.Context, c reconcile.Changes[netip.Prefix, calc.Route]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	var failed reconcile.KeyErrors[netip.Prefix]
	if err := f.remove(c.Delete, &failed); err != nil {
		return err
	}
	taken, err := f.set(c.Set, &failed)
	if err != nil {
		return err
	}
	if len(taken) == 0 {
		return failed.Err()
	}
	// Something stands there that we did not know of. Look again: it may be ours.
	if _, err := f.list(); err != nil {
		return err
	}
	taken, err = f.set(taken, &failed)
	if err != nil {
		return err
	}
	for _, item := range taken {
		failed.Add(item.Key, errTaken)
	}
	return failed.Err()
}

// errTaken is the failure of a prefix to which another program has a route.
var errTaken = errors.New("another program's route to it stands; remove that one, or its prefix from the pool")

func (f *FIB) remove(prefixes []netip.Prefix, failed *reconcile.KeyErrors[netip.Prefix]) error {
	var reqs []*request
	var keys []netip.Prefix
	for _, p := range prefixes {
		metrics := f.ours[p]
		if len(metrics) == 0 {
			metrics = []uint32{metricOf(p)}
		}
		for _, metric := range metrics {
			reqs = append(reqs, &request{kind: unix.RTM_DELROUTE, payload: f.encodeDelete(p, metric)})
			keys = append(keys, p)
		}
	}
	if err := f.sock.batch(reqs); err != nil {
		return err
	}
	for i, r := range reqs {
		if r.err != nil && !errors.Is(r.err, unix.ESRCH) {
			failed.Add(keys[i], fmt.Errorf("delete route: %w", r.err))
			continue
		}
		delete(f.ours, keys[i])
		delete(f.contested, keys[i])
	}
	return nil
}

type item = reconcile.Item[netip.Prefix, calc.Route]

// set writes routes and returns those for which something else stands there.
func (f *FIB) set(items []item, failed *reconcile.KeyErrors[netip.Prefix]) (taken []item, err error) {
	var reqs []*request
	var sent []item // sent[i] is what the last of its requests, reqs[last[i]], writes
	var last []int
	for _, it := range items {
		if _, ok := f.contested[it.Key]; ok {
			failed.Add(it.Key, errTaken)
			continue
		}
		reqs = append(reqs, f.setRequests(it)...)
		sent, last = append(sent, it), append(last, len(reqs)-1)
	}
	if err := f.sock.batch(reqs); err != nil {
		return nil, err
	}
	var strays []*request
	for i, it := range sent {
		switch err := reqs[last[i]].err; {
		case err == nil:
			strays = append(strays, f.strays(it.Key)...)
			f.ours[it.Key] = []uint32{metricOf(it.Key)}
			f.noteLinks(it.Value.Hops)
		case errors.Is(err, unix.EEXIST):
			delete(f.ours, it.Key)
			taken = append(taken, it)
		default:
			failed.Add(it.Key, fmt.Errorf("set route %s: %w", describe(it.Value), err))
		}
	}
	return taken, f.sock.batch(strays)
}

// setRequests creates a route, or replaces ours in one step. The kernel replaces whatever
// stands there, also what took our route's place a moment ago; felix does that to routes
// to single addresses, so of those ours is removed, by its protocol, and the new one
// created.
func (f *FIB) setRequests(it item) []*request {
	create := &request{kind: unix.RTM_NEWROUTE, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, payload: f.encode(it.Key, it.Value)}
	switch {
	case !slices.Contains(f.ours[it.Key], metricOf(it.Key)):
		return []*request{create}
	case it.Key.IsSingleIP():
		return []*request{{kind: unix.RTM_DELROUTE, payload: f.encodeDelete(it.Key, metricOf(it.Key))}, create}
	}
	create.flags = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	return []*request{create}
}

// strays are requests to remove our routes to p that have another metric: the new one is
// in force already.
func (f *FIB) strays(p netip.Prefix) []*request {
	var out []*request
	for _, metric := range f.ours[p] {
		if metric != metricOf(p) {
			out = append(out, &request{kind: unix.RTM_DELROUTE, payload: f.encodeDelete(p, metric)})
		}
	}
	return out
}

// isOurs reports whether we know of a route of ours to p.
func (f *FIB) isOurs(p netip.Prefix) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.ours[p]
	return ok
}

func (f *FIB) noteLinks(hops []calc.Hop) {
	for _, h := range hops {
		f.links[h.Link] = struct{}{}
	}
}

// uses reports whether a route of ours leads, or led, over a link.
func (f *FIB) uses(link int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.links[link]
	return ok
}

// describe is a route with the names of its links.
func describe(r calc.Route) string {
	if r.Type == calc.Blackhole {
		return "blackhole"
	}
	hops := make([]string, len(r.Hops))
	for i, h := range r.Hops {
		hops[i] = fmt.Sprintf("via %s dev %s", h.Gateway, LinkName(h.Link))
	}
	return strings.Join(hops, " ")
}

// LinkName is the name of a link, or its index when it has gone.
func LinkName(index int) string {
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return fmt.Sprintf("if%d", index)
}
