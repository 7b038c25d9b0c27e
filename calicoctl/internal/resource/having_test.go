package resource

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// TestAnAddressThatAnotherEndpointHasStaysInUse deletes endpoints, and a node, whose addresses
// the blocks give to no endpoint: only what nothing else has is released.
func TestAnAddressThatAnotherEndpointHasStaysInUse(t *testing.T) {
	endpoint := func(name, node, addr string) string {
		return fmt.Sprintf("- {apiVersion: v1, kind: workloadEndpoint, metadata: {name: %s, node: %s, orchestrator: o, workload: w}, "+
			"spec: {interfaceName: cali%s, ipNetworks: ['%s']}}\n", name, node, name, addr)
	}
	for _, addr := range []string{"192.168.3.4", "fd00:5::4"} {
		a := netip.MustParseAddr(addr)
		for name, tc := range map[string]struct {
			owner     ipam.Owner
			endpoints string
			remove    []string
			how       Deletion
			inUse     []bool   // after each
			heirs     []string // who has it then
		}{
			"another of the node has it": {
				endpoints: endpoint("e", "h0", addr) + endpoint("f", "h0", addr),
				remove:    []string{endpoint("e", "h0", addr), endpoint("f", "h0", addr)}, inUse: []bool{true, false},
			},
			"both go": {
				endpoints: endpoint("e", "h0", addr) + endpoint("f", "h0", addr),
				remove:    []string{endpoint("e", "h0", addr) + endpoint("f", "h0", addr)}, inUse: []bool{false},
			},
			"one of another node has it": {
				endpoints: endpoint("e", "h0", addr) + endpoint("f", "h1", addr),
				remove:    []string{endpoint("e", "h0", addr), endpoint("f", "h1", addr)}, inUse: []bool{true, true}, // it was given to the first node
			},
			"under the name of one that is gone": {
				owner:     ipam.Owner{Handle: "gone"},
				endpoints: endpoint("e", "h0", addr) + endpoint("f", "h0", addr),
				remove:    []string{endpoint("e", "h0", addr), endpoint("f", "h0", addr)}, inUse: []bool{true, false},
			},
			"under its own name": {
				owner:     ipam.Owner{Handle: "e"},
				endpoints: endpoint("e", "h0", addr) + endpoint("f", "h0", addr),
				remove:    []string{endpoint("e", "h0", addr), endpoint("f", "h0", addr)}, inUse: []bool{true, false}, heirs: []string{"f"},
			},
			"under its own name, and one of another node has it": {
				owner:     ipam.Owner{Handle: "e"},
				endpoints: endpoint("e", "h0", addr) + endpoint("f", "h1", addr) + endpoint("g", "h1", addr),
				remove:    []string{endpoint("e", "h0", addr), endpoint("f", "h1", addr), endpoint("g", "h1", addr)}, inUse: []bool{true, true, false}, heirs: []string{"f", "g"},
			},
			"under the name of both": {
				owner:     ipam.Owner{Handle: "e"},
				endpoints: endpoint("e", "h0", addr) + endpoint("e", "h1", addr),
				remove:    []string{endpoint("e", "h0", addr), endpoint("e", "h1", addr)}, inUse: []bool{true, false}, heirs: []string{"e"},
			},
			"both go, under the name of the first": {
				owner:     ipam.Owner{Handle: "e"},
				endpoints: endpoint("e", "h0", addr) + endpoint("f", "h1", addr),
				remove:    []string{endpoint("e", "h0", addr) + endpoint("f", "h1", addr)}, inUse: []bool{false},
			},
			"the node goes, under whose endpoint's name it is": {
				owner:     ipam.Owner{Handle: "e"},
				endpoints: endpoint("e", "h0", addr) + endpoint("f", "h1", addr),
				remove:    []string{nodeManifest}, how: Deletion{Force: true}, inUse: []bool{true}, heirs: []string{"f"},
			},
			"the node goes": {
				endpoints: endpoint("e", "h0", addr) + endpoint("f", "h1", addr),
				remove:    []string{nodeManifest}, how: Deletion{Force: true}, inUse: []bool{true},
			},
			"the node goes with all": {
				endpoints: endpoint("e", "h0", addr) + endpoint("f", "h0", addr),
				remove:    []string{nodeManifest}, how: Deletion{Force: true}, inUse: []bool{false},
			},
		} {
			t.Run(name+" "+addr, func(t *testing.T) {
				s, ctx := newStore(t), t.Context()
				pool := "- {apiVersion: v1, kind: ipPool, metadata: {cidr: 'fd00:5::/64'}}\n- " + poolManifest + "\n- " + nodeManifest + "\n"
				if _, err := s.Write(ctx, Create, objects(t, pool+tc.endpoints)); err != nil {
					t.Fatal(err)
				}
				if err := ipam.New(s.etcd, "h0").Assign(ctx, a, tc.owner); err != nil {
					t.Fatal(err)
				}
				for i, text := range tc.remove {
					if _, err := another(t, s).Delete(ctx, objects(t, text), tc.how); err != nil {
						t.Fatal(err)
					}
					owner, err := s.ipam.Lookup(ctx, a)
					if err != nil && !errors.Is(err, ipam.ErrNotAssigned) {
						t.Fatal(err)
					}
					if (err == nil) != tc.inUse[i] {
						t.Errorf("after %s: in use %v, want %v", text, err == nil, tc.inUse[i])
					}
					if i < len(tc.heirs) && owner.Handle != tc.heirs[i] {
						t.Errorf("after %s: it is %s's", text, owner)
					}
					countedRightly(t, s)
				}
				if left, _, err := s.List(ctx, model.KindWorkloadEndpoint, nil); err != nil || len(left) > 1 {
					t.Errorf("left: %v, %v", left, err)
				}
			})
		}
	}
}

// countedRightly checks that no handle counts other addresses than the blocks say.
func countedRightly(t *testing.T, s *Store) {
	t.Helper()
	inventory, err := s.ipam.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ipam.Check(inventory, ipam.Seen{}, time.Now()) {
		if p.Kind == ipam.ProblemHandle {
			t.Errorf("%s", p.Text)
		}
	}
}
