package ipam

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	docker "github.com/docker/go-plugins-helpers/ipam"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// pools are pools without a store.
type pools struct {
	list []netip.Prefix
	err  error
}

func (p pools) Enabled(context.Context) ([]netip.Prefix, error) { return p.list, p.err }

// An engine that is given a range with one of the host's nameservers in it asks again,
// for ever.
func TestAnyIPv6PoolHoldsNoNameserver(t *testing.T) {
	a, b := netip.MustParsePrefix("fd80::/64"), netip.MustParsePrefix("fd81::/64")
	v4 := netip.MustParsePrefix("192.168.0.0/16")
	tests := []struct {
		name, resolvConf string
		pools            pools
		want             string
	}{
		{"no nameserver has an IPv6 address", "nameserver 10.0.0.1\n", pools{}, "::/0"},
		{"no nameserver at all", "", pools{}, "::/0"},
		{"one has", "nameserver 2001:db8::53\n", pools{list: []netip.Prefix{v4, a, b}}, "fd80::/64"},
		{"one is in the first pool", "nameserver fd80::53\n", pools{list: []netip.Prefix{a, b}}, "fd81::/64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := New(nil, tt.pools, func() []netip.Addr { return Nameservers(tt.resolvConf) })
			got, err := d.RequestPool(t.Context(), docker.RequestPoolRequest{V6: true})
			if err != nil {
				t.Fatal(err)
			}
			want := docker.RequestPoolResponse{
				PoolID: "CalicoPoolIPv6", Pool: tt.want, Data: map[string]string{"com.docker.network.gateway": "::/0"},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	broken := errors.New("no store")
	for want, p := range map[string]pools{"--subnet": {list: []netip.Prefix{v4, a}}, "no store": {err: broken}} {
		d := New(nil, p, func() []netip.Addr { return Nameservers("nameserver fd80::53") })
		if _, err := d.RequestPool(t.Context(), docker.RequestPoolRequest{V6: true}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v", err)
		}
	}
}

func TestNameservers(t *testing.T) {
	got := Nameservers("# nameserver 1.1.1.1\nsearch x\nnameserver\nnameserver 10.0.0.1 \n  nameserver fe80::1%eth0\nnameserver nonsense")
	want := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1")}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}
