package address

import (
	"context"
	"net/netip"
	"strings"
	"testing"
)

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
		{"nothing means the first usable interface", "", 4, "eth0 192.0.2.10/24", ""},
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
