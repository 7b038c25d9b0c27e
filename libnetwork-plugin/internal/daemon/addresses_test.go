package daemon

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/enginetest"
)

// pool is the answer to RequestPool.
type pool struct {
	PoolID, Pool string
	Data         map[string]string
}

func TestPools(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	tests := []struct {
		name, body string
		want       pool
	}{
		{
			"no subnet: the one range that no engine loops over", `{"Pool":"","SubPool":"","Options":{},"V6":false}`,
			pool{"CalicoPoolIPv4", "0.0.0.0/0", map[string]string{"com.docker.network.gateway": "169.254.1.1/32"}},
		},
		{
			"a whole pool", `{"Pool":"192.168.0.0/16","Options":null}`,
			pool{"192.168.0.0/16", "192.168.0.0/16", map[string]string{"com.docker.network.gateway": "169.254.1.1/32"}},
		},
		{
			"a part of a pool", `{"Pool":"192.168.7.0/24"}`,
			pool{"192.168.7.0/24", "192.168.7.0/24", map[string]string{"com.docker.network.gateway": "169.254.1.1/32"}},
		},
		{
			"a range", `{"Pool":"192.168.0.0/16","SubPool":"192.168.7.0/24"}`,
			pool{"192.168.0.0/16|192.168.7.0/24", "192.168.0.0/16", map[string]string{"com.docker.network.gateway": "169.254.1.1/32"}},
		},
		{
			"an IPv6 pool", `{"Pool":"fd80:24e2:f998:72d6::/64","V6":true}`,
			pool{pool6.String(), pool6.String(), map[string]string{"com.docker.network.gateway": "::/0"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// The engine asks over and over, so any number of networks may share a pool.
			for range 3 {
				var got pool
				must(t, json.Unmarshal([]byte(h.ok("IpamDriver.RequestPool", "%s", tt.body)), &got))
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Fatal(diff)
				}
			}
		})
	}
}

func TestWhatTheIPAMDriverRefuses(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	off := netip.MustParsePrefix("10.9.0.0/16")
	must(t, first(h.store.Create(t.Context(), model.IPPoolKey{CIDR: off}, &model.IPPool{CIDR: off, IPAM: true, Disabled: true})))
	h.start()
	for body, parts := range map[string][]string{
		`{"Pool":"10.0.0.0/16"}`:                                {"10.0.0.0/16", "not inside", "192.168.0.0/16"},
		`{"Pool":"10.9.0.0/16"}`:                                {"10.9.0.0/16", "enabled IP pool"},
		`{"Pool":"192.0.0.0/8"}`:                                {"192.0.0.0/8", "not inside"},
		`{"Pool":"192.168.0.0/16","SubPool":"10.0.0.0/24"}`:     {"10.0.0.0/24", "not inside subnet 192.168.0.0/16"},
		`{"SubPool":"192.168.1.0/24"}`:                          {"--ip-range needs a --subnet"},
		`{"Options":{"com.example.pool":"x","a":"b"}}`:          {"a, com.example.pool", "--ipam-opt"},
		`{"Pool":"nonsense"}`:                                   {"subnet"},
		`{"Pool":"192.168.0.0/16","SubPool":"192.168.0.0/zzz"}`: {"IP range"},
	} {
		h.refused("IpamDriver.RequestPool", body, parts...)
	}
	h.refused("IpamDriver.RequestAddress",
		`{"PoolID":"CalicoPoolIPv4","Address":"192.168.0.1","Options":{"RequestAddressType":"com.docker.network.gateway"}}`,
		"169.254.1.1", "--gateway")
	h.refused("IpamDriver.RequestAddress", `{"PoolID":"LocalDefault/172.17.0.0/16"}`, "not one of calico-ipam's")
	h.refused("IpamDriver.RequestAddress", `{"PoolID":"192.168.7.0/24","Address":"192.168.8.1"}`, "192.168.8.1", "192.168.7.0/24")
	h.refused("IpamDriver.RequestAddress", `{"PoolID":"CalicoPoolIPv4","Address":"10.1.1.1"}`, "10.1.1.1", "not in an enabled IP pool")
	h.nothingLeft()
}

func TestWhatTheNetworkDriverRefuses(t *testing.T) {
	h := newHost(t, enginetest.Docker29)
	h.start()
	const ours = `"IPv4Data":[{"AddressSpace":"CalicoLocalAddressSpace","Pool":"0.0.0.0/0","Gateway":"169.254.1.1/32","AuxAddresses":{}}]`
	for body, parts := range map[string][]string{
		`{"NetworkID":"n","Options":{"com.docker.network.internal":true},` + ours + `}`:                                   {"--internal"},
		`{"NetworkID":"n","Options":{"com.docker.network.generic":{"foo":"1","bar":"2"}},` + ours + `}`:                   {"bar, foo", "com.docker.network.driver.mtu"},
		`{"NetworkID":"n","Options":{"com.docker.network.generic":{"com.docker.network.driver.mtu":"x"}},` + ours + `}`:   {"mtu=x", "68"},
		`{"NetworkID":"n","IPv4Data":[{"AddressSpace":"LocalDefault","Pool":"172.17.0.0/16","Gateway":"172.17.0.1/16"}]}`: {"--ipam-driver calico-ipam"},
		`{"NetworkID":"n","IPv4Data":[{"AddressSpace":"CalicoLocalAddressSpace","AuxAddresses":{"a":"192.168.0.9"}}]}`:    {"--aux-address"},
	} {
		h.refused("NetworkDriver.CreateNetwork", body, parts...)
	}
	// What the engine itself adds, today and tomorrow, is no reason to refuse.
	h.ok("NetworkDriver.CreateNetwork", `{"NetworkID":"n","Options":{"com.docker.network.enable_ipv4":true,
"com.docker.network.enable_ipv6":false,"com.docker.network.internal":false,"com.docker.network.something_new":true,
"com.docker.network.generic":{}},%s}`, ours)
	h.ok("NetworkDriver.CreateNetwork", `{"NetworkID":"n","IPv4Data":[{"AddressSpace":"CalicoGlobalAddressSpace"}]}`)

	h.refused("NetworkDriver.ProgramExternalConnectivity", `{"EndpointID":"x","Options":{"com.docker.network.portmap":[
{"Proto":6,"IP":"","Port":80,"HostIP":"","HostPort":8080,"HostPortEnd":8080}]}}`, "-p", "not supported")
	h.refused("NetworkDriver.AllocateNetwork", `{"NetworkID":"n"}`, "swarm")
	for body, parts := range map[string][]string{
		`{"EndpointID":"` + epA + `"}`:                                                                        {"no address", "--ipam-driver calico-ipam"},
		`{"EndpointID":"short","Interface":{"Address":"192.168.0.1/32"}}`:                                     {"endpoint id"},
		`{"EndpointID":"` + epA + `","Interface":{"Address":"nonsense"}}`:                                     {"endpoint address"},
		`{"EndpointID":"` + epA + `","Interface":{"Address":"192.168.0.1/32","MacAddress":"01:00:5e:0:0:1"}}`: {"--mac-address"},
	} {
		h.refused("NetworkDriver.CreateEndpoint", body, parts...)
	}
	h.refused("NetworkDriver.Join", joinBody(web), "is not in etcd")
}

func TestAnInvalidLabelIsNamed(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.cfg.LabelEndpoints, h.cfg.CreateProfiles = true, false
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	bad := web
	bad.labels = map[string]string{"org.projectcalico.label.role": "two words"}
	h.create(bad)
	h.refused("NetworkDriver.Join", joinBody(bad), "two words", "label")
}

func TestAddressesComeFromTheSubnetAndTheRange(t *testing.T) {
	h := newHost(t, enginetest.Docker29)
	h.start()
	for id, within := range map[string]string{
		"192.168.0.0/16":                "192.168.0.0/16",
		"192.168.7.0/24":                "192.168.7.0/24",
		"192.168.0.0/16|192.168.9.0/30": "192.168.9.0/30",
		pool6.String() + "|" + "fd80:24e2:f998:72d6::40/123": "fd80:24e2:f998:72d6::40/123",
	} {
		for range 4 {
			a := netip.MustParsePrefix(h.address(id, "")).Addr()
			if !netip.MustParsePrefix(within).Contains(a) {
				t.Errorf("%s gave %s", id, a)
			}
		}
	}
	h.refused("IpamDriver.RequestAddress", `{"PoolID":"192.168.0.0/16|192.168.9.0/30"}`, "192.168.9.0/30", "no free address")
	// A range says where addresses are picked, not which a user may choose.
	if got := h.address("192.168.0.0/16|192.168.9.0/30", "192.168.10.1"); got != "192.168.10.1/32" {
		t.Errorf("chosen address %s", got)
	}
}

func TestAnAddressTellsWhomItIsFor(t *testing.T) {
	h := newHost(t, enginetest.Docker29)
	h.start()
	h.ok("IpamDriver.RequestAddress",
		`{"PoolID":"CalicoPoolIPv4","Address":"192.168.3.3","Options":{"com.docker.network.endpoint.name":"web"}}`)
	who := h.owner("192.168.3.3/32")
	if who.Attrs[ipam.AttrContainer] != "web" || who.Attrs[ipam.AttrNode] != "node00" || who.Attrs[ipam.AttrTimestamp] == "" {
		t.Errorf("owner %v", who)
	}
}

func TestAFullPoolIsNamed(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	small := netip.MustParsePrefix("10.1.1.0/30")
	must(t, first(h.store.Create(t.Context(), model.IPPoolKey{CIDR: small}, &model.IPPool{CIDR: small, IPAM: true, BlockSize: 30})))
	h.start()
	for range 4 {
		h.address("10.1.1.0/30", "")
	}
	h.refused("IpamDriver.RequestAddress", `{"PoolID":"10.1.1.0/30"}`, "10.1.1.0/30", "4 of 4")
}

// TestAPoolOverTheLAN has a pool that covers the LAN of this host and the address of
// another node: addresses come until the pool runs out, and none from a block there.
func TestAPoolOverTheLAN(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	over, lan, router := netip.MustParsePrefix("10.5.0.0/27"), netip.MustParsePrefix("10.5.0.8/29"), netip.MustParseAddr("10.5.0.30")
	must(t, first(h.store.Create(t.Context(), model.IPPoolKey{CIDR: over}, &model.IPPool{CIDR: over, IPAM: true, BlockSize: 30})))
	must(t, first(h.store.Create(t.Context(), model.NodeKey{Name: "node01"}, &model.Node{IPv4: router})))
	nettest.Run(t, "ip", "link", "add", "lan0", "type", "bridge")
	t.Cleanup(func() { nettest.Run(t, "ip", "link", "del", "lan0") })
	nettest.Run(t, "ip", "addr", "add", netip.PrefixFrom(lan.Addr().Next(), lan.Bits()).String(), "dev", "lan0")
	h.start()
	for range 32 - 8 - 4 {
		a := netip.MustParsePrefix(h.address(over.String(), ""))
		if lan.Overlaps(a) || netip.PrefixFrom(router, 30).Overlaps(a) {
			t.Errorf("%s is given out", a)
		}
	}
	h.refused("IpamDriver.RequestAddress", `{"PoolID":"10.5.0.0/27"}`,
		"20 of 32", "10.5.0.8/29 (network of lan0)", "10.5.0.30 (node node01)")
	h.refused("IpamDriver.RequestAddress", `{"PoolID":"10.5.0.0/27","Address":"10.5.0.10"}`, "10.5.0.8/29 (network of lan0)")
}

func TestReleasesOfWhatIsNobodysAreAccepted(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	for _, a := range []string{"0.0.0.0", "::", "169.254.1.1", "192.168.200.1", "172.17.0.1"} {
		h.ok("IpamDriver.ReleaseAddress", `{"PoolID":"CalicoPoolIPv4","Address":%q}`, a)
	}
}

const chosen = "192.168.5.5"

// withChosen starts a container with the chosen address on net1.
func withChosen(h *host, c container) {
	h.t.Helper()
	h.address("192.168.0.0/16", chosen)
	h.ok("NetworkDriver.CreateEndpoint", `{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":%q}}`,
		c.networkID, c.endpoint, chosen+"/32")
	h.ok("NetworkDriver.Join", "%s", joinBody(c))
}

func TestAChosenAddressThatAContainerHasIsRefused(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	const again = `{"PoolID":"192.168.0.0/16","Address":"192.168.5.5"}`
	h.address("192.168.0.0/16", chosen)
	h.refused("IpamDriver.RequestAddress", again, chosen, "being started on node node00")
	h.ok("NetworkDriver.CreateEndpoint", `{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":%q}}`, netID, epA, chosen+"/32")
	h.refused("IpamDriver.RequestAddress", again, chosen, epA)

	other := onEtcd(t, enginetest.Docker20, "node01", h.env["ETCD_ENDPOINTS"])
	other.start()
	other.refused("IpamDriver.RequestAddress", again, chosen, epA, "node00")
	// Nor can an endpoint be made with it.
	h.refused("NetworkDriver.CreateEndpoint",
		fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":"192.168.5.5/32"}}`, netID, epB), chosen, epA)
}

func TestAChosenAddressIsTakenFromAContainerThatIsGone(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	withChosen(h, web)
	// The host is switched off: no call comes, the pair is gone, the process too.
	must(t, h.stop())
	must(t, first(h.links.Remove(epA)))
	h.start()
	again := web
	again.endpoint = epB
	withChosen(h, again)
	if _, err := h.store.Get(t.Context(), endpoint.Key("node00", epA)); err == nil {
		t.Error("the dead endpoint is left")
	}
	if who := h.owner(chosen + "/32"); who.Handle != epB {
		t.Errorf("owner %v", who)
	}
}

func TestALateReleaseDoesNotTakeAnAddressAway(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	withChosen(h, web)
	ids := fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q}`, netID, epA)
	release := fmt.Sprintf(`{"PoolID":"192.168.0.0/16","Address":%q}`, chosen)
	h.ok("NetworkDriver.Leave", "%s", ids)
	h.ok("NetworkDriver.DeleteEndpoint", "%s", ids)
	// Another container gets the address before the engine releases it for the first.
	h.address("192.168.0.0/16", chosen)
	h.ok("IpamDriver.ReleaseAddress", "%s", release)
	next := web
	next.endpoint = epB
	h.ok("NetworkDriver.CreateEndpoint", `{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":%q}}`, netID, epB, chosen+"/32")
	// Even a release that nobody expects leaves a living endpoint alone.
	h.ok("IpamDriver.ReleaseAddress", "%s", release)
	if who := h.owner(chosen + "/32"); who.Handle != epB {
		t.Errorf("owner %v", who)
	}
	h.remove(next, chosen)
	h.nothingLeft()
}

func TestAnAddressThatCameToNothingIsReleased(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	for range 2 {
		a, _, _ := strings.Cut(h.address("CalicoPoolIPv4", ""), "/")
		h.ok("IpamDriver.ReleaseAddress", `{"PoolID":"CalicoPoolIPv4","Address":%q}`, a)
	}
	h.nothingLeft()
}

func TestAStartOutlivesARestartOfThePlugin(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	addr := h.address("CalicoPoolIPv4", "")
	again := func() {
		must(t, h.stop())
		h.start()
	}
	again()
	h.ok("NetworkDriver.CreateEndpoint", `{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":%q}}`, netID, epA, addr)
	again()
	h.ok("NetworkDriver.Join", "%s", joinBody(web))
	again()
	h.remove(web, addr)
	h.nothingLeft()
}

func TestAnAddressThatEtcdHasForgottenIsClaimedAnew(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	h.ok("NetworkDriver.CreateEndpoint", `{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":%q}}`, netID, epA, chosen+"/32")
	if who := h.owner(chosen + "/32"); who.Handle != epA {
		t.Errorf("owner %v", who)
	}
}
