package nodestart

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/trust"
)

// cluster is what the store holds of what the start-up looks at.
type cluster struct {
	// nodes are all nodes with their addresses; only of this one, and of one whose name
	// differs by case only, there is all that is stored.
	nodes    map[string]*model.Node
	pools    []*model.IPPool
	settings map[model.Key]string
	// hasReady says that the flag is there, and ready that it is true: else the store is
	// closed for changes ("calicoctl datastore lock").
	hasReady, ready bool
	// lockedBy is who has closed it, if that is known.
	lockedBy *model.Lock
	// revisions are those of what was found, but for other nodes, and revision is etcd's at
	// which their addresses were read.
	revisions map[model.Key]int64
	revision  int64
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
	// damaged are the nodes of which something that is stored cannot be read, and unusable
	// what of it, by its paths, a start-up cannot find out again.
	damaged  map[string]bool
	unusable map[string][]string
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
	name string
	host model.Identity
	// held says why nothing is written: the store is not the truth. Empty when it is.
	held string
	// exclusive says that no other node may have an address of this one.
	exclusive bool
	// guid is the id of the cluster that this host belongs to from now on.
	guid string
	// lines are said whatever happens, and done when all is written.
	lines, done []string
	// before is the node as it is stored, nil when it is not.
	before, node *model.Node
	// writes are what changes, but for the node.
	writes map[model.Key]model.Resource
}

func (p *plan) say(format string, args ...any) {
	p.lines = append(p.lines, fmt.Sprintf(format, args...))
}

func (p *plan) warn(format string, args ...any) { p.say("WARNING: "+format, args...) }

func (p *plan) did(format string, args ...any) { p.done = append(p.done, fmt.Sprintf(format, args...)) }

// newPlan looks whether anything may be written at all, and begins with what is stored of the
// node.
func newPlan(name string, host model.Identity, c cluster) (*plan, error) {
	p := &plan{name: name, host: host, node: &model.Node{}, writes: map[model.Key]model.Resource{}}
	if p.held = c.objection(); p.held != "" {
		p.warn("%s", p.held)
		if !c.member {
			p.warn("this host does not know its cluster, but has been part of one, since it has containers (%s)", few(c.running))
		}
		p.warn("nothing is written to etcd; the programs of this host start, and wait for that")
		return p, nil
	}
	if c.hasReady && !c.ready {
		return p, etcdstore.Locked(c.lockedBy)
	}
	for _, bad := range c.unreadable {
		p.warn("the store holds a value that cannot be used, mend or delete it: %s", bad)
	}
	if err := unreadableNode(name, c.unusable[name]); err != nil {
		return p, err
	}
	if p.before = c.nodes[name]; p.before != nil {
		kept := *p.before
		p.node = &kept
	}
	return p, nil
}

// rest decides, when the addresses are known, about all the rest. guid is the cluster's id if
// it has none yet, version this program's.
func (p *plan) rest(s settings, c cluster, version, guid string) error {
	p.asNumber(s)
	p.node.Host, p.node.Programs = p.host, s.reporting()
	p.exclusive = s.checkConflicts && s.backend != backendNone
	c.taken = append(slices.Clip(c.taken), p.own()...)
	p.overlapping(c)
	if err := p.pools(s, c); err != nil {
		return err
	}
	p.defaults(s, c, version, guid)
	for _, name := range s.ignored {
		p.warn("%s has no effect here", name)
	}
	return nil
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

func felixSetting(value string) *model.Setting {
	return &model.Setting{Of: model.KindFelixConfig, Value: value}
}

// defaults fills in what a cluster must have.
func (p *plan) defaults(s settings, c cluster, version, guid string) {
	if !c.hasReady {
		yes := model.Ready(true)
		p.writes[model.ReadyKey{}] = &yes
		p.did("Ready flag is now set")
	}
	absent := func(k model.Key, r model.Resource) {
		if _, ok := c.settings[k]; !ok {
			p.writes[k] = r
		}
	}
	absent(guidKey, felixSetting(guid))
	if p.guid = c.settings[guidKey]; p.guid == "" {
		p.guid = guid
		p.did("Assigned cluster GUID: %s", guid)
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
		p.writes[k] = felixSetting(value)
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
