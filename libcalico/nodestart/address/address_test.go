package address

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"calico.internal/libcalico/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m.Run)) }

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}

var host = []Interface{
	{Name: "lo", Up: true, Prefixes: prefixes("127.0.0.1/8", "10.99.0.1/32")},
	{Name: "docker0", Up: true, Prefixes: prefixes("172.17.0.1/16")},
	{Name: "br-0123456789ab", Up: true, Prefixes: prefixes("172.18.0.1/16")},
	{Name: "down0", Prefixes: prefixes("192.0.2.200/24")},
	{Name: "eth0", Up: true, Prefixes: prefixes("169.254.7.7/16", "192.0.2.10/24", "fe80::1/64", "2001:db8::10/64")},
	{Name: "flo1", Up: true, Prefixes: prefixes("198.51.100.10/24")},
}

func TestMethods(t *testing.T) {
	for _, tc := range []struct {
		name, method string
		family       int
		want         string
		wantErr      string
	}{
		{"first-found is the first usable interface", "first-found", 4, "eth0 192.0.2.10/24", ""},
		{"first-found passes over Docker's bridges and link-local addresses", "first-found", 4, "eth0 192.0.2.10/24", ""},
		{"first-found of IPv6", "first-found", 6, "eth0 2001:db8::10/64", ""},
		{"a name that only contains lo is not the loopback", "interface=flo", 4, "flo1 198.51.100.10/24", ""},
		{"several interfaces, one of them here", "interface=ens.*,flo.*", 4, "flo1 198.51.100.10/24", ""},
		{"an interface that is down", "interface=down0", 4, "", "no interface that is up"},
		{"skipping adds to the usual ones", "skip-interface=eth.*", 4, "flo1 198.51.100.10/24", ""},
		{"by subnet", "cidr=203.0.113.0/24,198.51.100.0/24", 4, "flo1 198.51.100.10/24", ""},
		{"no such subnet", "cidr=203.0.113.0/24", 4, "", "in 203.0.113.0/24"},
		{"loopback is always reachable", "can-reach=127.0.0.1", 4, "lo 127.0.0.1/8", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, err := Parse(tc.method)
			if err != nil {
				t.Fatal(err)
			}
			c, err := m.Choose(context.Background(), host, tc.family)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("error %v, want one with %q", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Interface + " " + c.Prefix.String(); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for method, want := range map[string]string{
		"foo":             "invalid IP autodetection method: foo",
		"interface=":      "invalid IP autodetection method",
		"interface=eth[":  "invalid interface regex specified for IP autodetection: eth[",
		"interface=a,b[,": "invalid interface regex specified for IP autodetection: b[",
		"cidr=10.0.0.0":   "invalid CIDR specified for IP autodetection: 10.0.0.0",
	} {
		if _, err := Parse(method); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want an error with %q", method, err, want)
		}
	}
}

// TestWhatIsPassedOver has for each kind of address that is not the host's first choice a host
// that has another, and one that has no other.
func TestWhatIsPassedOver(t *testing.T) {
	v6 := func(texts ...string) map[netip.Addr]bool {
		out := map[netip.Addr]bool{}
		for _, text := range texts {
			out[netip.MustParseAddr(text)] = true
		}
		return out
	}
	for _, tc := range []struct {
		name   string
		first  Interface
		family int
		want   string // with eth1 beside it, which has 10.0.0.100/24 and fd00:10::100/64
		alone  string // without eth1; empty: none
	}{
		{"a virtual address", Interface{Name: "eth0", Prefixes: prefixes("10.0.0.200/32")}, 4, "10.0.0.100/24", "10.0.0.200/32"},
		{"a virtual address before the host's own", Interface{Name: "eth0", Prefixes: prefixes("10.0.0.200/32", "10.0.0.99/24")}, 4, "10.0.0.99/24", "10.0.0.99/24"},
		{"a virtual address of IPv6", Interface{Name: "eth0", Prefixes: prefixes("fd00:10::200/128")}, 6, "fd00:10::100/64", "fd00:10::200/128"},
		{"a temporary address", Interface{Name: "eth0", Prefixes: prefixes("fd00:10::9/64", "fd00:10::8/64"), Passing: v6("fd00:10::9")}, 6, "fd00:10::8/64", "fd00:10::8/64"},
		{"only a temporary address", Interface{Name: "eth0", Prefixes: prefixes("fd00:10::9/64"), Passing: v6("fd00:10::9")}, 6, "fd00:10::100/64", "fd00:10::9/64"},
		{"a tunnel by its name", Interface{Name: "wg0", Prefixes: prefixes("10.8.0.2/24")}, 4, "10.0.0.100/24", ""},
		{"a tunnel by its kind", Interface{Name: "office", Tunnel: true, Prefixes: prefixes("10.8.0.2/24")}, 4, "10.0.0.100/24", ""},
		{"a line to the provider", Interface{Name: "ppp0", Tunnel: true, Prefixes: prefixes("203.0.113.7/24")}, 4, "203.0.113.7/24", "203.0.113.7/24"},
		{"a network of Docker's", Interface{Name: "br-0123456789ab", Prefixes: prefixes("172.18.0.1/16")}, 4, "10.0.0.100/24", ""},
		{"podman's", Interface{Name: "podman1", Prefixes: prefixes("10.88.0.1/16")}, 4, "10.0.0.100/24", ""},
		{"CNI's", Interface{Name: "cni-podman0", Prefixes: prefixes("10.88.0.1/16")}, 4, "10.0.0.100/24", ""},
		{"libvirt's", Interface{Name: "virbr0", Prefixes: prefixes("192.168.122.1/24")}, 4, "10.0.0.100/24", ""},
		{"a name that has lo in it", Interface{Name: "slot0", Prefixes: prefixes("10.1.0.1/24")}, 4, "10.1.0.1/24", "10.1.0.1/24"},
		{"a name that has docker in it", Interface{Name: "mydocker", Prefixes: prefixes("10.1.0.1/24")}, 4, "10.1.0.1/24", "10.1.0.1/24"},
		{"link-local", Interface{Name: "eth0", Prefixes: prefixes("169.254.1.1/16", "fe80::1/64")}, 6, "fd00:10::100/64", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.first.Up = true
			alone := []Interface{host[0], tc.first}
			both := append(alone, Interface{Name: "eth1", Up: true, Prefixes: prefixes("10.0.0.100/24", "fd00:10::100/64")})
			for _, m := range []Method{parsed(t, "first-found"), parsed(t, "skip-interface=nothing"), Default(nil)} {
				if c, err := m.Choose(t.Context(), both, tc.family); err != nil || c.Prefix.String() != tc.want {
					t.Errorf("%q: %v, %v, want %s", m, c, err, tc.want)
				}
				c, err := m.Choose(t.Context(), alone, tc.family)
				if tc.alone == "" {
					if err == nil {
						t.Errorf("%q: %v alone", m, c)
					}
				} else if err != nil || c.Prefix.String() != tc.alone {
					t.Errorf("%q: %v, %v alone, want %s", m, c, err, tc.alone)
				}
			}
		})
	}
}

func parsed(t *testing.T, text string) Method {
	t.Helper()
	m, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCandidatesAndWhatThereIs(t *testing.T) {
	var got []string
	for _, c := range Candidates(host, 4) {
		got = append(got, c.String())
	}
	if text := strings.Join(got, ", "); text != "192.0.2.10/24 (eth0), 198.51.100.10/24 (flo1)" {
		t.Errorf("candidates %s", text)
	}
	_, err := parsed(t, "interface=wlan0").Choose(t.Context(), host, 4)
	for _, want := range []string{"172.17.0.1/16 on docker0", "192.0.2.200/24 on down0, which is down", "192.0.2.10/24 on eth0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	_, err = parsed(t, "first-found").Choose(t.Context(), host[:1], 6)
	if err == nil || !strings.Contains(err.Error(), "there is no IPv6 address but local ones") {
		t.Errorf("error %v", err)
	}
}

// TestTheWayToEtcd has a host that reaches etcd by its second interface.
func TestTheWayToEtcd(t *testing.T) {
	nettest.Isolate(t)
	ip := func(args string) { nettest.Run(t, "ip", strings.Fields(args)...) }
	for name, addrs := range map[string][]string{
		"eth0":            {"192.0.2.10/24", "2001:db8::10/64"},
		"eth1":            {"10.0.0.200/32", "10.0.0.100/24", "fd00:10::100/64"},
		"br-ex":           {"10.2.0.1/24"},
		"br-0123456789ab": {"172.18.0.1/16"},
	} {
		ip("link add " + name + " type veth peer name p" + name[len(name)-3:])
		ip("link set p" + name[len(name)-3:] + " up")
		ip("link set " + name + " up")
		for _, a := range addrs {
			ip("addr add " + a + " dev " + name + map[bool]string{true: " nodad", false: ""}[strings.Contains(a, ":")])
		}
	}
	interfaces, err := Host()
	if err != nil {
		t.Fatal(err)
	}
	first, err := parsed(t, "first-found").Choose(t.Context(), interfaces, 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		hosts  []string
		family int
		want   string
	}{
		{[]string{"10.0.0.10"}, 4, "10.0.0.100/24 (eth1) by can-reach=10.0.0.10"},
		{[]string{"192.0.2.1"}, 4, "192.0.2.10/24 (eth0) by can-reach=192.0.2.1"},
		{[]string{"127.0.0.1", "203.0.113.1", "10.0.0.10"}, 4, "10.0.0.100/24 (eth1) by can-reach=10.0.0.10"}, // here, no route, there
		{[]string{"fd00:10::1"}, 6, "fd00:10::100/64 (eth1) by can-reach=fd00:10::1"},
		{[]string{"10.2.0.9"}, 4, "10.2.0.1/24 (br-ex) by can-reach=10.2.0.9"},
		{[]string{"172.18.0.2"}, 4, first.String() + " by first-found"}, // etcd in a container
		{[]string{"127.0.0.1"}, 4, first.String() + " by first-found"},
		{nil, 4, first.String() + " by first-found"},
	} {
		c, err := Default(tc.hosts).Choose(t.Context(), interfaces, tc.family)
		if got := c.String() + " by " + c.Method; err != nil || got != tc.want {
			t.Errorf("%v: %s, %v, want %s", tc.hosts, got, err, tc.want)
		}
	}
}

// TestHost has addresses of IPv6 that will not last.
func TestHost(t *testing.T) {
	nettest.Isolate(t)
	nettest.Run(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "p0")
	nettest.Run(t, "ip", "link", "set", "eth0", "up")
	nettest.Run(t, "ip", "addr", "add", "fd00:10::9/64", "dev", "eth0", "nodad", "preferred_lft", "0")
	nettest.Run(t, "ip", "addr", "add", "fd00:10::8/64", "dev", "eth0", "nodad")
	interfaces, err := Host()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(interfaces, func(i Interface) bool { return i.Name == "eth0" })
	if i < 0 || !interfaces[i].Up || interfaces[i].Tunnel || !interfaces[i].Passing[netip.MustParseAddr("fd00:10::9")] || interfaces[i].Passing[netip.MustParseAddr("fd00:10::8")] {
		t.Fatalf("interfaces %+v", interfaces)
	}
	if c, err := parsed(t, "first-found").Choose(t.Context(), interfaces, 6); err != nil || c.Prefix.String() != "fd00:10::8/64" {
		t.Errorf("%v, %v", c, err)
	}
}
