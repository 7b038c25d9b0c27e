package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/enginetest"
	"calico.internal/libnetwork-plugin/internal/sweep"
)

// lookup asks the host's resolver for a name as the container that has an address does; the
// test gives the address to this host.
func (h *host) lookup(from, name string) (addrs []string, rcode int) {
	h.t.Helper()
	client := &dns.Client{Timeout: 5 * time.Second, Dialer: &net.Dialer{
		LocalAddr: &net.UDPAddr{IP: netip.MustParsePrefix(from).Addr().AsSlice()}, Timeout: time.Second,
	}}
	at := netip.AddrPortFrom(endpoint.Gateway(1), namePort)
	m, _, err := client.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), at.String())
	if err != nil {
		return nil, -1
	}
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			addrs = append(addrs, a.A.String())
		}
	}
	return addrs, m.Rcode
}

func TestNamesOfAContainerAreAnsweredFromJoinToItsEnd(t *testing.T) {
	h := newHost(t, enginetest.Docker29)
	h.cfg.AnswerNames = true
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	addr := h.create(web)
	h.ok("NetworkDriver.Join", "%s", joinBody(web))
	bare := netip.MustParsePrefix(addr).Addr().String()
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: netip.MustParseAddr(bare).AsSlice(), Mask: net.CIDRMask(32, 32)}}))
	knows := func(name string) func() bool {
		return func() bool {
			addrs, _ := h.lookup(addr, name)
			return slices.Equal(addrs, []string{bare})
		}
	}
	for _, name := range []string{"web", "WEB.net1", web.id[:12]} {
		enginetest.Eventually(t, name+" is answered", knows(name))
	}
	// What only a container that runs shows.
	h.engine.SetContainer(enginetest.Container{
		ID: web.id, Name: "web", Labels: web.labels, State: "running", Hostname: "inside",
		Endpoints: map[string]enginetest.Endpoint{"net1": {ID: epA, IPv4: addr, Aliases: []string{"www"}}},
	})
	h.engine.EmitContainer("start", web.id)
	for _, name := range []string{"inside", "www", "web"} {
		enginetest.Eventually(t, name+" is answered", knows(name))
	}
	h.engine.SetContainer(enginetest.Container{
		ID: web.id, Name: "db", Labels: web.labels, State: "running", Hostname: "inside",
		Endpoints: map[string]enginetest.Endpoint{"net1": {ID: epA, IPv4: addr}},
	})
	h.engine.EmitContainer("rename", web.id)
	enginetest.Eventually(t, "the new name is answered", knows("db"))
	if addrs, _ := h.lookup(addr, "www"); len(addrs) > 0 {
		t.Errorf("a name that it does not have any more: %v", addrs)
	}
	h.remove(web, addr)
	h.nothingLeft()
	enginetest.Eventually(t, "the name is gone", func() bool {
		addrs, rcode := h.lookup(addr, "db")
		return rcode >= 0 && len(addrs) == 0
	})
}

func TestNamesOfEndpointsThatOthersRemovedAreSwept(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	put := func(k model.Key, r model.Resource) {
		t.Helper()
		_, _, err := h.store.Apply(t.Context(), k, r)
		must(t, err)
	}
	addr := netip.MustParseAddr("192.168.0.9")
	ep := endpoint.New(epA, endpoint.DefaultMAC, addr, netip.Addr{})
	put(endpoint.Key("node00", epA), ep)
	put(model.NodeKey{Name: "other"}, &model.Node{})
	for endpoint, node := range map[string]string{epA: "node00", "gone": "node00", "others": "other", "lost": "deleted"} {
		put(model.DockerNameKey{Network: "net1", Name: "x", Endpoint: endpoint}, &model.DockerName{Node: node, Addresses: []netip.Addr{addr}})
	}
	names := sweep.Names{
		Store: h.store, Node: "node00", Networks: func() []string { return []string{"net1"} }, Log: slog.New(slog.DiscardHandler),
		Endpoints: func(context.Context) (map[string]*model.WorkloadEndpoint, error) {
			return map[string]*model.WorkloadEndpoint{epA: ep}, nil
		},
	}
	for range 2 {
		must(t, names.Sweep(t.Context()))
	}
	var left []string
	entries, _, _, err := h.store.List(t.Context(), model.KindDockerName, nil)
	must(t, err)
	for _, e := range entries {
		left = append(left, e.Key.(model.DockerNameKey).Endpoint)
	}
	slices.Sort(left)
	want := []string{epA, "others"}
	slices.Sort(want)
	if !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
	// One that comes back between the look and the removal keeps its name.
	put(model.DockerNameKey{Network: "net1", Name: "x", Endpoint: "gone"}, &model.DockerName{Node: "node00", Addresses: []netip.Addr{addr}})
	put(endpoint.Key("node00", "gone"), ep)
	must(t, names.Sweep(t.Context()))
	if _, err := h.store.Get(t.Context(), model.DockerNameKey{Network: "net1", Name: "x", Endpoint: "gone"}); err != nil {
		t.Errorf("the name of an endpoint that is there: %v", err)
	}
}
