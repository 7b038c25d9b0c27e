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
	"time"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
	"calico.internal/felix/internal/statusapi"
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
	locateTimeout  = 3 * time.Second

	defaultEtcdPort = "2379"
	nodesPrefix     = model.PrefixBGP + "host/"
)

// locator finds out where the control plane is and tells the loop. It sends its first
// finding only when it knows the nodes, or that it cannot read them.
type locator struct {
	log   *slog.Logger
	etcd  *etcdstore.Client
	board *statusapi.Board
	found chan<- controlPlane

	// resolved and members are what was found last.
	resolved map[string][]netip.AddrPort
	members  []netip.AddrPort
	nodes    []netip.Addr
	// nodesKnown is set once the nodes have been read, or it is known that they cannot be.
	nodesKnown bool
	byNode     map[model.Key]*model.Node
	view       *store.View
	fault      string
}

func newLocator(d *Daemon, found chan<- controlPlane) *locator {
	return &locator{
		log: d.log, etcd: d.cfg.Etcd, board: d.board, found: found, resolved: map[string][]netip.AddrPort{},
		byNode: map[model.Key]*model.Node{},
		view:   store.New(store.Options{Filter: func(k model.Key) bool { return k.Kind() == model.KindNode }, KeepLastGood: true}),
	}
}

func (l *locator) run(ctx context.Context) error {
	batches := l.etcd.Watch(ctx, []string{nodesPrefix}, etcdstore.WatchOptions{})
	l.locate(ctx)
	timer := time.NewTimer(l.pause())
	defer timer.Stop()
	sent := controlPlane{etcd: []netip.AddrPort{{}}} // nothing that is found
	for {
		if now := l.controlPlane(); l.nodesKnown && !now.equal(sent) {
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
			l.takeNodes(b)
		case <-timer.C:
			l.locate(ctx)
			timer.Reset(l.pause())
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *locator) pause() time.Duration {
	if st, _ := l.board.State(); !st.Connected {
		return locateSoon
	}
	return locateInterval
}

// takeNodes follows the addresses of nodes. A store without any node, such as one that was
// emptied, changes nothing.
func (l *locator) takeNodes(b store.Batch) {
	if b.Err != nil {
		l.nodesKnown = l.nodesKnown || errors.Is(b.Err, etcdstore.ErrUnauthorized)
		l.note(fmt.Errorf("the addresses of nodes cannot be read; workloads may reach the BGP port of those that are new: %w", b.Err))
		return
	}
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
	if len(nodes) > 0 {
		slices.SortFunc(nodes, netip.Addr.Compare)
		l.nodes = slices.Compact(nodes)
	}
}

// locate resolves the configured endpoints and asks etcd for its members. What cannot be
// found out stays as it was.
func (l *locator) locate(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, locateTimeout)
	defer cancel()
	var faults []error
	for _, endpoint := range l.etcd.Endpoints() {
		addrs, err := resolve(ctx, endpoint)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		l.resolved[endpoint] = addrs
	}
	resp, err := l.etcd.Raw().MemberList(ctx)
	if err != nil {
		l.note(errors.Join(faults...)) // without etcd, everybody else says so
		return
	}
	var members []netip.AddrPort
	for _, m := range resp.Members {
		for _, u := range m.ClientURLs {
			addrs, err := resolve(ctx, u)
			if err != nil {
				faults = append(faults, err)
			}
			for _, a := range addrs {
				if !a.Addr().IsLoopback() && !a.Addr().IsUnspecified() { // which is another machine's
					members = append(members, a)
				}
			}
		}
	}
	l.members = members
	l.note(errors.Join(faults...))
}

// note logs a fault once.
func (l *locator) note(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != l.fault {
		l.log.Warn("not all of the control plane could be located", logattr.Err, err)
	}
	l.fault = text
}

func (l *locator) controlPlane() controlPlane {
	etcd := slices.Clone(l.members)
	for _, addrs := range l.resolved {
		etcd = append(etcd, addrs...)
	}
	slices.SortFunc(etcd, netip.AddrPort.Compare)
	return controlPlane{etcd: slices.Compact(etcd), nodes: l.nodes}
}

// resolve finds the addresses of a URL.
func resolve(ctx context.Context, endpoint string) ([]netip.AddrPort, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("etcd endpoint: %w", err)
	}
	port, err := strconv.ParseUint(cmp.Or(u.Port(), defaultEtcdPort), 10, 16)
	if err != nil {
		return nil, fmt.Errorf("etcd endpoint %s: port: %w", endpoint, err)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return nil, fmt.Errorf("etcd endpoint %s: %w", endpoint, err)
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
