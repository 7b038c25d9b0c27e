package nodestart

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nodename"
	"calico.internal/libcalico/nodestart/address"
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
	s, err := readSettings(env(pairs...), nil, true)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPlan("node01", model.Identity{ID: "1", Boot: "a"}, c)
	if err != nil || p.held != "" {
		return p, err
	}
	if err := p.addresses(t.Context(), s, eth0); err != nil {
		return p, err
	}
	if err := p.conflict(p.rivals(s, c), nil); err != nil {
		return p, err
	}
	return p, p.rest(s, c, "v9", "guid")
}

func TestFirstNodeOfACluster(t *testing.T) {
	p, err := planOf(t, cluster{}, "IP=172.17.8.101")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"Using IPv4 address from environment: IP=172.17.8.101",
		"IPv4 address 172.17.8.101 discovered on interface eth0",
		"Node IPv4 changed, will check for conflicts",
		"No AS number configured on node resource, using global value",
		"CALICO_IPV4POOL_NAT_OUTGOING is true (defaulted) through environment variable",
		"Ensure default IPv4 pool is created. IPIP mode: off",
		"IPv6 supported on this platform: true",
		"CALICO_IPV6POOL_NAT_OUTGOING is false (defaulted) through environment variable",
		"Ensure default IPv6 pool is created. IPIP mode: off",
	}
	if diff := cmp.Diff(want, p.lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	want = []string{
		"Created default IPv4 pool (192.168.0.0/16) with NAT outgoing true. IPIP mode: off",
		"Created default IPv6 pool (fd80:24e2:f998:72d6::/64) with NAT outgoing false. IPIP mode: off",
		"Ready flag is now set",
		"Assigned cluster GUID: guid",
	}
	if diff := cmp.Diff(want, p.done); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
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
		if p.writes[k] == nil {
			t.Errorf("%v is not created", k)
		}
	}
	for _, k := range []model.Key{model.FelixConfigKey{Name: "ReportingIntervalSecs"}, model.FelixConfigKey{Node: "node01", Name: "DefaultEndpointToHostAction"}} {
		if p.writes[k] != nil {
			t.Errorf("%v must not be written", k)
		}
	}
	for k, r := range p.writes {
		if err := model.Validate(k, r); err != nil {
			t.Errorf("%v: %v", k, err)
		}
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
		{"another node is stored with the address", cluster{nodes: other}, []string{"IP=172.17.8.101"}, "WARNING: node 'node02' is stored with the IPv4 address 172.17.8.101 too, and none of its programs lives", ""},
		{"a node whose name differs by case only has the address", cluster{nodes: map[string]*model.Node{"Node01": other["node02"]}}, []string{"IP=172.17.8.101"}, "", "Calico node 'Node01' is already using the IPv4 address 172.17.8.101. Its name differs from node01 by case only: if it is this host, set NODENAME=Node01"},
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
	_, err := readSettings(env("IP=fd00::1", "AS=x", "CALICO_IPV4POOL_CIDR=10.0.0.5/8", "CALICO_IPV4POOL_IPIP=maybe", "CALICO_IPV6POOL_NAT_OUTGOING=perhaps", "IP_AUTODETECTION_METHOD=foo", "AUTODETECT_POLL_INTERVAL=soon", "CALICO_STARTUP_LOGLEVEL=loud", "CALICO_NETWORKING_BACKEND=x", "CALICO_IPV4POOL_VXLAN=Always"), nil, true)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"IP=fd00::1", "AS=x", "CALICO_IPV4POOL_CIDR=10.0.0.5/8", "CALICO_IPV6POOL_NAT_OUTGOING=perhaps", "invalid IP autodetection method: foo", "AUTODETECT_POLL_INTERVAL=soon is not a time of a second", "CALICO_STARTUP_LOGLEVEL=loud: use info, debug, ", "CALICO_NETWORKING_BACKEND=x: use gobgp, bird or none", "CALICO_IPV4POOL_VXLAN=Always: VXLAN is not served"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named in:\n%v", want, err)
		}
	}
}

// What would be stored, and be of no use to anybody, or have no effect, is refused.
func TestSettingsThatCannotBeMeant(t *testing.T) {
	for _, text := range []string{
		"IP=127.0.0.1", "IP=169.254.3.4", "IP=255.255.255.255", "IP=10.0.0.0/24", "IP=10.0.0.255/24", "IP6=::1", "IP6=fe80::1", "IP6=fd00::1%eth0",
		"AUTODETECT_POLL_INTERVAL=1ns", "NO_DEFAULT_POOLS=True", "CALICO_DISABLE_FELIX=yes", "CALICO_LIBNETWORK_ENABLED=1",
		"WAIT_FOR_DATASTORE=on", "DISABLE_NODE_IP_CHECK=1", "CALICO_FORCE_NAME=yes", "CALICO_DISABLE_FILE_LOGGING=TRUE",
	} {
		if _, err := readSettings(env(text), nil, true); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: error %v", text, err)
		}
	}
	for _, text := range []string{"IP=10.0.0.0/31", "IP=10.0.0.5/24", "IP=10.0.0.7/32", "IP6=fd00::/64", "NO_DEFAULT_POOLS=false", "CALICO_DISABLE_FELIX=0", "AUTODETECT_POLL_INTERVAL=0"} {
		if _, err := readSettings(env(text), nil, true); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestPoolSettings(t *testing.T) {
	for text, want := range map[string]string{
		"CALICO_IPV4POOL_BLOCK_SIZE=19":              "spec.blockSize",
		"CALICO_IPV6POOL_BLOCK_SIZE=26":              "spec.blockSize",
		"CALICO_IPV4POOL_BLOCK_SIZE=large":           "is not the length of a network",
		"CALICO_IPV4POOL_NODE_SELECTOR=a ==":         "spec.nodeSelector",
		"CALICO_IPV6POOL_DISABLE_BGP_EXPORT=perhaps": "is neither true nor false",
		"CALICO_IPV6POOL_IPIP=Always":                "IP-in-IP is for IPv4 only",
	} {
		name, _, _ := strings.Cut(text, "=")
		if _, err := readSettings(env(text), nil, true); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
	given := []string{"CALICO_IPV4POOL_CIDR=10.5.0.0/16", "CALICO_IPV4POOL_BLOCK_SIZE=28", "CALICO_IPV4POOL_NODE_SELECTOR=rack == '1'", "CALICO_IPV4POOL_DISABLE_BGP_EXPORT=true"}
	p, err := planOf(t, cluster{}, given...)
	if err != nil {
		t.Fatal(err)
	}
	cidr := netip.MustParsePrefix("10.5.0.0/16")
	made := p.writes[model.IPPoolKey{CIDR: cidr}]
	want := &model.IPPool{CIDR: cidr, IPAM: true, Masquerade: true, BlockSize: 28, NodeSelector: "rack == '1'", DisableBGPExport: true}
	if diff := cmp.Diff(want, made, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("pool (-want +got):\n%s", diff)
	}
	// Where it is so already nothing is said; where it is not, what differs.
	for stored, said := range map[*model.IPPool]string{
		want: "",
		{CIDR: cidr, IPAM: true, Masquerade: true, BlockSize: 28, NodeSelector: "rack == '1'"}: "WARNING: CALICO_IPV4POOL_DISABLE_BGP_EXPORT=true has no effect, since there is a pool already (10.5.0.0/16)",
	} {
		p, err := planOf(t, cluster{pools: []*model.IPPool{stored}}, given...)
		lines := strings.Join(p.lines, "\n")
		if err != nil || !strings.Contains(lines, said) || said == "" && strings.Contains(lines, "has no effect") {
			t.Errorf("%v: %s, want %q", err, lines, said)
		}
	}
}

// TestASupervisorReportsToo names it with the programs that others expect to hear of.
func TestASupervisorReportsToo(t *testing.T) {
	s := settings{programs: []string{"bgpd", "felix"}}
	if got := s.reporting(); !slices.Equal(got, s.programs) {
		t.Errorf("without one, %v report", got)
	}
	s.supervisor = "calico-node"
	if got := s.reporting(); !slices.Equal(got, []string{"bgpd", "calico-node", "felix"}) {
		t.Errorf("with one, %v report", got)
	}
}

func TestPrograms(t *testing.T) {
	for text, want := range map[string]string{
		"": "bgpd,confd,felix", "CALICO_NETWORKING_BACKEND=none": "felix", "CALICO_NETWORKING_BACKEND=bird": "bgpd,confd,felix",
		"CALICO_DISABLE_FELIX=true": "bgpd,confd", "CALICO_LIBNETWORK_ENABLED=true": "bgpd,confd,felix,libnetwork",
		"CALICO_LIBNETWORK_ENABLED=host": "bgpd,confd,felix,libnetwork", "CALICO_NETWORKING_BACKEND=None": "felix",
	} {
		if s, err := readSettings(env(text), nil, true); err != nil || strings.Join(s.programs, ",") != want {
			t.Errorf("%s: %v, %v, want %s", text, s.programs, err, want)
		}
	}
	s, err := readSettings(env("AUTODETECT_POLL_INTERVAL=15", "CALICO_STARTUP_LOGLEVEL=WARN", "CALICO_FORCE_NAME=true"), nil, true)
	if err != nil || s.poll != 15*time.Second || s.logLevel != "warning" || !s.force {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestChooseName(t *testing.T) {
	me, here := model.Identity{ID: "1", Boot: "a"}, netip.MustParseAddr("10.0.0.100")
	derived, given := nodename.Name{Node: "host-a", Host: "Host-A"}, nodename.Name{Node: "host-a"}
	for _, tc := range []struct {
		name   string
		n      nodename.Name
		record hostrecord.Record
		stored *model.Node // as Host-A
		want   string
		line   string
	}{
		{"imported from v2.6", derived, hostrecord.Record{}, &model.Node{}, "Host-A", "This host is stored as node Host-A"},
		{"by its address", nodename.Name{Node: "host-a", Host: "HOST-A"}, hostrecord.Record{}, &model.Node{IPv4: here}, "Host-A", "This host is stored as node Host-A"},
		{"by its identity", nodename.Name{Node: "host-a", Host: "HOST-A"}, hostrecord.Record{}, &model.Node{Host: model.Identity{ID: "1", Boot: "b"}}, "Host-A", "This host is stored"},
		{"by its record", nodename.Name{Node: "host-a", Host: "HOST-A"}, hostrecord.Record{Name: "Host-A"}, &model.Node{}, "Host-A", "This host is stored"},
		{"another host", derived, hostrecord.Record{}, &model.Node{Host: model.Identity{ID: "2", Boot: "b"}}, "host-a", "WARNING: there is a node Host-A"},
		{"the name is given", given, hostrecord.Record{}, &model.Node{IPv4: here}, "host-a", "set NODENAME=Host-A (calicoctl node run --name=Host-A)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			isHere := func(a netip.Addr) bool { return a == here }
			name, line := chooseName(tc.n, tc.record, me, map[string]*model.Node{"Host-A": tc.stored}, isHere)
			if name != tc.want || !strings.Contains(line, tc.line) {
				t.Errorf("%s, %q, want %s, %q", name, line, tc.want, tc.line)
			}
			if name, line := chooseName(tc.n, tc.record, me, map[string]*model.Node{"Host-A": tc.stored, "host-a": {}}, isHere); name != "host-a" || line != "" {
				t.Errorf("beside a node of that very name: %s, %q", name, line)
			}
		})
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
				if p.held != "" || p.guid != tc.c.settings[guidKey] || len(p.writes) == 0 {
					t.Errorf("held %q, with GUID %q, it writes %v:\n%s", p.held, p.guid, p.writes, lines)
				}
				return
			}
			if p.held == "" || len(p.writes) > 0 {
				t.Errorf("it writes %v", p.writes)
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
	if err != nil || p.guid != "guid" || p.writes[guidKey] == nil {
		t.Errorf("GUID %q, %v", p.guid, err)
	}
	if _, err := planOf(t, cluster{hasReady: true}); !errors.Is(err, etcdstore.ErrLocked) {
		t.Errorf("a locked store: %v", err)
	}
}
