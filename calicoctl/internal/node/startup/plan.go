package startup

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/calicoctl/internal/node/address"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/trust"
)

// cluster is what the store holds of what the start-up looks at.
type cluster struct {
	nodes    map[string]*model.Node
	pools    []*model.IPPool
	settings map[model.Key]string
	// hasReady says that the flag is there, and ready that it is true: else the store is
	// closed for changes ("calicoctl datastore lock").
	hasReady, ready bool
	// revisions are those of what was found of the flag and the cluster's id.
	revisions map[model.Key]int64
	// where is how messages call the store.
	where string
	// member says that this host has been part of a cluster before, and known is that
	// cluster's id; empty when the host's record does not tell.
	member bool
	known  string
	// running names what shows that this host has containers.
	running []string
	// taken is what hosts have for themselves: this one's networks and gateways, nodes,
	// and etcd.
	taken []localnet.Place
	// unreadable names values that are passed over.
	unreadable []string
}

// guidKey is the id of the cluster.
var guidKey = model.FelixConfigKey{Name: model.ClusterGUID}

// objection says why the store is not the truth for a host that has been part of a cluster;
// empty when it is, or when the host is new. One that has containers is not new, also when
// it has lost its record.
func (c cluster) objection() string {
	if !c.member && len(c.running) == 0 {
		return ""
	}
	v := trust.NewJudge(c.where, c.known).Look(trust.Stored{
		HasReady: c.hasReady, Ready: c.ready, GUID: c.settings[guidKey], Accepted: c.settings[model.AcceptedGUIDKey{}],
	})
	return v.Why
}

// fewNames is how many names a message lists.
const fewNames = 3

func few(names []string) string {
	text := strings.Join(names[:min(len(names), fewNames)], ", ")
	if more := len(names) - fewNames; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// plan is what the start-up will write, and what it says about it.
type plan struct {
	// held says that nothing is written, because the store is not the truth.
	held bool
	// guid is the id of the cluster that this host belongs to from now on.
	guid   string
	lines  []string
	node   *model.Node
	create map[model.Key]model.Resource
	put    map[model.Key]model.Resource
}

func (p *plan) say(format string, args ...any) {
	p.lines = append(p.lines, fmt.Sprintf(format, args...))
}

// makePlan decides everything before anything is written.
func makePlan(ctx context.Context, s settings, c cluster, interfaces []address.Interface, version, guid string) (*plan, error) {
	p := &plan{create: map[model.Key]model.Resource{}, put: map[model.Key]model.Resource{}, node: &model.Node{}}
	if why := c.objection(); why != "" {
		p.held = true
		p.say("WARNING: %s", why)
		if !c.member {
			p.say("WARNING: this host does not know its cluster, but has been part of one, since it has containers (%s)", few(c.running))
		}
		p.say("WARNING: nothing is written to etcd; the programs of this host start, and wait for that")
		return p, nil
	}
	if c.hasReady && !c.ready {
		return p, etcdstore.ErrLocked
	}
	for _, bad := range c.unreadable {
		p.say("WARNING: the store holds a value that cannot be used, mend or delete it: %s", bad)
	}
	if old := c.nodes[s.nodeName]; old != nil {
		kept := *old
		p.node = &kept
	}
	if err := p.addresses(ctx, s, c, interfaces); err != nil {
		return p, err
	}
	p.asNumber(s)
	p.put[model.NodeKey{Name: s.nodeName}] = p.node
	c.taken = append(c.taken, p.own()...)
	p.overlapping(c)
	if err := p.pools(s, c); err != nil {
		return p, err
	}
	p.defaults(s, c, version, guid)
	return p, nil
}

func (p *plan) addresses(ctx context.Context, s settings, c cluster, interfaces []address.Interface) error {
	if s.backend == "none" {
		return nil
	}
	v4, err := p.address(ctx, 4, "IP", orDefault(s.ip4, unlessKnown(p.node.IPv4)), s.method4, p.node.IPv4, interfaces)
	if err != nil {
		return err
	}
	if v4.IsValid() {
		p.node.IPv4, p.node.IPv4Net = v4.Addr(), v4.Masked()
	}
	v6, err := p.address(ctx, 6, "IP6", s.ip6, s.method6, p.node.IPv6, interfaces)
	if err != nil {
		return err
	}
	if v6.IsValid() {
		p.node.IPv6, p.node.IPv6Net = v6.Addr(), v6.Masked()
	}
	if !s.checkConflicts {
		return nil
	}
	return p.conflicts(s.nodeName, c)
}

// unlessKnown asks for detection when the store has no address yet.
func unlessKnown(stored netip.Addr) string {
	if stored.IsValid() {
		return ""
	}
	return "autodetect"
}

// address is the host's address of a family with its subnet, or an invalid prefix
// when what is stored stays.
func (p *plan) address(ctx context.Context, family int, name, asked string, method address.Method, stored netip.Addr, interfaces []address.Interface) (netip.Prefix, error) {
	switch asked {
	case "":
		return netip.Prefix{}, nil
	case "autodetect":
		return p.detect(ctx, family, method, stored, interfaces)
	}
	given, withSubnet, err := parseAddress(asked)
	if err != nil {
		return given, err
	}
	p.say("Using IPv%d address from environment: %s=%s", family, name, asked)
	found, err := address.Find(interfaces, given.Addr())
	if err != nil {
		p.say("WARNING: Unable to confirm IPv%d address %s is assigned to this host", family, given.Addr())
		return given, nil
	}
	p.say("IPv%d address %s discovered on interface %s", family, given.Addr(), found.Interface)
	if withSubnet {
		return given, nil
	}
	return found.Prefix, nil
}

func (p *plan) detect(ctx context.Context, family int, method address.Method, stored netip.Addr, interfaces []address.Interface) (netip.Prefix, error) {
	found, err := method.Choose(ctx, interfaces, family)
	switch {
	case err == nil:
		p.say("Using autodetected IPv%d address on interface %s: %s (method %s)", family, found.Interface, found.Prefix, method)
		return found.Prefix, nil
	case stored.IsValid():
		p.say("Autodetection of IPv%d address failed, keeping existing value: %s", family, stored)
		return netip.Prefix{}, nil
	}
	return netip.Prefix{}, fmt.Errorf("Couldn't autodetect an IPv%d address. "+ //nolint:staticcheck // ST1005: the original's message
		"If auto-detecting, choose a different autodetection method. Otherwise provide an explicit address: %w", family, err)
}

// conflicts refuses an address that another node has.
func (p *plan) conflicts(self string, c cluster) error {
	var names []string
	for name := range c.nodes {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		other := c.nodes[name]
		if name == self {
			continue
		}
		if p.node.IPv4.IsValid() && other.IPv4 == p.node.IPv4 {
			return usedBy(name, "IPv4", other.IPv4)
		}
		if p.node.IPv6.IsValid() && other.IPv6 == p.node.IPv6 {
			return usedBy(name, "IPv6", other.IPv6)
		}
	}
	return nil
}

func usedBy(name, family string, a netip.Addr) error {
	return fmt.Errorf("Calico node '%s' is already using the %s address %s. "+ //nolint:staticcheck // ST1005: the original's message
		"Give this host another address, or delete that node if it is gone (calicoctl delete node %s)", name, family, a, name)
}

func (p *plan) asNumber(s settings) {
	switch {
	case s.as != nil:
		p.say("Using AS number specified in environment (AS=%s)", s.as)
		p.node.ASNumber = s.as
	case p.node.ASNumber != nil:
		p.say("Using AS number %s configured in node resource", p.node.ASNumber)
	default:
		p.say("No AS number configured on node resource, using global value")
	}
}

func (p *plan) pools(s settings, c cluster) error {
	if s.noPools {
		p.say("Skipping IP pool configuration")
		return nil
	}
	said := len(p.lines)
	err := p.pool(s.pool4, c, 4)
	if s.ipv6 {
		err = errors.Join(err, p.pool(s.pool6, c, 6))
	} else {
		p.say("IPv6 supported on this platform: false")
	}
	if err != nil {
		p.lines = p.lines[:said] // nothing is created
	}
	return err
}

// overHosts refuses a pool, and says the way on.
func overHosts(want poolSettings, family int, covers string) error {
	name := fmt.Sprintf("CALICO_IPV%dPOOL_CIDR", family)
	if want.given {
		return fmt.Errorf("%s=%s covers %s: choose a range that no host has a part of "+
			"(or, to have it all the same, start with NO_DEFAULT_POOLS=true and use calicoctl create --force)", name, want.cidr, covers)
	}
	return fmt.Errorf("the default IPv%d pool %s covers %s: set %s to a range that no host has a part of, "+
		"or NO_DEFAULT_POOLS=true, and create pools with calicoctl", family, want.cidr, covers, name)
}

// own is what the host will have for itself as a node.
func (p *plan) own() []localnet.Place {
	var out []localnet.Place
	for _, n := range []netip.Prefix{p.node.IPv4Net, p.node.IPv6Net} {
		if n.IsValid() {
			out = append(out, localnet.Place{Prefix: n, What: "network of this node"})
		}
	}
	for _, a := range []netip.Addr{p.node.IPv4, p.node.IPv6} {
		if a.IsValid() {
			out = append(out, localnet.Place{Prefix: netip.PrefixFrom(a, a.BitLen()), What: "this node"})
		}
	}
	return out
}

// overlapping warns of pools that lie over what hosts have for themselves.
func (p *plan) overlapping(c cluster) {
	for _, pool := range c.pools {
		if covers := localnet.Overlap(c.taken, pool.CIDR); covers != "" {
			p.say("WARNING: pool %s covers %s: no address comes from its blocks there, and containers cannot reach what has those addresses; "+
				"move its containers to a pool elsewhere, and delete it", pool.CIDR, covers)
		}
	}
}

// pool makes the default pool of a family that has none. What the environment asks
// for is said to have no effect when it has none.
func (p *plan) pool(want poolSettings, c cluster, family int) error {
	for _, pool := range c.pools {
		if pool.CIDR.Addr().Is4() != (family == 4) {
			continue
		}
		if want.given && !slices.ContainsFunc(c.pools, func(o *model.IPPool) bool { return o.CIDR == want.cidr }) {
			p.say("WARNING: CALICO_IPV%dPOOL_CIDR=%s has no effect, since there is a pool already (%s); use calicoctl to change pools", family, want.cidr, pool.CIDR)
		}
		if want.ipipMode != model.IPIPOff {
			p.say("WARNING: CALICO_IPV4POOL_IPIP=%s has no effect: IP-in-IP is not served yet, pools are routed directly", want.ipipMode)
		}
		return nil
	}
	if want.ipipMode != model.IPIPOff {
		return fmt.Errorf("CALICO_IPV4POOL_IPIP=%s: IP-in-IP is not served yet: pools are routed directly; leave it out, or say off", want.ipipMode)
	}
	if covers := localnet.Overlap(c.taken, want.cidr); covers != "" {
		return overHosts(want, family, covers)
	}
	p.create[model.IPPoolKey{CIDR: want.cidr}] = &model.IPPool{CIDR: want.cidr, Masquerade: want.nat, IPAM: true}
	p.say("%s", want.natNote)
	p.say("Created default IPv%d pool (%s) with NAT outgoing %t. IPIP mode: off", family, want.cidr, want.nat)
	return nil
}

func felixSetting(value string) *model.Setting {
	return &model.Setting{Of: model.KindFelixConfig, Value: value}
}

// defaults fills in what a cluster must have.
func (p *plan) defaults(s settings, c cluster, version, guid string) {
	if !c.hasReady {
		yes := model.Ready(true)
		p.create[model.ReadyKey{}] = &yes
	}
	absent := func(k model.Key, r model.Resource) {
		if _, ok := c.settings[k]; !ok {
			p.create[k] = r
		}
	}
	absent(guidKey, felixSetting(guid))
	if p.guid = c.settings[guidKey]; p.guid == "" {
		p.guid = guid
	}
	absent(model.FelixConfigKey{Name: "LogSeverityScreen"}, felixSetting("info"))
	for name, value := range map[string]string{
		"as_num": model.DefaultASNumber.String(), "node_mesh": `{"enabled":true}`, "loglevel": "info",
	} {
		absent(model.BGPConfigKey{Name: name}, &model.Setting{Of: model.KindBGPConfig, Value: value})
	}
	p.putIfChanged(c, model.FelixConfigKey{Name: "CalicoVersion"}, version)
	if types := mergeTypes(c.settings[model.FelixConfigKey{Name: "ClusterType"}], s.clusterType); types != "" {
		p.putIfChanged(c, model.FelixConfigKey{Name: "ClusterType"}, types)
	}
}

func (p *plan) putIfChanged(c cluster, k model.FelixConfigKey, value string) {
	if c.settings[k] != value {
		p.put[k] = felixSetting(value)
	}
}

// mergeTypes joins two comma-separated sets, the stored one first.
func mergeTypes(stored, added string) string {
	var all []string
	for t := range strings.SplitSeq(stored+","+added, ",") {
		if t != "" && !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	return strings.Join(all, ",")
}
