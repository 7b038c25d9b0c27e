package rules

import (
	"fmt"
	"strings"
	"testing"

	"calico.internal/felix/internal/calc"
	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/store"
)

// cluster is several hosts with one store, from what is written to etcd to the fate of
// packets, without a kernel.
type cluster struct {
	t        *testing.T
	view     *store.View
	hosts    map[string]*clusterHost
	revision int64
}

type clusterHost struct {
	engine  *calc.Engine
	tracker *Tracker
	tracer  *tracer
	members map[desired.SetID]map[desired.Member]bool
}

// container is where a container of the experiment lives.
type container struct{ host, iface, addr string }

func newCluster(t *testing.T, hosts ...string) *cluster {
	c := &cluster{t: t, view: store.New(store.Options{}), hosts: map[string]*clusterHost{}}
	r, err := NewRenderer(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range hosts {
		tk := NewTracker(r, V4)
		c.hosts[name] = &clusterHost{
			engine: calc.New(name, "cali"), tracker: tk, tracer: newTracer(t, V4, tk.Hooks()),
			members: map[desired.SetID]map[desired.Member]bool{},
		}
		c.hosts[name].tracer.apply(ChainChanges{Set: r.OfBridges(nil)})
	}
	return c
}

// put writes to the store; lines are "<path> <value>".
func (c *cluster) put(lines ...string) {
	c.t.Helper()
	c.revision++
	b := store.Batch{Snapshot: c.revision == 1, Revision: c.revision}
	for _, line := range lines {
		path, value, _ := strings.Cut(line, " ")
		b.Puts = append(b.Puts, store.KV{Path: path, Value: []byte(value), ModRevision: c.revision})
	}
	events := c.view.Apply(b)
	if bad := c.view.Quarantined(); len(bad) > 0 {
		c.t.Fatalf("%s: %v", bad[0].Path, bad[0].Err)
	}
	for _, h := range c.hosts {
		h.engine.Apply(events)
		changes := h.engine.Flush()
		h.changeSets(changes)
		h.tracer.apply(h.tracker.Apply(changes))
	}
}

func (h *clusterHost) changeSets(changes desired.Changes) {
	set := func(id desired.SetID, added, removed []desired.Member) {
		if h.members[id] == nil {
			h.members[id] = map[desired.Member]bool{}
		}
		for _, m := range removed {
			delete(h.members[id], m)
		}
		for _, m := range added {
			h.members[id][m] = true
		}
		var list []desired.Member
		for m := range h.members[id] {
			list = append(list, m)
		}
		h.tracer.sets[SetName(V4, id)] = list
	}
	for _, s := range changes.SetsAdded {
		set(s.ID, s.Members, nil)
	}
	for _, d := range changes.SetsChanged {
		set(d.ID, d.Added, d.Removed)
	}
	for _, s := range changes.SetsDeleted {
		delete(h.members, s.ID)
		delete(h.tracer.sets, SetName(V4, s.ID))
	}
}

// reaches sends a ping from one container to another through the hosts of both.
func (c *cluster) reaches(from, to container) bool {
	c.t.Helper()
	p := packet{src: from.addr, dst: to.addr, proto: desired.ICMPv4, icmp: 8}
	if from.host == to.host {
		p.in, p.out = from.iface, to.iface
		got, _ := c.hosts[from.host].tracer.trace(p)
		return got.verdict == Accept
	}
	p.in, p.out = from.iface, "eth0"
	leaves, _ := c.hosts[from.host].tracer.trace(p)
	p.in, p.out = "eth0", to.iface
	arrives, _ := c.hosts[to.host].tracer.trace(p)
	return leaves.verdict == Accept && arrives.verdict == Accept && !leaves.masquerade
}

func (c *cluster) check(what string, want map[string]bool, containers map[string]container) {
	c.t.Helper()
	for pair, open := range want {
		from, to, _ := strings.Cut(pair, "→")
		if got := c.reaches(containers[from], containers[to]); got != open {
			c.t.Errorf("%s: %s: reaches = %v, want %v", what, pair, got, open)
		}
	}
}

// TestReferenceExperiment follows the reference experiment's containers: A and C in net1,
// B and D in net2, A and B on one host, C and D on the other.
func TestReferenceExperiment(t *testing.T) {
	containers := map[string]container{
		"A": {"node00", "cali0000000000a", "192.168.18.64"},
		"B": {"node00", "cali0000000000b", "192.168.18.65"},
		"C": {"node01", "calic000000000c", "192.168.196.128"},
		"D": {"node01", "calid000000000d", "192.168.196.129"},
	}
	endpoint := func(name, extra string) string {
		c := containers[name]
		return fmt.Sprintf(`/calico/v1/host/%s/workload/libnetwork/libnetwork/endpoint/%s {"state":"active","name":"%s","mac":"ee:ee:ee:ee:ee:ee","ipv4_nets":["%s/32"],"ipv6_nets":[],%s}`,
			c.host, name, c.iface, c.addr, extra)
	}
	network := func(name string) []string {
		return []string{
			fmt.Sprintf(`/calico/v1/policy/profile/%s/tags ["%s"]`, name, name),
			fmt.Sprintf(`/calico/v1/policy/profile/%s/rules {"inbound_rules":[{"action":"allow","src_tag":"%s"}],"outbound_rules":[{"action":"allow"}]}`, name, name),
		}
	}
	c := newCluster(t, "node00", "node01")
	c.put(`/calico/v1/ipam/v4/pool/192.168.0.0-16 {"cidr":"192.168.0.0/16","ipip":"","ipip_mode":"","masquerade":true,"ipam":true,"disabled":false}`)
	c.put(append(network("net1"), network("net2")...)...)
	for name, net := range map[string]string{"A": "net1", "B": "net2", "C": "net1", "D": "net2"} {
		c.put(endpoint(name, fmt.Sprintf(`"profile_ids":["%s"]`, net)))
	}
	isolated := map[string]bool{
		"A→C": true, "C→A": true, "B→D": true, "D→B": true,
		"A→B": false, "A→D": false, "B→A": false, "C→D": false, "C→B": false,
	}
	c.check("two networks", isolated, containers)

	c.put(`/calico/v1/policy/profile/net2/rules {"inbound_rules":[{"action":"allow","src_tag":"net2"},{"action":"allow","src_tag":"net1"}],"outbound_rules":[{"action":"allow"}]}`)
	c.check("net2 is opened for net1", map[string]bool{
		"A→C": true, "B→D": true, "A→B": true, "A→D": true, "C→D": true, "B→A": false, "D→C": false,
	}, containers)

	c.put(network("net2")...)
	c.check("net2 is closed again", isolated, containers)

	c.put(
		endpoint("A", `"profile_ids":[],"labels":{"org.projectcalico.label.role":"frontend"}`),
		endpoint("D", `"profile_ids":[],"labels":{"org.projectcalico.label.role":"backend"}`),
	)
	c.check("labels without a policy", map[string]bool{"A→D": false, "D→A": false, "A→C": false}, containers)
	c.put(
		`/calico/v1/policy/tier/default/policy/backend {"order":10,"selector":"org.projectcalico.label.role == 'backend'","inbound_rules":[{"action":"allow","src_selector":"org.projectcalico.label.role == 'frontend'"}],"outbound_rules":[],"types":["ingress"]}`,
		`/calico/v1/policy/tier/default/policy/frontend {"order":10,"selector":"org.projectcalico.label.role == 'frontend'","inbound_rules":[],"outbound_rules":[{"action":"allow","dst_selector":"org.projectcalico.label.role == 'backend'"}]}`,
	)
	c.check("frontend reaches backend and nothing else", map[string]bool{
		"A→D": true, "D→A": false, "A→C": false, "A→B": false, "B→D": false, "C→D": false,
	}, containers)
}
