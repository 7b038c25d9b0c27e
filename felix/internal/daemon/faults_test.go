package daemon

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/iptables"
	"calico.internal/felix/internal/rules"
	"calico.internal/felix/internal/statusapi"
	"calico.internal/libcalico/model"
)

// looker is a loop with n endpoints, each of which has a policy of its own, that has nothing
// in the kernel.
func looker(n int) *loop {
	targets := map[rules.Family]map[rules.Table]*iptables.Target{}
	for _, f := range rules.Families {
		targets[f] = map[rules.Table]*iptables.Target{rules.Filter: nil, rules.Mangle: nil, rules.NAT: nil}
	}
	chains := newChains(targets, nil)
	d := &dataplane{
		links: ifmonitor.NewLinks(), families: rules.Families[:], chains: chains, filters: newFilters(chains),
		policies: map[model.PolicyKey]*desired.Policy{}, profiles: map[string]*desired.Profile{},
	}
	d.workloads = newWorkloads(d)
	var links []ifmonitor.Link
	for i := range n {
		p := &desired.Policy{Key: policyNumber(i), Directions: []desired.Direction{desired.Ingress}}
		d.policies[p.Key] = p
		e := &desired.Endpoint{
			Key: endpointNumber(i), Interface: fmt.Sprint("cali", i), Up: true, Profiles: []string{"p"},
			Tiers: []desired.Tier{{Name: "default", Ingress: []model.PolicyKey{p.Key}}},
		}
		d.workloads.byKey[endpointNumber(i)] = &workload{endpoint: e}
		d.workloads.dirty[endpointNumber(i)] = struct{}{}
		links = append(links, ifmonitor.Link{Index: i + 1, Name: e.Interface, Up: true})
	}
	d.links.Apply(ifmonitor.Event{Snapshot: true, Links: links})
	return &loop{log: slog.New(slog.DiscardHandler), dp: d, state: statusapi.State{Endpoints: map[model.WorkloadEndpointKey]statusapi.Endpoint{}}}
}

func policyNumber(i int) model.PolicyKey { return model.NewPolicyKey("default", fmt.Sprint(i)) }

func endpointNumber(i int) model.WorkloadEndpointKey {
	return model.WorkloadEndpointKey{Node: "here", Orchestrator: "o", Workload: "w", Name: fmt.Sprint(i)}
}

// fault has a chain be at fault.
func (l *loop) fault(id rules.ChainID) { l.faultOf(rules.V4, id) }

func (l *loop) faultOf(f rules.Family, id rules.ChainID) {
	l.dp.filters.unprintable[chainKey{f, id}] = fmt.Errorf("no IPv%d", f)
}

func (l *loop) expectNotInForce(t *testing.T, when string, want ...int) {
	t.Helper()
	l.lookAtEndpoints()
	bad := map[int]bool{}
	for _, i := range want {
		bad[i] = true
	}
	for i := range len(l.state.Endpoints) {
		e := l.state.Endpoints[endpointNumber(i)]
		if e.InForce() == bad[i] {
			t.Errorf("%s: of endpoint %d it is said %q", when, i, e.Why)
		}
	}
}

func TestAFaultConcernsTheEndpointsThatPassIt(t *testing.T) {
	l := looker(4)
	l.expectNotInForce(t, "without a fault")
	l.fault(rules.EndpointChains(l.dp.workloads.byKey[endpointNumber(1)].endpoint)[0])
	l.expectNotInForce(t, "an endpoint's own chain", 1)
	policy := rules.PolicyChains(l.dp.policies[policyNumber(2)])[0]
	l.fault(policy)
	l.expectNotInForce(t, "a policy's chain", 1, 2)
	l.fault(rules.ChainID{Table: rules.Mangle, Name: rules.PolicyChains(l.dp.policies[policyNumber(3)])[0].Name})
	l.fault(rules.PolicyChains(&desired.Policy{Key: policyNumber(99), Directions: []desired.Direction{desired.Egress}})[0])
	l.expectNotInForce(t, "chains that no packet of theirs passes", 1, 2)
	clear(l.dp.filters.unprintable)
	l.expectNotInForce(t, "mended")
	l.fault(rules.ChainID{Table: rules.Filter, Name: "cali-FORWARD"})
	l.expectNotInForce(t, "the frame", 0, 1, 2, 3)
	if why := l.state.Endpoints[endpointNumber(0)].Why; !strings.Contains(why, "cali-FORWARD") {
		t.Errorf("the reason is %q", why)
	}
}

// TestWhatIsMissingInNATConcernsNoEndpoint has chains in the nat table be at fault in all ways in
// which a chain can be.
func TestWhatIsMissingInNATConcernsNoEndpoint(t *testing.T) {
	l := looker(2)
	l.fault(rules.ChainID{Table: rules.NAT, Name: "cali-nat-outgoing"})
	l.expectNotInForce(t, "one that cannot be printed")
	set := rules.SetName(rules.V4, desired.SetMasqPools)
	l.dp.filters.broken = map[string]string{set: "full"}
	l.dp.filters.closed[chainKey{rules.V4, rules.ChainID{Table: rules.NAT, Name: "cali-nat-outgoing"}}] = set
	l.expectNotInForce(t, "one that names a broken set")
	l.dp.filters.closed[chainKey{rules.V4, rules.ChainID{Table: rules.Filter, Name: "cali-FORWARD"}}] = set
	l.expectNotInForce(t, "one that filters", 0, 1)
}

func TestAFaultConcernsTheEndpointsOfItsFamily(t *testing.T) {
	l := looker(1)
	e := *l.dp.workloads.byKey[endpointNumber(0)].endpoint
	v4, v6 := netip.MustParsePrefix("192.168.0.1/32"), netip.MustParsePrefix("fd00:80::1/128")
	frame := rules.ChainID{Table: rules.Filter, Name: "cali-FORWARD"}
	for _, id := range []rules.ChainID{rules.EndpointChains(&e)[0], rules.PolicyChains(l.dp.policies[policyNumber(0)])[0], rules.ProfileChains("p")[1], frame} {
		clear(l.dp.filters.unprintable)
		l.faultOf(rules.V6, id)
		faults := l.dp.filterFaults()
		for _, c := range []struct {
			nets      []netip.Prefix
			concerned bool
		}{{nil, true}, {[]netip.Prefix{v4}, false}, {[]netip.Prefix{v6}, true}, {[]netip.Prefix{v4, v6}, true}} {
			e.Nets = c.nets
			if why := faults.concerning(l.dp, &e); (why != "") != c.concerned {
				t.Errorf("a fault of %s for IPv6, and an endpoint with %v: %q", id.Name, c.nets, why)
			}
		}
	}
}

// TestThatFaultsStayIsNoChange has chains refused for both families: it is the same as before each
// time that it is looked at, and so is what is said of an endpoint.
func TestThatFaultsStayIsNoChange(t *testing.T) {
	l := looker(1)
	e := l.dp.workloads.byKey[endpointNumber(0)].endpoint
	for _, f := range rules.Families {
		for _, name := range []string{"cali-FORWARD", "cali-INPUT", "cali-allow"} {
			l.faultOf(f, rules.ChainID{Table: rules.Filter, Name: name})
		}
	}
	first := l.dp.filterFaults()
	why := first.concerning(l.dp, e)
	for range 100 {
		now := l.dp.filterFaults()
		if !now.equal(first) {
			t.Fatalf("faults are %v, before %v", now, first)
		}
		if got := now.concerning(l.dp, e); got != why {
			t.Fatalf("of an endpoint it is said %q, before %q", got, why)
		}
	}
}

// TestWhatOnlyTheHostPassesConcernsNoEndpoint has the chains be at fault that lead to the failsafe
// ports of the host.
func TestWhatOnlyTheHostPassesConcernsNoEndpoint(t *testing.T) {
	l := looker(1)
	for _, name := range []string{"cali-failsafe-in", "cali-failsafe-out", "cali-etcd-in", "cali-etcd-out", "cali-from-host-endpoint", "cali-to-host-endpoint"} {
		l.fault(rules.ChainID{Table: rules.Filter, Name: name})
	}
	for _, name := range []string{"cali-untracked-in", "cali-untracked-out", "cali-failsafe-in"} {
		l.fault(rules.ChainID{Table: rules.Raw, Name: name})
	}
	l.expectNotInForce(t, "what only packets of the host pass")
	l.fault(rules.ChainID{Table: rules.Raw, Name: "cali-from-host-endpoint"})
	l.expectNotInForce(t, "what packets to a container pass as well", 0)
}

// TestWithAFaultAChangeCostsNoMoreThanWithout counts what is allocated for a change of one
// endpoint, with a fault and many other endpoints.
func TestWithAFaultAChangeCostsNoMoreThanWithout(t *testing.T) {
	cost := func(n int) float64 {
		l := looker(n)
		l.fault(rules.PolicyChains(l.dp.policies[policyNumber(0)])[0])
		l.lookAtEndpoints()
		return testing.AllocsPerRun(5, func() {
			l.dp.workloads.dirty[endpointNumber(1)] = struct{}{}
			l.lookAtEndpoints()
		})
	}
	if few, many := cost(10), cost(2000); many > 2*few+50 {
		t.Errorf("a change allocates %v times with 10 endpoints, %v times with 2000", few, many)
	}
}
