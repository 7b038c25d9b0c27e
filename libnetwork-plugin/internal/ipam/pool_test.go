package ipam

import (
	"net/netip"
	"strings"
	"testing"
)

func TestPoolIDsSayAllThatIsKnown(t *testing.T) {
	for id, within := range map[string]string{
		"CalicoPoolIPv4":                "invalid Prefix",
		"CalicoPoolIPv6":                "invalid Prefix",
		"192.168.0.0/16":                "192.168.0.0/16",
		"192.168.0.0/16|192.168.4.0/24": "192.168.4.0/24",
		"fd80:24e2:f998:72d6::/64":      "fd80:24e2:f998:72d6::/64",
		"fd80::/64|fd80::100/120":       "fd80::100/120",
	} {
		p, err := ParsePool(id)
		if err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		if p.String() != id || p.Within().String() != within {
			t.Errorf("%s became %s, within %s", id, p, p.Within())
		}
		if v6 := strings.Contains(id, ":") || strings.Contains(id, "v6"); p.V6 != v6 {
			t.Errorf("%s: IPv6 %v", id, p.V6)
		}
	}
}

func TestIDsThatAreNotOurs(t *testing.T) {
	for _, id := range []string{"", "LocalDefault/172.17.0.0/16", "10.0.0.0/8|11.0.0.0/24", "10.0.0.0/8|x", "10.0.0.0/24|10.0.0.0/8"} {
		if p, err := ParsePool(id); err == nil {
			t.Errorf("%q became %v", id, p)
		}
	}
}

func TestHolds(t *testing.T) {
	tests := []struct {
		pool, addr string
		want       bool
	}{
		{"CalicoPoolIPv4", "10.0.0.1", true},
		{"CalicoPoolIPv4", "fd80::1", false},
		{"CalicoPoolIPv6", "fd80::1", true},
		{"192.168.0.0/16", "192.168.3.4", true},
		{"192.168.0.0/16", "10.0.0.1", false},
		// A range says where addresses are picked; the user may choose any of the subnet.
		{"192.168.0.0/16|192.168.4.0/24", "192.168.3.4", true},
	}
	for _, tt := range tests {
		p, err := ParsePool(tt.pool)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Holds(netip.MustParseAddr(tt.addr)); got != tt.want {
			t.Errorf("%s holds %s: %v", tt.pool, tt.addr, got)
		}
	}
}
