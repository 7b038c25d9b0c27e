package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/model"
)

func TestOrdinalsStayWithinTheBlock(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ block, first, last, before, after string }{
		{"192.168.1.64/26", "192.168.1.64", "192.168.1.127", "192.168.1.63", "192.168.1.128"},
		{"fd00::40/122", "fd00::40", "fd00::7f", "fd00::3f", "fd00::80"},
		{"10.0.0.1/32", "10.0.0.1", "10.0.0.1", "10.0.0.0", "10.0.0.2"},
		{"255.255.255.192/26", "255.255.255.192", "255.255.255.255", "255.255.255.191", "0.0.0.0"},
	} {
		b := newBlock(netip.MustParsePrefix(tc.block), "n", false)
		for i, s := range []string{tc.first, tc.last} {
			a := netip.MustParseAddr(s)
			want := []int{0, len(b.Allocations) - 1}[i]
			if got, ok := ordinalOf(b, a); !ok || got != want || addrOf(b, got) != a {
				t.Errorf("%s in %s: ordinal %d, %v; back %s", a, tc.block, got, ok, addrOf(b, got))
			}
		}
		for _, s := range []string{tc.before, tc.after} {
			if got, ok := ordinalOf(b, netip.MustParseAddr(s)); ok {
				t.Errorf("%s is taken for ordinal %d of %s", s, got, tc.block)
			}
		}
	}
}

func TestTheLongestFreeAddressIsGivenOutFirst(t *testing.T) {
	t.Parallel()
	b := newBlock(netip.MustParsePrefix("10.0.0.0/30"), "n", false)
	next := func() int {
		ordinals, _ := free(b, 1, usable{})
		take(b, ordinals[0], Owner{})
		return ordinals[0]
	}
	got := []int{next(), next()}
	giveBack(b, 1)
	giveBack(b, 0)
	got = append(got, next(), next(), next(), next())
	if diff := cmp.Diff([]int{0, 1, 2, 3, 1, 0}, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if ordinals, _ := free(b, 1, usable{}); len(ordinals) > 0 {
		t.Error("a full block has a free address")
	}
}

func TestAttributesAreSharedAndSwept(t *testing.T) {
	t.Parallel()
	b := newBlock(netip.MustParsePrefix("10.0.0.0/29"), "n", false)
	a := Owner{Handle: "a", Attrs: map[string]string{"node": "n"}}
	c := Owner{Handle: "c"}
	take(b, 0, a)
	take(b, 1, c)
	take(b, 2, a)
	take(b, 3, Owner{})
	if len(b.Attributes) != 3 {
		t.Fatalf("%d attributes for 3 owners", len(b.Attributes))
	}
	before := cloneBlock(b)
	giveBack(b, 0)
	giveBack(b, 2)
	if len(b.Attributes) != 2 {
		t.Errorf("%d attributes for 2 owners", len(b.Attributes))
	}
	for ordinal, want := range map[int]string{1: "c", 3: ""} {
		if attrs, ok := attributesOf(b, ordinal); !ok || handleOf(attrs) != want {
			t.Errorf("ordinal %d belongs to %q, %v", ordinal, handleOf(attrs), ok)
		}
	}
	setOwner(b, 3, c)
	if len(b.Attributes) != 1 {
		t.Errorf("%d attributes for one owner", len(b.Attributes))
	}
	if attrs, ok := attributesOf(before, 2); !ok || handleOf(attrs) != "a" || len(before.Attributes) != 3 {
		t.Error("changing a block changed its copy")
	}
	if err := model.Validate(model.BlockKey{CIDR: b.CIDR}, b); err != nil {
		t.Error(err)
	}
}

func TestReservedAddressesAreHeldBack(t *testing.T) {
	t.Parallel()
	b := newBlock(netip.MustParsePrefix("10.0.0.0/29"), "n", false)
	reserved := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/30"), netip.MustParsePrefix("10.0.0.6/32")}
	ordinals, held := free(b, 8, usable{reserved: reserved})
	if diff := cmp.Diff([]int{4, 5, 7}, ordinals); diff != "" || held != 5 {
		t.Errorf("held back %d; free (-want +got):\n%s", held, diff)
	}
}

// TestBlocksReadAsV26WroteThem takes a value in the original's format.
func TestBlocksReadAsV26WroteThem(t *testing.T) {
	t.Parallel()
	value := `{"cidr":"192.168.105.64/30","affinity":"host:node00","strictAffinity":false,` +
		`"allocations":[0,null,1,null],"unallocated":[1,3],` +
		`"attributes":[{"handle_id":null,"secondary":null},{"handle_id":"h","secondary":{"k":"v"}}]}`
	k := model.BlockKey{CIDR: netip.MustParsePrefix("192.168.105.64/30")}
	path := model.Paths(k)[0]
	if path != "/calico/ipam/v2/assignment/ipv4/block/192.168.105.64-30" {
		t.Errorf("path is %s", path)
	}
	r, err := model.Decode(k, map[string][]byte{path: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	b := cloneBlock(r.(*model.Block))
	giveBack(b, 0)
	take(b, 1, Owner{Handle: "new", Attrs: map[string]string{"node": "node00"}})
	out, err := model.Encode(k, b)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"cidr":"192.168.105.64/30","affinity":"host:node00","strictAffinity":false,` +
		`"allocations":[null,1,0,null],"unallocated":[3,0],` +
		`"attributes":[{"handle_id":"h","secondary":{"k":"v"}},{"handle_id":"new","secondary":{"node":"node00"}}]}`
	if diff := cmp.Diff(want, string(out[path])); diff != "" {
		t.Errorf("value (-want +got):\n%s", diff)
	}
}

func TestAWalkVisitsEveryBlockOnce(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		cidr        string
		first, last string
		n           int
	}{
		{"192.168.0.0/16", "192.168.0.0/26", "192.168.255.192/26", 1024},
		{"10.0.0.0/26", "10.0.0.0/26", "10.0.0.0/26", 1},
		{"10.0.0.0/28", "10.0.0.0/28", "10.0.0.0/28", 1},
		{"fd00::/112", "fd00::/122", "fd00::ffc0/122", 1024},
	} {
		p := newPool(&model.IPPool{CIDR: netip.MustParsePrefix(tc.cidr)}, 1)
		for _, node := range []string{"a", "b", "node00", "node01"} {
			w := newWalk(node, p)
			seen := map[netip.Prefix]bool{}
			for some := w.next(64); len(some) > 0; some = w.next(64) {
				for _, b := range some {
					if seen[b] || !p.owns(b) || b != b.Masked() {
						t.Fatalf("%s: %s is visited wrongly", tc.cidr, b)
					}
					seen[b] = true
				}
			}
			if len(seen) != tc.n || !seen[netip.MustParsePrefix(tc.first)] || !seen[netip.MustParsePrefix(tc.last)] {
				t.Errorf("%s by %s: visited %d blocks", tc.cidr, node, len(seen))
			}
		}
	}
}

func TestAWalkThroughAHugePool(t *testing.T) {
	t.Parallel()
	for _, cidr := range []string{"fd80:24e2:f998:72d6::/64", "fd00::/8", "2001:db8::/32"} {
		p := newPool(&model.IPPool{CIDR: netip.MustParsePrefix(cidr)}, 1)
		seen := map[netip.Prefix]bool{}
		for i := range 100 {
			for _, b := range newWalk(fmt.Sprint("node", i), p).next(64) {
				if !p.owns(b) || b != b.Masked() || b.Bits() != 122 {
					t.Fatalf("%s: %s is not a block of it", cidr, b)
				}
				if p.blockOf(addTo(b.Addr(), 63)) != b {
					t.Fatalf("%s is not the block of its last address", b)
				}
				seen[b] = true
			}
		}
		if len(seen) < 6000 {
			t.Errorf("%s: 100 nodes start with only %d different blocks", cidr, len(seen))
		}
	}
}

func TestNodesStartInDifferentPlaces(t *testing.T) {
	t.Parallel()
	p := newPool(&model.IPPool{CIDR: netip.MustParsePrefix("10.0.0.0/8")}, 1)
	seen := map[netip.Prefix]bool{}
	for i := range 200 {
		seen[newWalk(fmt.Sprintf("node%02d", i), p).next(1)[0]] = true
	}
	if len(seen) < 195 {
		t.Errorf("200 nodes start in %d places", len(seen))
	}
}

func TestPoolSelection(t *testing.T) {
	t.Parallel()
	v4a := &model.IPPool{CIDR: netip.MustParsePrefix("10.0.0.0/16")}
	v4b := &model.IPPool{CIDR: netip.MustParsePrefix("10.1.0.0/16"), Disabled: true}
	v4c := &model.IPPool{CIDR: netip.MustParsePrefix("10.2.0.0/16"), NodeSelector: `rack == "1"`}
	v6 := &model.IPPool{CIDR: netip.MustParsePrefix("fd00::/64")}
	env := &environment{labels: map[string]string{"rack": "1"}}
	for _, p := range []*model.IPPool{v4a, v4b, v4c, v6} {
		env.pools = append(env.pools, newPool(p, 1))
	}
	names := func(wanted []netip.Prefix, ipv6 bool) string {
		pools, err := env.choose(wanted, nil, ipv6)
		if err != nil {
			return err.Error()
		}
		var out strings.Builder
		for _, p := range pools {
			out.WriteString(p.cidr.String() + " ")
		}
		return out.String()
	}
	check := func(want, got string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	check("10.0.0.0/16 10.2.0.0/16 ", names(nil, false))
	check("fd00::/64 ", names(nil, true))
	check("10.2.0.0/16 10.0.0.0/16 ", names([]netip.Prefix{v4c.CIDR, v4a.CIDR}, false))
	check("fd00::/64 ", names([]netip.Prefix{v4a.CIDR}, true))
	check("no usable IP pool: pool 10.1.0.0/16 is disabled", names([]netip.Prefix{v4b.CIDR}, false))
	check("no usable IP pool: pool 10.9.0.0/16 does not exist", names([]netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}, false))
	env.labels = nil
	check("10.0.0.0/16 ", names(nil, false))
	check(`no usable IP pool: pool 10.2.0.0/16 is not for this node (node selector rack == "1")`, names([]netip.Prefix{v4c.CIDR}, false))
}
