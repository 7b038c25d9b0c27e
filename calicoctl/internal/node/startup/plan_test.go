package startup

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/calicoctl/internal/node/address"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for _, p := range pairs {
			if k, v, _ := strings.Cut(p, "="); k == name {
				return v
			}
		}
		return ""
	}
}

var eth0 = []address.Interface{{Name: "eth0", Up: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("172.17.8.101/24")}}}

func planOf(t *testing.T, c cluster, pairs ...string) (*plan, error) {
	t.Helper()
	s, err := readSettings(env(pairs...), "node01", true)
	if err != nil {
		t.Fatal(err)
	}
	return makePlan(context.Background(), s, c, eth0, "v9", "guid")
}

func TestFirstNodeOfACluster(t *testing.T) {
	p, err := planOf(t, cluster{}, "IP=172.17.8.101")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"Using IPv4 address from environment: IP=172.17.8.101",
		"IPv4 address 172.17.8.101 discovered on interface eth0",
		"No AS number configured on node resource, using global value",
		"CALICO_IPV4POOL_NAT_OUTGOING is true (defaulted) through environment variable",
		"Created default IPv4 pool (192.168.0.0/16) with NAT outgoing true. IPIP mode: off",
		"CALICO_IPV6POOL_NAT_OUTGOING is false (defaulted) through environment variable",
		"Created default IPv6 pool (fd80:24e2:f998:72d6::/64) with NAT outgoing false. IPIP mode: off",
	}
	if diff := cmp.Diff(want, p.lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if got := p.node.IPv4Net.String(); got != "172.17.8.0/24" {
		t.Errorf("the subnet is %s: the interface's mask must be kept", got)
	}
	for _, k := range []model.Key{
		model.ReadyKey{},
		guidKey,
		model.IPPoolKey{CIDR: defaultPool4},
		model.IPPoolKey{CIDR: defaultPool6},
		model.BGPConfigKey{Name: "as_num"},
		model.BGPConfigKey{Name: "node_mesh"},
	} {
		if p.create[k] == nil {
			t.Errorf("%v is not created", k)
		}
	}
	for _, k := range []model.Key{model.FelixConfigKey{Name: "ReportingIntervalSecs"}, model.FelixConfigKey{Node: "node01", Name: "DefaultEndpointToHostAction"}} {
		if p.create[k] != nil || p.put[k] != nil {
			t.Errorf("%v must not be written", k)
		}
	}
	for k, r := range p.create {
		if err := model.Validate(k, r); err != nil {
			t.Errorf("%v: %v", k, err)
		}
	}
}

func TestStartAgainChangesNothing(t *testing.T) {
	first, err := planOf(t, cluster{}, "IP=172.17.8.101")
	if err != nil {
		t.Fatal(err)
	}
	c := cluster{nodes: map[string]*model.Node{"node01": first.node}, settings: map[model.Key]string{}, hasReady: true, ready: true}
	for _, all := range []map[model.Key]model.Resource{first.create, first.put} {
		for k, r := range all {
			switch r := r.(type) {
			case *model.Setting:
				c.settings[k] = r.Value
			case *model.IPPool:
				c.pools = append(c.pools, r)
			}
		}
	}
	again, err := planOf(t, c)
	if err != nil {
		t.Fatal(err)
	}
	if len(again.create) != 0 || len(again.put) != 1 {
		t.Errorf("a second start creates %v and writes %v", again.create, again.put)
	}
	if diff := cmp.Diff(first.node, again.node, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("the node changed:\n%s", diff)
	}
}

func TestPlans(t *testing.T) {
	other := map[string]*model.Node{"node02": {IPv4: netip.MustParseAddr("172.17.8.101")}}
	lan := []localnet.Place{
		{Prefix: netip.MustParsePrefix("172.17.8.0/24"), What: "network of eth0"},
		{Prefix: netip.MustParsePrefix("fd00::/120"), What: "network of eth0"},
		{Prefix: netip.MustParsePrefix("172.17.9.10/32"), What: "etcd"},
	}
	pool := []*model.IPPool{{CIDR: netip.MustParsePrefix("10.0.0.0/16")}}
	for _, tc := range []struct {
		name string
		c    cluster
		env  []string
		line string
		err  string
	}{
		{"another node has the address", cluster{nodes: other}, []string{"IP=172.17.8.101"}, "", "Calico node 'node02' is already using the IPv4 address 172.17.8.101."},
		{"the check can be switched off", cluster{nodes: other}, []string{"IP=172.17.8.101", "DISABLE_NODE_IP_CHECK=true"}, "discovered on interface eth0", ""},
		{"an address that is not here", cluster{}, []string{"IP=203.0.113.1"}, "WARNING: Unable to confirm IPv4 address 203.0.113.1 is assigned to this host", ""},
		{"detection", cluster{}, nil, "Using autodetected IPv4 address on interface eth0: 172.17.8.101/24 (method first-found)", ""},
		{"detection fails", cluster{}, []string{"IP_AUTODETECTION_METHOD=interface=wlan.*"}, "", "Couldn't autodetect an IPv4 address."},
		{"detection fails with a stored value", cluster{nodes: map[string]*model.Node{"node01": {IPv4: netip.MustParseAddr("172.17.8.9")}}}, []string{"IP=autodetect", "IP_AUTODETECTION_METHOD=interface=wlan.*"}, "keeping existing value: 172.17.8.9", ""},
		{"an AS", cluster{}, []string{"AS=65000.1"}, "Using AS number specified in environment (AS=4259840001)", ""},
		{"no pools", cluster{}, []string{"NO_DEFAULT_POOLS=true"}, "Skipping IP pool configuration", ""},
		{"a pool that has no effect is named", cluster{pools: pool}, []string{"CALICO_IPV4POOL_CIDR=10.1.0.0/16"}, "WARNING: CALICO_IPV4POOL_CIDR=10.1.0.0/16 has no effect, since there is a pool already (10.0.0.0/16)", ""},
		{"a pool over the LAN", cluster{taken: lan}, []string{"CALICO_IPV4POOL_CIDR=172.17.0.0/16"}, "", "CALICO_IPV4POOL_CIDR=172.17.0.0/16 covers 172.17.8.0/24 (network of eth0) and 172.17.9.10 (etcd): choose a range"},
		{"an IPv6 pool over the LAN", cluster{taken: lan}, []string{"CALICO_IPV6POOL_CIDR=fd00::/64"}, "", "CALICO_IPV6POOL_CIDR=fd00::/64 covers fd00::/120 (network of eth0): choose a range"},
		{"the default pool over the LAN", cluster{taken: []localnet.Place{{Prefix: netip.MustParsePrefix("192.168.1.0/24"), What: "network of eth0"}}}, nil, "", "the default IPv4 pool 192.168.0.0/16 covers 192.168.1.0/24 (network of eth0): set CALICO_IPV4POOL_CIDR"},
		{"a pool over the LAN that is there", cluster{taken: lan, pools: []*model.IPPool{{CIDR: netip.MustParsePrefix("172.17.0.0/16")}}}, nil, "WARNING: pool 172.17.0.0/16 covers 172.17.8.0/24 (network of eth0) and 172.17.9.10 (etcd): no address comes from its blocks there", ""},
		{"a pool over the node's own address", cluster{}, []string{"IP=10.9.0.1/24", "CALICO_IPV4POOL_CIDR=10.9.0.0/16"}, "", "CALICO_IPV4POOL_CIDR=10.9.0.0/16 covers 10.9.0.0/24 (network of this node): "},
		{"no pool is made over the LAN", cluster{taken: lan}, []string{"NO_DEFAULT_POOLS=true"}, "Skipping IP pool configuration", ""},
		{"IP-in-IP is refused", cluster{}, []string{"CALICO_IPV4POOL_IPIP=always"}, "", "CALICO_IPV4POOL_IPIP=always: IP-in-IP is not served yet"},
		{"IP-in-IP beside a pool has no effect", cluster{pools: pool}, []string{"CALICO_IPV4POOL_IPIP=cross-subnet"}, "WARNING: CALICO_IPV4POOL_IPIP=cross-subnet has no effect", ""},
		{"a value that cannot be used is named", cluster{unreadable: []string{"/calico/x: bad"}}, nil, "WARNING: the store holds a value that cannot be used", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := planOf(t, tc.c, tc.env...)
			if (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
				t.Fatalf("error %v, want %q", err, tc.err)
			}
			if !strings.Contains(strings.Join(p.lines, "\n"), tc.line) {
				t.Errorf("no line %q in\n%s", tc.line, strings.Join(p.lines, "\n"))
			}
		})
	}
}

func TestSettingsNameEveryFault(t *testing.T) {
	_, err := readSettings(env("IP=fd00::1", "AS=x", "CALICO_IPV4POOL_CIDR=10.0.0.5/8", "CALICO_IPV4POOL_IPIP=maybe", "CALICO_IPV6POOL_NAT_OUTGOING=perhaps", "IP_AUTODETECTION_METHOD=foo"), "n", true)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"IP=fd00::1", "AS=x", "CALICO_IPV4POOL_CIDR=10.0.0.5/8", "CALICO_IPV6POOL_NAT_OUTGOING=perhaps", "invalid IP autodetection method: foo"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named in:\n%v", want, err)
		}
	}
}

func TestAMemberWritesNothingToAStoreThatIsNotItsCluster(t *testing.T) {
	with := func(change func(*cluster)) cluster {
		c := cluster{settings: map[model.Key]string{guidKey: "ours"}, hasReady: true, ready: true, member: true, known: "ours", where: "http://etcd:2379"}
		change(&c)
		return c
	}
	for _, tc := range []struct {
		name string
		c    cluster
		line string // empty: it writes
	}{
		{"its own", with(func(*cluster) {}), ""},
		{"an empty one", with(func(c *cluster) { c.hasReady, c.ready, c.settings = false, false, nil }), "there is no /calico/v1/Ready"},
		{"one that lost its id", with(func(c *cluster) { c.settings = nil }), "this host's is ours"},
		{"another's", with(func(c *cluster) { c.settings[guidKey] = "theirs" }), "its GUID is theirs, this host's is ours"},
		{"another's that was accepted", with(func(c *cluster) {
			c.settings[guidKey], c.settings[model.AcceptedGUIDKey{}] = "theirs", "theirs"
		}), ""},
		{"its own, locked", with(func(c *cluster) { c.ready = false }), "is locked"},
		{"an empty one, its record is damaged", with(func(c *cluster) { c.hasReady, c.ready, c.settings, c.known = false, false, nil, "" }), "there is no /calico/v1/Ready"},
		{"any that is set up, its record is damaged", with(func(c *cluster) { c.known = "" }), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := planOf(t, tc.c, "CALICO_NETWORKING_BACKEND=none")
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Join(p.lines, "\n")
			if tc.line == "" {
				if p.held || p.guid != tc.c.settings[guidKey] || len(p.put) == 0 {
					t.Errorf("held %t, with GUID %q, it writes %v:\n%s", p.held, p.guid, p.put, lines)
				}
				return
			}
			if !p.held || len(p.create)+len(p.put) > 0 {
				t.Errorf("it writes %v and %v", p.create, p.put)
			}
			for _, want := range []string{"WARNING: etcd at http://etcd:2379", tc.line, "calicoctl datastore unlock", "nothing is written"} {
				if !strings.Contains(lines, want) {
					t.Errorf("%q is not in\n%s", want, lines)
				}
			}
		})
	}
}

func TestANewHostNamesTheClusterItFounds(t *testing.T) {
	p, err := planOf(t, cluster{}, "CALICO_NETWORKING_BACKEND=none")
	if err != nil || p.guid != "guid" || p.create[guidKey] == nil {
		t.Errorf("GUID %q, %v", p.guid, err)
	}
	if _, err := planOf(t, cluster{hasReady: true}); !errors.Is(err, etcdstore.ErrLocked) {
		t.Errorf("a locked store: %v", err)
	}
}
