package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// controlPlane is where the control plane is: what workloads must not reach, and what this
// host must.
type controlPlane struct {
	// etcd are the endpoints that felix is configured with, and the members' own.
	etcd []netip.AddrPort
	// nodes are the addresses by which the nodes speak BGP.
	nodes []netip.Addr
}

func (c controlPlane) equal(d controlPlane) bool {
	return slices.Equal(c.etcd, d.etcd) && slices.Equal(c.nodes, d.nodes)
}

const (
	// locateInterval is how often names are resolved and etcd's members are asked for;
	// locateSoon while etcd does not answer, since then it may have moved.
	locateInterval = 30 * time.Second
	locateSoon     = 2 * time.Second
	// locateTimeout bounds each look-up: none takes the time of another.
	locateTimeout = 3 * time.Second

	defaultEtcdPort = "2379"
	nodesPrefix     = model.PrefixBGP + "host/"
)

// locator finds out where the control plane is and tells the loops, one after another. It
// sends its first finding only when it knows the nodes and etcd's members, or that it cannot
// read them: until then what stands in the kernel from before stays.
type locator struct {
	log   *slog.Logger
	etcd  *etcdstore.Client
	guard *etcdstore.Guard
	found chan<- controlPlane
	// unlocated is told what is not found.
	unlocated *notice
	// lookup finds the addresses of a host.
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

	// members are the URLs of etcd's members, and resolved the places of these and of the
	// configured endpoints.
	members  []string
	resolved map[string]place
	nodes    []netip.Addr
	// lost says that etcd does not answer.
	lost bool
	// nodesKnown and membersKnown are set once the nodes and the members have been read, or it
	// is known that they cannot be.
	nodesKnown, membersKnown bool
	byNode                   map[model.Key]*model.Node
	view                     *store.View
	// nodesFault and membersFault are why the nodes and the members cannot be read.
	nodesFault, membersFault error
	// told are the kinds of faults that were told; misses counts the tries in a row in which
	// something was not found.
	told   string
	misses int
}

// place is where a URL leads to, as it was found last, and why that cannot be found out now.
type place struct {
	addrs []netip.AddrPort
	fault error
}

func newLocator(d *Daemon, found chan<- controlPlane) *locator {
	return &locator{
		log: d.log, etcd: d.cfg.Etcd, guard: d.guard, found: found, unlocated: d.unlocated, lookup: net.DefaultResolver.LookupNetIP,
		resolved: map[string]place{}, byNode: map[model.Key]*model.Node{},
		view: store.New(store.Options{
			Filter: func(k model.Key) bool { return k.Kind() == model.KindNode }, KeepLastGood: true, Facts: []model.Kind{model.KindNode},
		}),
	}
}

func (l *locator) run(ctx context.Context) error {
	batches := l.guard.Watch(ctx, []string{nodesPrefix}, etcdstore.WatchOptions{})
	l.locate(ctx)
	timer := time.NewTimer(l.pause())
	defer timer.Stop()
	sent := controlPlane{etcd: []netip.AddrPort{{}}} // nothing that is found
	for {
		if now := l.controlPlane(); l.nodesKnown && l.membersKnown && !now.equal(sent) {
			select {
			case l.found <- now:
				sent = now
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case b, ok := <-batches:
			if !ok {
				return nil
			}
			if l.takeNodes(b) {
				l.locate(ctx)
				timer.Reset(l.pause())
			}
		case <-timer.C:
			l.locate(ctx)
			timer.Reset(l.pause())
		case <-ctx.Done():
			return nil
		}
	}
}

// pause is the time until the next look: a short one while something is not found, which
// grows where that lasts.
func (l *locator) pause() time.Duration {
	switch {
	case l.lost || !l.membersKnown:
		return locateSoon
	case l.misses > 0:
		return min(locateSoon<<min(l.misses-1, 16), locateInterval)
	}
	return locateInterval
}

// takeNodes follows the addresses of nodes. One goes when it is deleted, not by being absent
// from a store that was emptied or restored. It reports whether etcd was lost, and may be
// elsewhere since, or is back.
func (l *locator) takeNodes(b store.Batch) (turned bool) {
	lost := errors.Is(b.Err, etcdstore.ErrUnavailable)
	turned = lost != l.lost
	if l.lost = lost; lost {
		return turned // of which everybody else tells
	}
	l.nodesFault = nil
	if b.Err != nil {
		l.nodesKnown = l.nodesKnown || errors.Is(b.Err, etcdstore.ErrUnauthorized)
		l.nodesFault = fmt.Errorf("the addresses of nodes cannot be read; workloads may reach the BGP port of those that are new: %w", b.Err)
		l.tell()
		return turned
	}
	b.Restored = b.Snapshot
	for _, e := range l.view.Apply(b) {
		if n, ok := e.Value.(*model.Node); ok {
			l.byNode[e.Key] = n
		} else {
			delete(l.byNode, e.Key)
		}
	}
	l.nodesKnown = l.nodesKnown || l.view.InSync()
	var nodes []netip.Addr
	for _, node := range l.byNode {
		for _, a := range []netip.Addr{node.IPv4, node.IPv6} {
			if a.IsValid() {
				nodes = append(nodes, a)
			}
		}
	}
	slices.SortFunc(nodes, netip.Addr.Compare)
	l.nodes = slices.Compact(nodes)
	l.tell()
	return turned
}

// locate asks etcd for its members, and resolves their URLs and the configured endpoints.
// What cannot be found out stays as it was: a member goes when etcd has it no more.
func (l *locator) locate(ctx context.Context) {
	if !l.lost { // which is asked as soon as it is back
		l.askMembers(ctx)
	}
	urls := slices.Concat(l.etcd.Endpoints(), l.members)
	slices.Sort(urls)
	urls = slices.Compact(urls)
	places := l.resolveAll(ctx, urls)
	missing := l.membersFault != nil
	resolved := map[string]place{}
	for i, u := range urls {
		if places[i].fault != nil {
			places[i].addrs, missing = l.resolved[u].addrs, true
		}
		resolved[u] = places[i]
	}
	l.resolved = resolved
	if l.misses++; !missing {
		l.misses = 0
	}
	if ctx.Err() == nil {
		l.tell()
	}
}

// askMembers asks etcd for its members. Of an etcd that does not answer at all everybody
// else tells.
func (l *locator) askMembers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, locateTimeout)
	defer cancel()
	urls, err := l.etcd.MemberURLs(ctx)
	l.membersFault = nil
	if errors.Is(err, context.Canceled) || errors.Is(err, etcdstore.ErrUnavailable) && !l.view.Connected() {
		return
	}
	l.membersKnown = l.membersKnown || !errors.Is(err, etcdstore.ErrUnavailable)
	if err != nil {
		l.membersFault = fmt.Errorf("etcd does not tell its members: %w", err)
		return
	}
	l.members = urls
}

// resolveAll finds the places of URLs, all at the same time: a name service that does not
// answer for one is not to take the time of the others.
func (l *locator) resolveAll(ctx context.Context, urls []string) []place {
	ctx, cancel := context.WithTimeout(ctx, locateTimeout)
	defer cancel()
	places := make([]place, len(urls))
	var wg sync.WaitGroup
	for i, u := range urls {
		wg.Go(func() { places[i].addrs, places[i].fault = l.resolve(ctx, u) })
	}
	wg.Wait()
	return places
}

// tell has the status say what is not found, and logs it once a change of its kind.
func (l *locator) tell() {
	var texts, kinds []string
	add := func(of string, err error) {
		if err != nil {
			texts, kinds = append(texts, err.Error()), append(kinds, of+": "+etcdstore.Kind(err))
		}
	}
	add("nodes", l.nodesFault)
	add("members", l.membersFault)
	for _, u := range slices.Sorted(maps.Keys(l.resolved)) {
		add(u, l.resolved[u].fault)
	}
	text, kind := strings.Join(texts, "; "), strings.Join(kinds, "; ")
	l.unlocated.set(text)
	switch {
	case kind == l.told:
	case kind == "":
		l.log.Info("all of the control plane is located")
	default:
		l.log.Warn("not all of the control plane could be located", logattr.Err, text)
	}
	l.told = kind
}

func (l *locator) controlPlane() controlPlane {
	var etcd []netip.AddrPort
	for _, u := range l.etcd.Endpoints() {
		etcd = append(etcd, l.resolved[u].addrs...)
	}
	for _, u := range l.members {
		for _, a := range l.resolved[u].addrs {
			if !a.Addr().IsLoopback() && !a.Addr().IsUnspecified() { // which is another machine's
				etcd = append(etcd, a)
			}
		}
	}
	slices.SortFunc(etcd, netip.AddrPort.Compare)
	return controlPlane{etcd: slices.Compact(etcd), nodes: l.nodes}
}

// resolve finds the addresses of a URL.
func (l *locator) resolve(ctx context.Context, endpoint string) ([]netip.AddrPort, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("etcd endpoint: %w", err)
	}
	port, err := strconv.ParseUint(cmp.Or(u.Port(), defaultEtcdPort), 10, 16)
	if err != nil {
		return nil, fmt.Errorf("etcd endpoint %s: port: %w", endpoint, err)
	}
	addrs, err := l.lookup(ctx, "ip", u.Hostname())
	if err != nil {
		return nil, fmt.Errorf("etcd endpoint %s: %s", endpoint, etcdstore.DialReason(err))
	}
	out := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		out[i] = netip.AddrPortFrom(a.Unmap().WithZone(""), uint16(port))
	}
	return out, nil
}

// setControlPlane makes the sets of the control plane what is given. It reports whether a
// pass is due.
func (d *dataplane) setControlPlane(c controlPlane) (changed bool) {
	d.control = c
	etcd, nodes := map[desired.Member]struct{}{}, map[desired.Member]struct{}{}
	for _, a := range c.etcd {
		if !a.Addr().IsLoopback() {
			etcd[desired.Member{Net: hostNet(a.Addr()), Protocol: desired.TCP, Port: a.Port()}] = struct{}{}
		}
	}
	for _, a := range c.nodes {
		nodes[desired.Member{Net: hostNet(a)}] = struct{}{}
	}
	changed = d.replaceMembers(desired.SetEtcd, etcd)
	changed = d.replaceMembers(desired.SetNodes, nodes) || changed
	return d.setEtcdPorts() || changed
}

func hostNet(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// addControlPlane makes the sets of the control plane, without members.
func (d *dataplane) addControlPlane() {
	d.controlMembers = map[desired.SetID]map[desired.Member]struct{}{}
	d.addSet(desired.IPSet{ID: desired.SetEtcd, Kind: desired.SetAddressPorts})
	d.addSet(desired.IPSet{ID: desired.SetNodes, Kind: desired.SetAddresses})
}

func (d *dataplane) replaceMembers(id desired.SetID, members map[desired.Member]struct{}) (changed bool) {
	delta := desired.SetDelta{ID: id}
	before := d.controlMembers[id]
	for m := range members {
		if _, ok := before[m]; !ok {
			delta.Added = append(delta.Added, m)
		}
	}
	for m := range before {
		if _, ok := members[m]; !ok {
			delta.Removed = append(delta.Removed, m)
		}
	}
	d.controlMembers[id] = members
	d.changeSet(delta)
	return len(delta.Added)+len(delta.Removed) > 0
}

// setEtcdPorts finds the ports at which etcd listens on this host: a workload that is kept
// from one of the host's addresses could use another. It reports whether chains changed.
func (d *dataplane) setEtcdPorts() (changed bool) {
	ports := map[uint16]struct{}{}
	for _, a := range d.control.etcd {
		if a.Addr().IsLoopback() || d.isLocal(a.Addr()) {
			ports[a.Port()] = struct{}{}
		}
	}
	sorted := slices.Sorted(maps.Keys(ports))
	if slices.Equal(sorted, d.etcdPorts) {
		return false
	}
	d.etcdPorts = sorted
	renderer, err := rules.NewRenderer(d.rulesConfig())
	if err != nil {
		return false // as it was before, with which the present one was made
	}
	d.renderer = renderer
	d.changeChains(func(t *rules.Tracker) rules.ChainChanges { return t.Reconfigure(renderer) })
	return true
}

// isLocal reports whether an address is the host's own.
func (d *dataplane) isLocal(a netip.Addr) bool {
	for _, addrs := range d.hostAddrs {
		if slices.Contains(addrs, a) {
			return true
		}
	}
	return false
}

// rulesConfig is what the rules depend on.
func (d *dataplane) rulesConfig() rules.Config {
	c := d.cfg.Rules()
	c.EtcdPorts = d.etcdPorts
	return c
}
