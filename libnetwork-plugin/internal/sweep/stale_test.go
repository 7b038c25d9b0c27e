package sweep

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"calico.internal/libnetwork-plugin/internal/veth"
)

func TestStale(t *testing.T) {
	const id = "f24874aae57f0e8ad0ccd04f98f5a5c1"
	addr := netip.MustParseAddr("192.168.0.1")
	no := func(string) bool { return false }
	tests := []struct {
		name  string
		world World
		want  []Finding
	}{
		{"nothing at all", World{}, nil},
		{
			"an endpoint that neither the engine nor the kernel knows",
			World{Endpoints: map[string]veth.State{id: veth.Absent}},
			[]Finding{{Endpoint: id}},
		},
		{
			"its idle pair and its address go with it",
			World{
				Endpoints: map[string]veth.State{id: veth.Idle},
				Pairs:     map[string]veth.State{veth.HostName(id): veth.Idle},
				Addresses: map[netip.Addr]Holder{addr: {Handle: id, Endpoint: id}},
			},
			[]Finding{{Endpoint: id}},
		},
		{
			"an endpoint of a container",
			World{
				Endpoints: map[string]veth.State{id: veth.Absent},
				Engine:    View{Endpoints: map[string]bool{id: true}},
			},
			nil,
		},
		{
			"an endpoint that a container uses although the engine does not know it",
			World{
				Endpoints: map[string]veth.State{id: veth.InUse},
				Pairs:     map[string]veth.State{veth.HostName(id): veth.InUse},
			},
			nil,
		},
		{
			"an endpoint that Docker is at work on",
			World{
				Endpoints: map[string]veth.State{id: veth.Idle},
				Pairs:     map[string]veth.State{veth.HostName(id): veth.Idle},
				Busy:      func(string) bool { return true },
			},
			nil,
		},
		{
			"a pair without an endpoint",
			World{Pairs: map[string]veth.State{"calif24874aae57": veth.Idle, "cali00000000000": veth.InUse}},
			[]Finding{{Pair: "calif24874aae57"}},
		},
		{
			"an address without an endpoint",
			World{Addresses: map[netip.Addr]Holder{addr: {Handle: "docker-x"}}},
			[]Finding{{Address: addr, Handle: "docker-x"}},
		},
		{
			"an address whose endpoint has gone",
			World{Addresses: map[netip.Addr]Holder{addr: {Handle: id, Endpoint: id}}},
			[]Finding{{Address: addr, Handle: id}},
		},
		{
			"an address that Docker has just asked for",
			World{
				Addresses: map[netip.Addr]Holder{addr: {Handle: "docker-x"}},
				Asked:     func(netip.Addr) bool { return true },
			},
			nil,
		},
		{
			"an address that a live container has, whatever etcd says",
			World{
				Addresses: map[netip.Addr]Holder{addr: {Handle: "docker-x"}},
				Engine:    View{Addresses: map[netip.Addr]bool{addr: true}},
			},
			nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.world.Busy == nil {
				tt.world.Busy = no
			}
			if tt.world.Asked == nil {
				tt.world.Asked = func(netip.Addr) bool { return false }
			}
			first := Stale(tt.world)
			got := Both(first, Stale(tt.world))
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			if left := Both(first, nil); len(left) != 0 {
				t.Errorf("one look was enough for %v", left)
			}
		})
	}
}
