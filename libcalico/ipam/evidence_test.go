package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

// TestAnEngineThatIsNotTheNodesProvesNothing asks engines that have no container of the
// node, as a second engine, a rootless one or podman would answer, and the node's own.
func TestAnEngineThatIsNotTheNodesProvesNothing(t *testing.T) {
	tests := []struct {
		name     string
		change   func(*Seen)
		believed bool
	}{
		{"strange networks", func(s *Seen) { s.Engine.Networks = []string{"id-of-bridge", "id-of-host"} }, false},
		{"no network", func(s *Seen) { s.Engine.Networks = nil }, false},
		{"a network of another node", func(s *Seen) { s.Engine.Networks = []string{"id-b"} }, false},
		{"a network that engines share", func(s *Seen) { s.Engine.Networks = []string{"id-shared"} }, false},
		{"the plugin serves another", func(s *Seen) { s.Served = "X" }, false},
		{"and that although a network is known", func(s *Seen) { s.Served = "X"; s.Engine.Networks = []string{"id-a"} }, false},
		{"an endpoint of another node", func(s *Seen) { s.Engine.Endpoints["f"] = Container{"web", true} }, false},
		{"a network of the node", func(s *Seen) { s.Engine.Networks = []string{"id-of-bridge", "id-a"} }, true},
		{"the one that the plugin serves", func(s *Seen) { s.Served = s.Engine.ID }, true},
		{"an endpoint of the node", func(s *Seen) { s.Engine.Endpoints["live"] = Container{"web", true} }, true},
		{"a network of the node, by an engine without an id", func(s *Seen) {
			s.Engine.ID, s.Served, s.Engine.Networks = "", "X", []string{"id-a"}
		}, true},
	}
	w := newWorld(t, "10.0.0.0/24")
	w.nodeResource("a", "b")
	w.apply(model.DockerNetworkKey{Name: "shared"}, &model.DockerNetwork{IDs: map[string]string{"a": "id-shared", "b": "id-shared", "c": "id-shared"}})
	for _, id := range []string{"dead", "live"} {
		w.container(w.node("a"), id)
	}
	w.container(w.node("b"), "f")
	leaked := w.assign(w.node("a"), 1, "")[0]
	inventory := w.inventory()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			seen := Seen{Engine: &Engine{
				Node: "a", ID: "E", Networks: []string{"id-of-bridge"},
				Endpoints: map[string]Container{}, Addresses: map[netip.Addr]Container{},
			}, Sure: true}
			tt.change(&seen)
			if err := inventory.Recognize(seen); (err == nil) != tt.believed {
				t.Errorf("recognized: %v", err)
			}
			dead, released := false, false
			for _, p := range Check(inventory, seen, later()) {
				dead = dead || p.Kind == ProblemDeadEndpoint && p.Endpoint == "dead"
				released = released || p.Kind == ProblemLeakedAddress && p.Addr == leaked && p.Proven()
			}
			if dead != tt.believed || released != tt.believed {
				t.Errorf("proven are the endpoint %t and the leak %t, want %t", dead, released, tt.believed)
			}
		})
	}
}

// TestThatMoreThanHalfIsGoneNeedsSomebodyWhoIsSure: an engine that has forgotten its
// containers, as after its data folder was lost, is still the node's by its networks.
func TestThatMoreThanHalfIsGoneNeedsSomebodyWhoIsSure(t *testing.T) {
	for _, tc := range []struct {
		known  int
		sure   bool
		proven bool
	}{{0, false, false}, {1, false, false}, {2, false, true}, {3, false, true}, {1, true, true}} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			w := newWorld(t, "10.0.0.0/24")
			w.nodeResource("a", "b")
			seen := Seen{Engine: engineOf("a"), Sure: tc.sure}
			for i := range 4 {
				id := fmt.Sprint("e", i)
				if a := w.container(w.node("a"), id); i < tc.known {
					seen.Engine.run("c"+id, id, a)
				}
			}
			for i := range 5 { // of another node: they do not count
				w.container(w.node("b"), fmt.Sprint("f", i))
			}
			w.assign(w.node("a"), 1, "")
			problems := w.check(seen)
			if len(problems) != 4-tc.known+1 {
				t.Errorf("found %v", problems)
			}
			for _, p := range problems {
				if p.Proven() != tc.proven || !tc.proven && !strings.Contains(p.Advice, "--force") {
					t.Errorf("problem %+v", p)
				}
			}
			left := w.mend(seen)
			if (len(left) == 0) != tc.proven {
				t.Errorf("left is %v", left)
			}
		})
	}
}

// TestAPairIntoASandboxIsAlive: the node's own engine knows nothing of these containers.
func TestAPairIntoASandboxIsAlive(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24", "fd80::/120")
	w.nodeResource("a")
	c := w.node("a")
	byLink, byRoute, other := "0123456789abcdef", "1123456789abcdef", "2123456789abcdef"
	w.container(c, byLink)
	routed := w.container(c, byRoute)
	w.container(c, other)
	owner := Owner{Handle: "3123456789abcdef", Attrs: map[string]string{AttrEndpoint: "3123456789abcdef", AttrContainer: "lost"}}
	v6, err := c.AutoAssign(w.ctx(), Request{IPv6: 2, Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	nobodys := w.assign(c, 2, "")
	seen := emptyHost("a")
	seen.Sandboxes = []localnet.Sandbox{
		{Link: "cali0123456789a"},
		{Link: "calix", Addrs: []netip.Addr{routed, nobodys[0]}},
		{Link: "cali3123456789a"},
	}
	alive := append(v6, nobodys[0])
	for _, p := range w.check(seen) {
		switch p.Kind {
		case ProblemDeadEndpoint:
			if p.Endpoint != other {
				t.Errorf("found dead: %v", p)
			}
		case ProblemLeakedAddress:
			if p.Addr != nobodys[1] {
				t.Errorf("found leaked: %v", p)
			}
		case ProblemLooseContainer:
			if i := slices.Index(alive, p.Addr); i < 0 || p.Proven() {
				t.Errorf("found loose: %+v", p)
			} else {
				alive = slices.Delete(alive, i, i+1)
			}
		default:
			t.Errorf("found %v", p)
		}
	}
	if len(alive) > 0 {
		t.Errorf("nothing tells of the containers with %v", alive)
	}
	w.mend(seen)
	for _, a := range append(v6, routed, nobodys[0]) {
		if _, err := c.Lookup(w.ctx(), a); err != nil {
			t.Errorf("%s was released: %v", a, err)
		}
	}
	if _, err := c.Lookup(w.ctx(), nobodys[1]); err == nil {
		t.Errorf("%s is still in use", nobodys[1])
	}
	for id, there := range map[string]bool{byLink: true, byRoute: true, other: false} {
		_, err := w.store.Get(w.ctx(), endpointKey(Problem{ID: ID{Node: "a", Endpoint: id}}))
		if (err == nil) != there {
			t.Errorf("endpoint %s: %v", id, err)
		}
	}
}

// TestAContainerThatDoesNotRunIsNoFault: one that could not be started keeps an address by
// the engine; nothing is wrong with that, and nothing is proven by it.
func TestAContainerThatDoesNotRunIsNoFault(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	w.nodeResource("a")
	seen := emptyHost("a")
	free := netip.MustParseAddr("10.0.0.9")
	seen.Engine.Addresses[free] = Container{Name: "created"}
	if got := w.check(seen); len(got) > 0 {
		t.Errorf("found %v", got)
	}
	leaked := w.assign(w.node("a"), 1, "")[0]
	seen.Engine.Addresses[leaked] = Container{Name: "created"}
	if got := w.check(seen); len(got) != 1 || got[0].Kind != ProblemLeakedAddress || got[0].Proven() || !strings.Contains(got[0].Advice, "remove the container") {
		t.Errorf("found %+v", got)
	}
}
