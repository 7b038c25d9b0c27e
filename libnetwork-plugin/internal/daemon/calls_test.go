package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/enginetest"
	felixv1 "calico.internal/proto/felix/v1"
)

// The containers of most tests.
var (
	netID = strings.Repeat("a1", 32)
	epA   = "4e5ed993aed9e7c89bd5514fa67a2a8346295238801974d77eac8b444ae2afb0"
	epB   = "f24874aae57f0e8ad0ccd04f98f5a5c1b1c8e8f5ea9c6d7b0a1b2c3d4e5f6071"
	web   = container{
		id: strings.Repeat("c1", 32), name: "web", network: "net1", networkID: netID, endpoint: epA,
		sandbox: "/run/docker/netns/1f2e3d4c5b6a",
		labels: map[string]string{
			"org.projectcalico.label.role": "frontend", "com.docker.compose.project": "shop",
			"com.docker.compose.service": "web", "unrelated": "x y z",
		},
	}
)

// eachRelease runs a test against the engines whose answers are known.
func eachRelease(t *testing.T, test func(*testing.T, *host)) {
	for _, r := range []enginetest.Release{enginetest.Docker20, enginetest.Docker29} {
		t.Run(r.Server, func(t *testing.T) {
			h := newHost(t, r)
			test(t, h)
		})
	}
}

func TestAContainersLifeInProfileMode(t *testing.T) {
	eachRelease(t, func(t *testing.T, h *host) {
		h.start()
		h.followed()
		h.network(netID, "net1", "{}")
		addr := h.create(web)
		if !pool4.Contains(netip.MustParsePrefix(addr).Addr()) || !strings.HasSuffix(addr, "/32") {
			t.Errorf("address %s", addr)
		}
		var got, want any
		must(t, json.Unmarshal([]byte(h.ok("NetworkDriver.Join", "%s", joinBody(web))), &got))
		must(t, json.Unmarshal([]byte(`{"InterfaceName":{"SrcName":"temp4e5ed993aed","DstPrefix":"cali"},
"Gateway":"169.254.1.1","GatewayIPv6":"","DisableGatewayService":false,
"StaticRoutes":[{"Destination":"169.254.1.1/32","RouteType":1,"NextHop":""}]}`), &want))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Join: %s", diff)
		}
		h.running(web, addr)
		h.ok("NetworkDriver.ProgramExternalConnectivity",
			`{"NetworkID":%q,"EndpointID":%q,"Options":{"com.docker.network.portmap":[]}}`, netID, epA)
		for range 2 {
			h.ok("NetworkDriver.EndpointOperInfo", `{"NetworkID":%q,"EndpointID":%q}`, netID, epA)
		}

		checkEndpoint(t, h, addr)
		checkProfile(t, h)
		checkOwner(t, h, addr)
		checkFelixWasAsked(t, h)
		if _, err := netlink.LinkByName("cali4e5ed993aed"); err != nil {
			t.Errorf("the host's end: %v", err)
		}

		h.remove(web, addr)
		h.ok("IpamDriver.ReleasePool", `{"PoolID":"CalicoPoolIPv4"}`)
		h.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":%q}`, netID)
		h.engine.RemoveNetwork(netID)
		h.nothingLeft()
		h.noRecord("net1")
	})
}

// checkEndpoint compares the endpoint with what calicoctl shall show.
func checkEndpoint(t *testing.T, h *host, addr string) {
	t.Helper()
	got := h.endpoint(epA)
	want := &model.WorkloadEndpoint{
		State: "active", Interface: "cali4e5ed993aed", MAC: "ee:ee:ee:ee:ee:ee", Profiles: []string{"net1"},
		IPv4Nets: []netip.Prefix{netip.MustParsePrefix(addr)},
	}
	want.Annotations = map[string]string{
		endpoint.Network: "net1", endpoint.NetworkID: netID, endpoint.ContainerID: web.id, endpoint.ContainerName: "web",
		endpoint.ComposeProject: "shop", endpoint.ComposeService: "web", endpoint.Sandbox: web.sandbox,
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("endpoint: %s", diff)
	}
	if len(got.Labels) != 0 {
		t.Errorf("labels %v without label mode", got.Labels)
	}
}

// checkProfile compares the keys of the profile with what v2.6 wrote.
func checkProfile(t *testing.T, h *host) {
	t.Helper()
	for part, want := range map[string]string{
		"tags": `["net1"]`, "labels": `{}`,
		"rules": `{"inbound_rules":[{"action":"allow","src_tag":"net1"}],"outbound_rules":[{"action":"allow"}]}`,
	} {
		resp, err := h.raw.Get(t.Context(), "/calico/v1/policy/profile/net1/"+part)
		must(t, err)
		if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != want {
			t.Errorf("profile's %s: %v, want %s", part, resp.Kvs, want)
		}
	}
}

func checkOwner(t *testing.T, h *host, addr string) {
	t.Helper()
	who := h.owner(addr)
	if _, err := time.Parse(time.RFC3339, who.Attrs[ipam.AttrTimestamp]); err != nil {
		t.Errorf("time of the address: %v", err)
	}
	delete(who.Attrs, ipam.AttrTimestamp)
	want := ipam.Owner{Handle: epA, Attrs: map[string]string{
		ipam.AttrNode: "node00", ipam.AttrNetwork: "net1", ipam.AttrEndpoint: epA, ipam.AttrContainer: "web",
	}}
	if diff := cmp.Diff(want, who); diff != "" {
		t.Errorf("owner: %s", diff)
	}
}

// checkFelixWasAsked makes sure that Join waited for what was written last.
func checkFelixWasAsked(t *testing.T, h *host) {
	t.Helper()
	e, err := h.store.Get(t.Context(), endpoint.Key("node00", epA))
	must(t, err)
	waits := h.felix.Waits()
	if len(waits) != 1 || waits[0].GetRevision() != e.Revision || waits[0].GetId().GetEndpoint() != epA {
		t.Errorf("felix was asked for %v, the endpoint has revision %d", waits, e.Revision)
	}
}

func TestAContainersLifeInLabelMode(t *testing.T) {
	eachRelease(t, func(t *testing.T, h *host) {
		h.cfg.LabelEndpoints, h.cfg.CreateProfiles = true, false
		var inForce map[string]string
		h.felix.OnWait(func(r *felixv1.WaitEndpointRequest) {
			inForce = h.endpoint(r.GetId().GetEndpoint()).Labels
		})
		h.start()
		h.followed()
		h.network(netID, "net1", `{"org.projectcalico.label.net":"shop","org.projectcalico.label.role":"none"}`)
		h.create(web)
		h.ok("NetworkDriver.Join", "%s", joinBody(web))

		ep := h.endpoint(epA)
		want := map[string]string{"role": "frontend", "net": "shop"}
		if diff := cmp.Diff(want, ep.Labels); diff != "" {
			t.Errorf("labels: %s", diff)
		}
		if diff := cmp.Diff(want, inForce); diff != "" {
			t.Errorf("labels when felix was asked: %s", diff)
		}
		if len(ep.Profiles) != 0 {
			t.Errorf("profiles %v", ep.Profiles)
		}
		if _, err := h.store.Get(t.Context(), model.ProfileKey{Name: "net1"}); err == nil {
			t.Error("a profile was made")
		}
		for _, path := range h.engine.Calls() {
			if strings.HasPrefix(path, "/containers/") && path != "/containers/json" {
				t.Errorf("asked for %s, which the engine answers only after Join", path)
			}
		}
	})
}

func TestEveryCallMayComeTwice(t *testing.T) {
	h := newHost(t, enginetest.Docker29)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	addr := h.address("CalicoPoolIPv4", "")
	create := fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":%q}}`, netID, epA, addr)
	ids := fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q}`, netID, epA)
	twice := func(method, body string) {
		t.Helper()
		if a, b := h.ok(method, "%s", body), h.ok(method, "%s", body); a != b {
			t.Errorf("%s: %s, then %s", method, a, b)
		}
	}
	twice("NetworkDriver.GetCapabilities", "")
	twice("IpamDriver.GetDefaultAddressSpaces", "")
	twice("NetworkDriver.CreateEndpoint", create)
	twice("NetworkDriver.Join", joinBody(web))
	if got := h.endpoint(epA).IPv4Gateway; got.IsValid() {
		t.Errorf("the second Join counted as a second network: %s", got)
	}
	twice("NetworkDriver.EndpointOperInfo", ids)
	twice("NetworkDriver.RevokeExternalConnectivity", ids)
	twice("NetworkDriver.Leave", ids)
	twice("NetworkDriver.DeleteEndpoint", ids)
	bare, _, _ := strings.Cut(addr, "/")
	twice("IpamDriver.ReleaseAddress", fmt.Sprintf(`{"PoolID":"CalicoPoolIPv4","Address":%q}`, bare))
	twice("IpamDriver.ReleasePool", `{"PoolID":"CalicoPoolIPv4"}`)
	twice("NetworkDriver.DeleteNetwork", fmt.Sprintf(`{"NetworkID":%q}`, netID))
	h.nothingLeft()
}

func TestAFailedStartLeavesNothing(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.cfg.FelixTimeout = 2 * time.Second // an answer takes its time on a busy machine
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	addr := h.create(web)
	h.felix.SetSilent(true)
	begun := time.Now()
	h.refused("NetworkDriver.Join", joinBody(web), "felix does not answer", h.felix.Socket, "not started")
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("Join failed only after %s", took)
	}
	pairs, err := h.links.List()
	must(t, err)
	if len(pairs) != 0 {
		t.Errorf("interfaces are left: %v", pairs)
	}
	h.remove(web, addr)
	h.nothingLeft()

	h.felix.SetSilent(false)
	h.create(web)
	h.ok("NetworkDriver.Join", "%s", joinBody(web))
}

func TestFelixSaysWhatIsMissing(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.cfg.FelixTimeout = 2 * time.Second // an answer takes its time on a busy machine
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	h.create(web)
	h.felix.SetWhy("chain cali-tw-cali4e5ed993aed: iptables-restore failed")
	h.refused("NetworkDriver.Join", joinBody(web), "felix has not put the endpoint in force", "iptables-restore failed")
}

func TestSeveralNetworksOfAContainerHaveDistinctGateways(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	other := strings.Repeat("b2", 32)
	h.network(other, "net2", "{}")
	second := web
	second.networkID, second.network, second.endpoint = other, "net2", epB

	h.create(web)
	h.ok("NetworkDriver.Join", "%s", joinBody(web))
	h.create(second)
	must(t, h.stop()) // What is known of sandboxes outlives the process.
	h.start()
	answer := h.ok("NetworkDriver.Join", "%s", joinBody(second))
	if !strings.Contains(answer, `"Gateway":"169.254.1.2"`) || !strings.Contains(answer, `"Destination":"169.254.1.2/32"`) {
		t.Errorf("answer %s", answer)
	}
	if got := h.endpoint(epB).IPv4Gateway; got.String() != "169.254.1.2" {
		t.Errorf("gateway in etcd %s", got)
	}
	if answer := h.ok("NetworkDriver.Join", "%s", joinBody(web)); !strings.Contains(answer, `"Gateway":"169.254.1.1"`) {
		t.Errorf("answer for the first network %s", answer)
	}
}

func TestIPv6DataOnlyWithAnIPv6Address(t *testing.T) {
	h := newHost(t, enginetest.Docker29)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	v4, v6 := h.address("CalicoPoolIPv4", ""), h.address("CalicoPoolIPv6", "")
	if !strings.HasSuffix(v6, "/128") || !pool6.Contains(netip.MustParsePrefix(v6).Addr()) {
		t.Errorf("IPv6 address %s", v6)
	}
	h.ok("NetworkDriver.CreateEndpoint", `{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":%q,"AddressIPv6":%q}}`,
		netID, epA, v4, v6)
	answer := h.ok("NetworkDriver.Join", "%s", joinBody(web))
	if !strings.Contains(answer, `"GatewayIPv6":"fe80::a9fe:101"`) || !strings.Contains(answer, `"fe80::a9fe:101/128"`) {
		t.Errorf("answer %s", answer)
	}
	if got := h.endpoint(epA).IPv6Nets; len(got) != 1 || got[0].String() != v6 {
		t.Errorf("IPv6 addresses in etcd %v", got)
	}
	h.remove(web, v4)
	h.ok("IpamDriver.ReleaseAddress", `{"PoolID":"CalicoPoolIPv6","Address":%q}`, strings.TrimSuffix(v6, "/128"))
	h.nothingLeft()
}

func TestTheUsersMACAndLabelsAreKept(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.network(netID, "net1", `{"com.docker.network.driver.mtu":"1400","org.projectcalico.label.zone":"a"}`)
	addr := h.address("CalicoPoolIPv4", "")
	answer := h.ok("NetworkDriver.CreateEndpoint", `{"NetworkID":%q,"EndpointID":%q,
"Options":{"org.projectcalico.label.role":"db","com.docker.network.endpoint.macaddress":"AkKsEQAC"},
"Interface":{"Address":%q,"MacAddress":"02:42:AC:11:00:02"}}`, netID, epA, addr)
	if answer != `{"Interface":{"Address":"","AddressIPv6":"","MacAddress":""}}` {
		t.Errorf("an answer that repeats the user's MAC is refused by the engine: %s", answer)
	}
	h.ok("NetworkDriver.Join", "%s", joinBody(web))
	ep := h.endpoint(epA)
	if ep.MAC != "02:42:ac:11:00:02" {
		t.Errorf("MAC %s", ep.MAC)
	}
	if diff := cmp.Diff(map[string]string{"role": "db", "zone": "a"}, ep.Labels); diff != "" {
		t.Errorf("labels: %s", diff)
	}
	peer, err := netlink.LinkByName("temp4e5ed993aed")
	must(t, err)
	if peer.Attrs().HardwareAddr.String() != "02:42:ac:11:00:02" || peer.Attrs().MTU != 1400 {
		t.Errorf("container's end: %s, MTU %d", peer.Attrs().HardwareAddr, peer.Attrs().MTU)
	}
	h.remove(web, addr)
}

func TestAfterACrashDeleteEndpointComesWithoutLeave(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	addr := h.create(web)
	h.ok("NetworkDriver.Join", "%s", joinBody(web))
	h.ok("NetworkDriver.DeleteEndpoint", `{"NetworkID":%q,"EndpointID":%q}`, netID, epA)
	h.ok("IpamDriver.ReleaseAddress", `{"PoolID":"CalicoPoolIPv4","Address":%q}`, strings.TrimSuffix(addr, "/32"))
	h.nothingLeft()
}

func TestAnExistingProfileIsTheUsers(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	key := model.ProfileKey{Name: "net1"}
	mine := &model.Profile{Tags: []string{"mine"}, OutboundRules: []model.Rule{{Action: model.ActionDeny}}}
	must(t, first(h.store.Create(t.Context(), key, mine)))
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	h.create(web)
	e, err := h.store.Get(t.Context(), key)
	must(t, err)
	if got := e.Value.(*model.Profile); len(got.Tags) != 1 || got.Tags[0] != "mine" {
		t.Errorf("profile %+v", got)
	}
}

func TestManyContainersStartAtOnce(t *testing.T) {
	h := newHost(t, enginetest.Docker29)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	var wg sync.WaitGroup
	addrs := make([]string, 20)
	for i := range addrs {
		wg.Go(func() {
			addr := h.address("CalicoPoolIPv4", "")
			id := fmt.Sprintf("%012d%s", i, strings.Repeat("e", 52))
			h.ok("NetworkDriver.CreateEndpoint", `{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":%q}}`, netID, id, addr)
			addrs[i] = addr
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for i, a := range addrs {
		if a == "" || seen[a] {
			t.Errorf("address %d: %q", i, a)
		}
		seen[a] = true
	}
	endpoints, _, _, err := h.store.List(t.Context(), model.KindWorkloadEndpoint, nil)
	must(t, err)
	if len(endpoints) != len(addrs) {
		t.Errorf("%d endpoints", len(endpoints))
	}
}

func TestOtherHostsOfAClusterStoreFindTheNameInEtcd(t *testing.T) {
	one := newHost(t, enginetest.Docker20)
	one.engine.SetClusterStore("etcd://172.28.8.2:2379")
	two := onEtcd(t, enginetest.Docker20, "node01", one.env["ETCD_ENDPOINTS"])
	two.raw = one.raw
	two.engine.SetClusterStore("etcd://172.28.8.2:2379")
	one.start()
	two.start()
	one.followed()
	two.followed()
	if got := two.ok("NetworkDriver.GetCapabilities", ""); !strings.Contains(got, `"Scope":"global"`) {
		t.Errorf("capabilities %s", got)
	}
	one.network(netID, "net1", "{}")
	// The second host's plugin was never told of the network, and its engine does not
	// answer in the middle of its own call.
	two.engine.SetSilent(true)
	addr := two.create(web)
	if got := two.endpoint(epA); len(got.Profiles) != 1 || got.Profiles[0] != "net1" {
		t.Errorf("profiles %v", got.Profiles)
	}
	two.ok("NetworkDriver.Join", "%s", joinBody(web))
	two.remove(web, addr)
	// Whichever host removes the network, it is gone for all.
	two.engine.SetSilent(false)
	two.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":%q}`, netID)
	one.engine.RemoveNetwork(netID)
	one.noRecord("net1")
}

func TestTheEnginesWordIsUsedForANetworkThatEtcdDoesNotKnow(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.engine.AddNetworkQuietly(enginetest.Network{ID: netID, Name: "net1", Driver: "calico", Scope: "global"})
	h.create(web)
	if got := h.endpoint(epA); len(got.Profiles) != 1 || got.Profiles[0] != "net1" {
		t.Errorf("profiles %v", got.Profiles)
	}
}

func TestWithoutANameNothingIsLetThrough(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.engine.SetSilent(true)
	h.start()
	begun := time.Now()
	h.create(web)
	if got := h.endpoint(epA); len(got.Profiles) != 0 {
		t.Errorf("profiles %v", got.Profiles)
	}
	h.refused("NetworkDriver.Join", joinBody(web), "network is not known", "not started without its policy")
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("a starting engine was waited for %s", took)
	}
	// The engine has come up in the meantime.
	h.engine.AddNetworkQuietly(enginetest.Network{ID: netID, Name: "net1", Driver: "calico"})
	h.engine.SetSilent(false)
	h.ok("NetworkDriver.Join", "%s", joinBody(web))
	if got := h.endpoint(epA); len(got.Profiles) != 1 || got.Profiles[0] != "net1" {
		t.Errorf("profiles %v", got.Profiles)
	}
	checkProfile(t, h)
}

func TestLabelModeRefusesAContainerWhoseLabelsCannotBeRead(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.cfg.LabelEndpoints, h.cfg.CreateProfiles = true, false
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	h.create(web)
	h.engine.Down(t)
	h.refused("NetworkDriver.Join", joinBody(web), "labels", "could not be read")
	pairs, err := h.links.List()
	must(t, err)
	if len(pairs) != 0 {
		t.Errorf("interfaces are left: %v", pairs)
	}
	h.engine.Up(t)
}

func TestProfileModeWorksWithoutTheEngine(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	must(t, h.stop())
	h.engine.Down(t)
	h.start()
	h.create(web)
	h.ok("NetworkDriver.Join", "%s", joinBody(web))
	h.engine.Up(t)
}

func TestWithoutEtcdEveryCallSaysSo(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	etcd := etcdtest.Start(t)
	h.env["ETCD_ENDPOINTS"] = etcd.Endpoint()
	etcd.Stop()
	h.start()
	ids := fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q}`, netID, epA)
	var calls sync.WaitGroup
	for method, body := range map[string]string{
		"IpamDriver.RequestPool":       `{"Pool":"192.168.0.0/16"}`,
		"IpamDriver.RequestAddress":    `{"PoolID":"CalicoPoolIPv4"}`,
		"IpamDriver.ReleaseAddress":    `{"PoolID":"CalicoPoolIPv4","Address":"192.168.0.1"}`,
		"NetworkDriver.CreateEndpoint": fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":"192.168.0.1/32"}}`, netID, epA),
		"NetworkDriver.Join":           joinBody(web),
		"NetworkDriver.DeleteEndpoint": ids,
	} {
		calls.Go(func() {
			begun := time.Now()
			h.refused(method, body, "etcd at "+etcd.Endpoint(), "ETCD_ENDPOINTS")
			if took := time.Since(begun); took > 8*time.Second {
				t.Errorf("%s took %s to say so", method, took)
			}
		})
	}
	calls.Wait()
	h.ok("NetworkDriver.Leave", "%s", ids)
	h.ok("NetworkDriver.GetCapabilities", "")
	h.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":%q}`, netID) // other hosts hear of it later

	must(t, etcd.Restart())
	must(t, first(h.call("NetworkDriver.DeleteEndpoint", ids)))
}

func TestNamesReachEtcdWhenItIsBack(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	etcd := etcdtest.Start(t)
	h.env["ETCD_ENDPOINTS"] = etcd.Endpoint()
	etcd.Stop()
	h.start()
	h.followed()
	h.engine.AddNetwork(enginetest.Network{ID: netID, Name: "net1", Driver: "calico"})
	must(t, etcd.Restart())
	client := etcd.Client(t)
	must(t, first(client.Put(t.Context(), "/calico/v1/Ready", "true"))) // one without a cluster is not written to
	enginetest.Eventually(t, "the name is in etcd", func() bool {
		resp, err := client.Get(t.Context(), "/calico/docker/v1/network/net1")
		return err == nil && len(resp.Kvs) == 1 && strings.Contains(string(resp.Kvs[0].Value), netID)
	})
}

// An endpoint that a restored store lacks is kept in force by hosts that knew it, until they
// see that it is deleted.
func TestTheEndOfAnEndpointThatTheStoreLacksIsSeen(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	addr := h.create(web)
	h.ok("NetworkDriver.Join", "%s", joinBody(web))
	must(t, first(h.raw.Put(t.Context(), model.Paths(model.ReadyKey{})[0], "true")))
	key := endpoint.Key(h.cfg.Node, epA)
	lost, err := h.store.Delete(t.Context(), key, 0)
	must(t, err)
	must(t, first(h.raw.Delete(t.Context(), model.ListPrefixes(model.KindDockerName)[0], clientv3.WithPrefix())))
	h.remove(web, addr)
	h.nothingLeft()
	history := func() (types []string) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		end, err := h.raw.Put(ctx, model.Paths(key)[0]+"-end", "")
		must(t, err)
		for r := range h.raw.Watch(ctx, model.Paths(key)[0], clientv3.WithPrefix(), clientv3.WithRev(lost+1)) {
			must(t, r.Err())
			for _, e := range r.Events {
				if e.Kv.ModRevision == end.Header.Revision {
					lost = e.Kv.ModRevision
					return types
				}
				types = append(types, e.Type.String())
			}
		}
		return types
	}
	if seen := history(); len(seen) == 0 || seen[len(seen)-1] != "DELETE" {
		t.Errorf("the store had %v", seen)
	}
	// One that was emptied is left as it is.
	must(t, first(h.raw.Delete(t.Context(), model.Root, clientv3.WithPrefix())))
	_, _ = h.call("NetworkDriver.DeleteEndpoint", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q}`, netID, epA))
	for _, what := range history() {
		if what == "PUT" {
			t.Error("an endpoint is written to an empty store")
		}
	}
}
