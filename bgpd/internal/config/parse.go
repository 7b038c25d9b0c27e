package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"calico.internal/libcalico/model"
)

// DefaultProtocol is BIRD's number in /etc/iproute2/rt_protos, so that "ip route"
// prints "proto bird".
const DefaultProtocol = 12

// maxPassword is TCP_MD5SIG_MAXKEYLEN of the kernel.
const maxPassword = 80

// Parse reads a document. It returns an [*InvalidError] with all faults if it cannot
// be used, and, valid or not, warnings about what it ignores.
func Parse(doc []byte) (Config, []Fault, error) {
	d, root := open(doc)
	var c Config
	if root != nil {
		c = readConfig(root)
		root.done()
	}
	sortFaults(d.warnings)
	if len(d.faults) > 0 {
		sortFaults(d.faults)
		return Config{}, d.warnings, &InvalidError{Faults: d.faults}
	}
	c.Hash = HashOf(doc)
	return c, d.warnings, nil
}

func readConfig(t *table) Config {
	c := Config{
		Node:       t.text("node"),
		RouterID:   t.addr("router_id"),
		ASNumber:   t.asNumber("as_number"),
		Listen:     t.listenAddresses(),
		ListenPort: t.port("listen_port", 179),
		LogLevel:   LogLevel(t.choice("log_level", string(LogInfo), string(LogNone), string(LogInfo), string(LogDebug))),
		Networks:   t.networks("networks"),
		Mesh:       readMesh(t.table("mesh")),
		Timers:     readTimers(t.table("timers")),
		Import:     readImport(t.table("import")),
		Protocol:   readKernel(t.table("kernel")),
		Pools:      readPools(t.tables("pool")),
	}
	t.require("node", c.Node != "")
	c.RouterID = t.routerID(c)
	c.Peers = readPeers(t.tables("peer"), c)
	return c
}

// routerID checks the BGP identifier, or chooses one: the IPv4 address, else a hash of
// the node's name.
func (t *table) routerID(c Config) netip.Addr {
	switch {
	case c.RouterID.Is4():
		return c.RouterID
	case c.RouterID.IsValid():
		t.fault("router_id", "is %q, must be an IPv4 address", c.RouterID)
		return netip.Addr{}
	}
	if v4 := c.ListenOf(netip.IPv4Unspecified()); v4.IsValid() {
		return v4
	}
	return routerIDOf(c.Node)
}

// asNumber reads an AS number: a number, its decimal text, or asdot text ("1.10").
func (t *table) asNumber(key string) model.ASNumber {
	raw, ok := t.get(key)
	if !ok {
		t.fault(key, "is missing")
		return 0
	}
	n, err := parseASNumber(fmt.Sprint(raw))
	if err != "" {
		t.fault(key, "is %s, %s", describe(raw), err)
	}
	return n
}

func parseASNumber(s string) (_ model.ASNumber, fault string) {
	n, err := model.ParseASNumber(s)
	switch {
	case err != nil:
		return 0, "must be an AS number from 1 to 4294967294"
	case n.Reserved():
		return 0, "which is reserved and nobody's own AS number (RFC 7607, 6793, 7300)"
	}
	return n, ""
}

func (t *table) listenAddresses() []netip.Addr {
	const key = "listen_addresses"
	var out []netip.Addr
	for _, s := range t.texts(key) {
		a, text := parseAddr(s)
		if text != "" {
			t.fault(key, "%s", text)
			continue
		}
		if slices.ContainsFunc(out, func(o netip.Addr) bool { return o.Is4() == a.Is4() }) {
			t.fault(key, "has two addresses of one family; one IPv4 and one IPv6 address are possible")
			continue
		}
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

func (t *table) networks(key string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range t.texts(key) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			t.fault(key, "%q is not a network", s)
			continue
		}
		out = append(out, p.Masked())
	}
	return out
}

func readMesh(t *table) bool {
	defer t.done()
	return t.flag("enabled", true)
}

func readTimers(t *table) Timers {
	defer t.done()
	s := func(key string, def int) time.Duration { return time.Duration(t.seconds(key, def)) * time.Second }
	tm := Timers{Hold: s("hold", 90), ConnectRetry: s("connect_retry", 1), Restart: s("restart", 120)}
	if tm.Hold < 3*time.Second {
		t.fault("hold", "is %d, must be at least 3 (RFC 4271)", int(tm.Hold/time.Second))
	}
	if tm.Restart > 4095*time.Second {
		t.fault("restart", "is %d, must be at most 4095 (RFC 4724)", int(tm.Restart/time.Second))
	}
	return tm
}

func readImport(t *table) Import {
	defer t.done()
	return Import{DefaultRoute: t.flag("default_route", false), CoveringNodes: t.flag("covering_nodes", false)}
}

// readKernel refuses the numbers that the kernel and its own tools use (0 to 4).
func readKernel(t *table) uint8 {
	defer t.done()
	return uint8(t.number("protocol", DefaultProtocol, 5, 255))
}

// readPools reads all pools and keeps, of several with one network, the first. Names of
// keys tell apart what is the same network in another spelling.
func readPools(ts []*table) []Pool {
	var out []Pool
	seen := map[netip.Prefix]bool{}
	for _, t := range ts {
		p := readPool(t)
		if seen[p.CIDR] && p.CIDR.IsValid() {
			t.warn("cidr", "%s stands there twice; the first one counts", p.CIDR)
			continue
		}
		seen[p.CIDR] = true
		out = append(out, p)
	}
	slices.SortFunc(out, byCIDR)
	return out
}

func readPool(t *table) Pool {
	defer t.done()
	p := Pool{
		IPIP:     IPIPMode(t.choice("ipip", "", string(IPIPOff), string(IPIPAlways), string(IPIPCrossSubnet))),
		Disabled: t.flag("disabled", false),
		Export:   t.flag("export", true),
	}
	s := t.text("cidr")
	cidr, err := netip.ParsePrefix(s)
	switch {
	case s == "":
		t.fault("cidr", "is missing")
	case err != nil:
		t.fault("cidr", "%q is not a network", s)
	case cidr != cidr.Masked():
		t.fault("cidr", "%q has bits beyond its length; did you mean %q?", s, cidr.Masked())
	case cidr.Addr().Is6() && p.IPIP != IPIPOff:
		t.fault("ipip", "is %q, but an IPv6 pool cannot use IP-in-IP", p.IPIP)
	}
	p.CIDR = cidr
	return p
}

// readPeers reads all peers and keeps, of several with one address, the most specific.
func readPeers(ts []*table, c Config) []Peer {
	byAddress := make(map[netip.Addr]Peer, len(ts))
	for _, t := range ts {
		p := readPeer(t)
		before, twice := byAddress[p.Address]
		if p.Address.IsValid() && c.canReach(t, p) && (!twice || replaces(t, p, before)) {
			byAddress[p.Address] = p
		}
	}
	return slices.SortedFunc(maps.Values(byAddress), byAddr)
}

func readPeer(t *table) Peer {
	defer t.done()
	p := Peer{
		Name:            t.text("name"),
		Type:            PeerType(t.choice("type", "", string(PeerMesh), string(PeerGlobal), string(PeerNode))),
		Address:         t.addr("address"),
		ASNumber:        t.asNumber("as_number"),
		Password:        Secret(t.text("password")),
		Port:            t.port("port", 179),
		ReflectorClient: t.flag("route_reflector_client", false),
		ClusterID:       t.addr("cluster_id"),
	}
	t.requireText("name", p.Name != "", "is missing")
	t.requireText("address", t.has("address"), "is missing")
	if len(p.Password) > maxPassword {
		t.fault("password", "has %d bytes, at most %d are possible", len(p.Password), maxPassword)
	}
	if p.ClusterID.IsValid() && !p.ClusterID.Is4() {
		t.fault("cluster_id", "is %q, must be a dotted quad", p.ClusterID)
	}
	return p
}

// canReach reports whether a peer is another host of a family that this one speaks.
func (c Config) canReach(t *table, p Peer) bool {
	switch {
	case slices.Contains(c.Listen, p.Address):
		t.warn("address", "%s is this host's own, ignored", p.Address)
		return false
	case !c.ListenOf(p.Address).IsValid():
		t.warn("address", "%s is of a family of which this host has no BGP address, ignored", p.Address)
		return false
	}
	return true
}

// replaces decides between a peer and one with its address that was read before: the more
// specific one counts, of two alike the first.
func replaces(t *table, p, before Peer) bool {
	if before.Type == p.Type {
		t.warn("address", "%s is the %s peer %s already; the first one counts", p.Address, before.Type, before.Name)
		return false
	}
	order := []PeerType{PeerMesh, PeerGlobal, PeerNode}
	wins := slices.Index(order, p.Type) > slices.Index(order, before.Type)
	kept, lost := before, p
	if wins {
		kept, lost = p, before
	}
	t.warn("address", "%s is also the %s peer %s, which is ignored: %s counts", p.Address, lost.Type, lost.Name, kept.Name)
	return wins
}
