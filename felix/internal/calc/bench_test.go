package calc

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// The sizes of the large cluster in the benchmarks.
const (
	benchPolicies  = 10_000
	benchEndpoints = 250_000
	benchLocal     = 250
)

func benchEndpoint(i int, node, role string) store.Event {
	return store.Event{
		Key: model.WorkloadEndpointKey{Node: node, Orchestrator: "libnetwork", Workload: "libnetwork", Name: fmt.Sprint(i)},
		Value: &model.WorkloadEndpoint{
			State: "active", Interface: fmt.Sprintf("cali%011x", i), Profiles: []string{fmt.Sprintf("net%d", i%100)},
			IPv4Nets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)},
			Labels:   map[string]string{"customer": fmt.Sprintf("c%d", i%benchPolicies), "role": role},
		},
		Revision: int64(i),
	}
}

// benchPolicy is one customer's: its endpoints may talk to each other.
func benchPolicy(i int) store.Event {
	sel := fmt.Sprintf("customer == 'c%d'", i)
	return store.Event{
		Key: model.PolicyKey{Tier: "default", Name: fmt.Sprintf("customer-%d", i)},
		Value: &model.Policy{
			Selector:      sel,
			InboundRules:  []model.Rule{{Action: model.ActionAllow, Protocol: "tcp", Source: model.Match{Selector: sel}}},
			OutboundRules: []model.Rule{{Action: model.ActionAllow}},
		},
	}
}

func benchProfile(i int) store.Event {
	name := fmt.Sprintf("net%d", i)
	return store.Event{Key: model.ProfileKey{Name: name}, Value: &model.Profile{
		Tags:          []string{name},
		InboundRules:  []model.Rule{{Action: model.ActionAllow, Source: model.Match{Tag: name}}},
		OutboundRules: []model.Rule{{Action: model.ActionAllow}},
	}}
}

// benchEvents is a snapshot of the cluster.
func benchEvents(policies, endpoints, local int) []store.Event {
	var events []store.Event
	for i := range endpoints {
		node := "there"
		if i < local {
			node = "here"
		}
		events = append(events, benchEndpoint(i, node, "web"))
	}
	for i := range policies {
		events = append(events, benchPolicy(i))
	}
	for i := range 100 {
		events = append(events, benchProfile(i))
	}
	return events
}

// BenchmarkSnapshot is the calculation at start.
func BenchmarkSnapshot(b *testing.B) {
	for _, size := range []struct{ policies, endpoints, local int }{
		{200, 2_250, 250},
		{10_000, 10_000, 250},
		{benchPolicies, benchEndpoints, benchLocal},
	} {
		b.Run(fmt.Sprintf("policies=%d/endpoints=%d/local=%d", size.policies, size.endpoints, size.local), func(b *testing.B) {
			events := benchEvents(size.policies, size.endpoints, size.local)
			var e *Engine
			before := heap()
			b.ResetTimer()
			for b.Loop() {
				e = New("here", "cali")
				e.Apply(events)
				e.Flush()
			}
			b.StopTimer()
			b.ReportMetric(float64(heap()-before)/1e6, "MB")
			runtime.KeepAlive(e)
			runtime.KeepAlive(events)
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// benchChange measures one change in the large cluster, from event to desired state.
func benchChange(b *testing.B, change func(i int) store.Event) {
	e := New("here", "cali")
	e.Apply(benchEvents(benchPolicies, benchEndpoints, benchLocal))
	e.Flush()
	b.ResetTimer()
	i := 0
	for b.Loop() {
		e.Apply([]store.Event{change(i)})
		e.Flush()
		i++
	}
}

func BenchmarkRemoteEndpointRelabelled(b *testing.B) {
	benchChange(b, func(i int) store.Event {
		ev := benchEndpoint(benchLocal+i%1000, "there", "web")
		// From one active customer to another and back.
		ev.Value.(*model.WorkloadEndpoint).Labels["customer"] = fmt.Sprintf("c%d", i/1000%2*100+i%100)
		return ev
	})
}

func BenchmarkLocalEndpointAddedAndDeleted(b *testing.B) {
	benchChange(b, func(i int) store.Event {
		ev := benchEndpoint(benchEndpoints+i/2%1000, "here", "web")
		if i%2 == 1 {
			ev.Value = nil
		}
		return ev
	})
}

func BenchmarkPolicyRuleChanged(b *testing.B) {
	benchChange(b, func(i int) store.Event {
		ev := benchPolicy(i % 100)
		ev.Value.(*model.Policy).InboundRules[0].Destination.Ports = []model.Port{{First: 80, Last: uint16(81 + i/100%2)}}
		return ev
	})
}

func BenchmarkPolicyAddedAndDeleted(b *testing.B) {
	benchChange(b, func(i int) store.Event {
		ev := benchPolicy(7)
		ev.Key = model.PolicyKey{Tier: "default", Name: "extra"}
		ev.Value.(*model.Policy).InboundRules[0].Source.Selector = "customer == 'c7' && role == 'web'"
		if i%2 == 1 {
			ev.Value = nil
		}
		return ev
	})
}

func BenchmarkProfileTagChanged(b *testing.B) {
	benchChange(b, func(i int) store.Event {
		ev := benchProfile(5)
		if i%2 == 1 {
			ev.Value.(*model.Profile).Tags = append(ev.Value.(*model.Profile).Tags, "extra")
		}
		return ev
	})
}
