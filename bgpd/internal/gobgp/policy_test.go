//go:build !race

package gobgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/bgpd/internal/config"
	"calico.internal/libcalico/model"
	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/types/known/anypb"
)

// group makes a speaker for each AS, in a part of 127/8 that is theirs alone.
func group(t testing.TB, systems ...model.ASNumber) []*node {
	t.Helper()
	third := byte(lastNet.Add(1))
	var out []*node
	for i, as := range systems {
		n := newNode(t, netip.AddrFrom4([4]byte{127, 77, third, byte(i + 1)}))
		n.global.ASNumber = as
		if _, err := n.Start(t.Context(), n.global); err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

// join makes sessions of the first one with all others, and waits for them.
func join(hub *node, others []*node, change func(o *node, p *calc.Peer)) {
	for _, o := range others {
		hub.setPeers(hub.peerOf(o, func(p *calc.Peer) {
			if change != nil {
				change(o, p)
			}
		}))
		o.setPeers(o.peerOf(hub, nil))
	}
	for _, o := range others {
		o.awaitEvent("eor")
		hub.await("the session with "+o.global.Listen[0].String(), func() bool {
			return hub.Session(o.global.Listen[0]).State == "established"
		})
	}
}

// has waits until n knows exactly these prefixes.
func (n *node) has(prefixes ...string) {
	n.t.Helper()
	slices.Sort(prefixes)
	n.await("the set "+strings.Join(prefixes, " "), func() bool { return slices.Equal(n.prefixes(), prefixes) })
}

func (n *node) prefixes() []string {
	out := []string{}
	for p := range n.routes {
		out = append(out, p.String())
	}
	slices.Sort(out)
	return out
}

// TestPolicy_what_is_learned_goes_to_nobody has a host between outside routers of other
// systems, a node of its own system and one of another: each hears of the host's own
// prefixes only, before and after the server starts anew.
func TestPolicy_what_is_learned_goes_to_nobody(t *testing.T) {
	g := group(t, 64512, 65001, 65002, 64512, 64513)
	us, others := g[0], g[1:]
	us.advertise("192.168.1.0/26")
	sent := map[*node]string{}
	for i, o := range others {
		sent[o] = []string{"0.0.0.0/0", "198.51.100.0/24", "192.168.3.0/26", "192.168.4.0/26"}[i]
		o.advertise(sent[o])
	}
	join(us, others, nil)
	check := func(own ...string) {
		t.Helper()
		all := []string{}
		for _, p := range sent {
			all = append(all, p)
		}
		us.has(all...)
		for _, o := range others {
			o.has(own...)
		}
	}
	check("192.168.1.0/26")
	us.advertise("192.168.1.64/26") // a change after everything was heard
	check("192.168.1.0/26", "192.168.1.64/26")

	us.global.RouterID = netip.MustParseAddr("9.9.9.9")
	clear(us.routes)
	for _, o := range others {
		o.history = nil
		clear(o.routes)
	}
	if _, err := us.Start(t.Context(), us.global); err != nil {
		t.Fatal(err)
	}
	us.advertise("192.168.1.0/26")
	join(us, others, nil)
	us.advertise("192.168.1.64/26")
	check("192.168.1.0/26", "192.168.1.64/26")
}

// TestPolicy_a_system_for_each_rack: in a mesh of 18 hosts in three racks each block
// arrives once, from its owner.
func TestPolicy_a_system_for_each_rack(t *testing.T) {
	const racks, perRack = 3, 6
	var systems []model.ASNumber
	for i := range racks * perRack {
		systems = append(systems, model.ASNumber(65001+i%racks))
	}
	g := group(t, systems...)
	for i, n := range g {
		n.advertise(fmt.Sprintf("192.168.%d.0/26", i))
		var peers []calc.Peer
		for _, o := range g {
			if o != n {
				peers = append(peers, n.peerOf(o, nil))
			}
		}
		n.setPeers(peers...)
	}
	all := func(n *node) bool { return len(n.routes) == len(g)-1 && count(n.history, "eor") == len(g)-1 }
	for _, n := range g {
		n.await("all blocks", func() bool { return all(n) })
	}
	g[0].advertise("192.168.100.0/26") // what comes last has everything before it
	for i, n := range g[1:] {
		n.awaitEvent("update 192.168.100.0/26")
		for j, o := range g {
			block := fmt.Sprintf("192.168.%d.0/26", j)
			if times := count(n.history, "update "+block); o != n && (times != 1 || n.routes[netip.MustParsePrefix(block)].NextHop != o.global.Listen[0]) {
				t.Errorf("host %d heard of %s %d times, last with %+v", i+1, block, times, n.routes[netip.MustParsePrefix(block)])
			}
		}
	}
}

func count(all []string, one string) (n int) {
	for _, s := range all {
		if s == one {
			n++
		}
	}
	return n
}

// TestPolicy_a_path_of_a_peer_does_not_take_ours_away: GoBGP ranks LOCAL_PREF, which a
// peer of the same system may set, before local origin.
func TestPolicy_a_path_of_a_peer_does_not_take_ours_away(t *testing.T) {
	g := group(t, 64512, 64512, 64512)
	us, thief, third := g[0], g[1], g[2]
	us.advertise("192.168.1.0/26")
	join(us, g[1:], nil)
	thief.advertisePreferred("192.168.1.0/26", 500)
	us.awaitEvent("update 192.168.1.0/26")
	us.advertise("192.168.1.64/26")
	third.has("192.168.1.0/26", "192.168.1.64/26")
	if slices.Contains(third.history, "withdraw 192.168.1.0/26") {
		t.Errorf("our path was withdrawn: %v", third.history)
	}
}

// TestPolicy_a_reflector_passes_on_within_its_system follows RFC 4456 section 6: what a
// client says goes to all peers of the system, the rest to clients, next hops unchanged.
// What outside routers say, and what the system says to outside routers, does not pass.
func TestPolicy_a_reflector_passes_on_within_its_system(t *testing.T) {
	g := group(t, 64512, 64512, 64512, 64512, 64512, 65001)
	us, clients, plain, outside := g[0], g[1:3], g[3:5], g[5]
	us.advertise("192.168.0.0/26")
	for i, o := range g[1:] {
		o.advertise([]string{"192.168.1.0/26", "192.168.2.0/26", "192.168.3.0/26", "192.168.4.0/26", "198.51.100.0/24"}[i])
	}
	// A client claims our own block and a part of it; a single address it may have borrowed.
	clients[0].advertisePreferred("192.168.0.0/26", 500)
	clients[0].advertisePreferred("192.168.0.0/27", 500)
	clients[0].advertise("192.168.0.7/32")
	join(us, g[1:], func(o *node, p *calc.Peer) {
		p.ReflectorClient = slices.Contains(clients, o)
		p.Type = config.PeerNode
	})
	clients[1].has("192.168.0.0/26", "192.168.1.0/26", "192.168.0.7/32", "192.168.3.0/26", "192.168.4.0/26")
	plain[0].has("192.168.0.0/26", "192.168.1.0/26", "192.168.0.7/32", "192.168.2.0/26")
	outside.has("192.168.0.0/26")
	if p := clients[1].routes[netip.MustParsePrefix("192.168.1.0/26")]; p.NextHop != clients[0].global.Listen[0] {
		t.Errorf("the next hop of a reflected route is %s", p.NextHop)
	}
	if p := plain[0].routes[netip.MustParsePrefix("192.168.0.0/26")]; p.NextHop != us.global.Listen[0] {
		t.Errorf("the own block goes to %s", p.NextHop)
	}

	// A block that a client has claimed before it is ours.
	clients[0].advertisePreferred("192.168.0.64/26", 500)
	plain[0].has("192.168.0.0/26", "192.168.1.0/26", "192.168.0.7/32", "192.168.2.0/26", "192.168.0.64/26")
	us.advertise("192.168.0.64/26")
	plain[0].await("our block", func() bool {
		return plain[0].routes[netip.MustParsePrefix("192.168.0.64/26")].NextHop == us.global.Listen[0]
	})

	// The last client leaves: no reflector any more.
	for _, c := range clients {
		us.setPeers(us.peerOf(c, func(p *calc.Peer) { p.Type = config.PeerNode }))
	}
	plain[0].has("192.168.0.0/26", "192.168.0.64/26")
}

// advertisePreferred advertises with a LOCAL_PREF.
func (n *node) advertisePreferred(prefix string, pref uint32) {
	n.t.Helper()
	path, err := pathToAPI(netip.MustParsePrefix(prefix))
	if err != nil {
		n.t.Fatal(err)
	}
	attr, err := anypb.New(&api.LocalPrefAttribute{LocalPref: pref})
	if err != nil {
		n.t.Fatal(err)
	}
	path.Pattrs = append(path.Pattrs, attr)
	if _, err := n.server.AddPath(n.t.Context(), &api.AddPathRequest{Path: path}); err != nil {
		n.t.Fatal(err)
	}
}
