package daemon

import (
	"errors"
	"fmt"
	"log/slog"
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
	chains := newChains(map[rules.Family]map[rules.Table]*iptables.Target{rules.V4: {rules.Filter: nil, rules.Mangle: nil}}, nil)
	d := &dataplane{
		links: ifmonitor.NewLinks(), families: []rules.Family{rules.V4}, chains: chains, filters: newFilters(chains),
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
func (l *loop) fault(id rules.ChainID) {
	l.dp.filters.unprintable[chainKey{rules.V4, id}] = errors.New("no")
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
