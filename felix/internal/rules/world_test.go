package rules

import (
	"net/netip"
	"strings"
	"testing"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
)

// hostAddr is the host's own address.
const hostAddr = "172.28.8.100"

// world is a host with endpoints as tests describe it, and its chains in both families.
type world struct {
	t       testing.TB
	cfg     Config
	changes desired.Changes
	sets    map[desired.SetID][]string
	bridges []string // Docker's, besides docker0
	built   map[Family]*tracer
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, cfg: DefaultConfig(), sets: map[desired.SetID][]string{}}
	w.sets[desired.SetAllPools] = []string{"10.0.0.0/8", "fd00::/16"}
	w.sets[desired.SetMasqPools] = []string{"10.0.0.0/8", "fd00::/16"}
	w.sets[desired.SetNodes] = []string{hostAddr, "172.28.8.101", "fd28::100", "fd28::101"}
	w.sets[desired.SetEtcd] = []string{"172.28.8.10,tcp:12379", "fd28::10,tcp:12379"}
	return w
}

// endpoint adds an endpoint that is up, with the profiles.
func (w *world) endpoint(iface string, profiles ...string) *desired.Endpoint {
	e := &desired.Endpoint{
		Key:       model.WorkloadEndpointKey{Node: "here", Orchestrator: "libnetwork", Workload: "libnetwork", Name: iface},
		Interface: iface, Up: true, Profiles: profiles,
	}
	w.changes.Endpoints = append(w.changes.Endpoints, e)
	return e
}

// profile adds a profile with rules for each direction.
func (w *world) profile(name string, ingress, egress []desired.Rule) {
	w.changes.Profiles = append(w.changes.Profiles, &desired.Profile{
		Name:    name,
		Ingress: withOrigin(model.ProfileKey{Name: name}, desired.Ingress, ingress),
		Egress:  withOrigin(model.ProfileKey{Name: name}, desired.Egress, egress),
	})
}

// policy adds a policy with the same rules for both directions.
func (w *world) policy(tier, name string, rules ...desired.Rule) model.PolicyKey {
	k := model.PolicyKey{Tier: tier, Name: name}
	w.changes.Policies = append(w.changes.Policies, &desired.Policy{
		Key:        k,
		Directions: []desired.Direction{desired.Ingress, desired.Egress},
		Ingress:    withOrigin(k, desired.Ingress, rules),
		Egress:     withOrigin(k, desired.Egress, rules),
	})
	return k
}

func withOrigin(owner model.Key, d desired.Direction, list []desired.Rule) []desired.Rule {
	var out []desired.Rule
	for i, r := range list {
		r.Origin = desired.Origin{Owner: owner, Direction: d, Index: i}
		out = append(out, r)
	}
	return out
}

// tier is a tier with the same policies in both directions.
func tier(name string, policies ...model.PolicyKey) desired.Tier {
	return desired.Tier{Name: name, Ingress: policies, Egress: policies}
}

// send traces a packet through the chains of its family.
func (w *world) send(p packet) fate {
	w.t.Helper()
	f := V4
	if strings.Contains(p.src, ":") {
		f = V6
	}
	got, trail := w.tracer(f).trace(p)
	if w.t.Failed() {
		w.t.Logf("way of %+v:\n  %s", p, strings.Join(trail, "\n  "))
	}
	return got
}

// tracer builds the chains of a family once.
func (w *world) tracer(f Family) *tracer {
	w.t.Helper()
	if w.built == nil {
		w.built = map[Family]*tracer{}
	}
	if w.built[f] == nil {
		r, err := NewRenderer(w.cfg)
		if err != nil {
			w.t.Fatal(err)
		}
		tk := NewTracker(r, f)
		tr := newTracer(w.t, f, tk.Hooks())
		tr.locals = []netip.Addr{netip.MustParseAddr(hostAddr)}
		tr.apply(tk.Apply(w.changes))
		tr.apply(ChainChanges{Set: r.OfBridges(append([]string{"docker0", "docker_gwbridge"}, w.bridges...))})
		for id, members := range w.sets {
			tr.setMembers(id, members...)
		}
		w.built[f] = tr
	}
	return w.built[f]
}

func allow() desired.Rule { return desired.Rule{Action: desired.Allow} }

// allowAll and denyAll are rule lists in short.
func allowAll() []desired.Rule { return []desired.Rule{allow()} }
func denyAll() []desired.Rule  { return []desired.Rule{{Action: desired.Deny}} }

func nets(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func ports(list ...uint16) []desired.PortRange {
	var out []desired.PortRange
	for _, p := range list {
		out = append(out, desired.PortRange{First: p, Last: p})
	}
	return out
}
