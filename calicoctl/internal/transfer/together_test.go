package transfer

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// resources are some by their keys.
type resources map[model.Key]model.Resource

// source is a source that holds them.
func (some resources) source(t *testing.T) Source {
	t.Helper()
	values := map[string][]byte{}
	for k, r := range some {
		parts, err := model.Encode(k, r)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(values, parts)
	}
	return Source{Name: "source", each: func(f func(string, []byte) error) error {
		for _, path := range slices.Sorted(maps.Keys(values)) {
			if err := f(path, values[path]); err != nil {
				return err
			}
		}
		return nil
	}}
}

func poolKey(cidr string) model.Key { return model.IPPoolKey{CIDR: netip.MustParsePrefix(cidr)} }

func poolOf(cidr string, size int, v3Name string) *model.IPPool {
	return &model.IPPool{CIDR: netip.MustParsePrefix(cidr), IPAM: true, BlockSize: size, Meta: model.Meta{V3Name: v3Name}}
}

func nodeOf(addr string) *model.Node {
	if a := netip.MustParseAddr(addr); a.Is6() {
		return &model.Node{IPv6: a}
	}
	return &model.Node{IPv4: netip.MustParseAddr(addr)}
}

func emptyBlock(cidr string) *model.Block {
	b := &model.Block{CIDR: netip.MustParsePrefix(cidr), Attributes: []model.BlockAttributes{}}
	size := 1 << (b.CIDR.Addr().BitLen() - b.CIDR.Bits())
	b.Allocations = make([]*int, size)
	for i := range size {
		b.Unallocated = append(b.Unallocated, i)
	}
	return b
}

// together are things that a create or an apply refuses. In each, what is stored and what is
// brought in is right by itself.
var together = []struct {
	name             string
	stored, brought  resources
	overwrite, taken bool
	refused, why     string
}{
	{
		name:    "a pool over a stored one",
		brought: resources{poolKey("10.0.128.0/24"): poolOf("10.0.128.0/24", 0, "")},
		refused: "/calico/v1/ipam/v4/pool/10.0.128.0-24", why: "overlaps ipPool(cidr=10.0.0.0/16)",
	},
	{
		name:    "an IPv6 pool over a stored one",
		brought: resources{poolKey("fd00::/16"): poolOf("fd00::/16", 0, "")},
		refused: "/calico/v1/ipam/v6/pool/fd00::-16", why: "overlaps ipPool(cidr=fd00:1::/64)",
	},
	{
		name:    "two pools that come together",
		brought: resources{poolKey("10.9.0.0/16"): poolOf("10.9.0.0/16", 0, ""), poolKey("10.9.9.0/24"): poolOf("10.9.9.0/24", 0, "")},
		refused: "/calico/v1/ipam/v4/pool/10.9.0.0-16", why: "overlaps ipPool(cidr=10.9.9.0/24)",
	},
	{
		name:    "an address of another node",
		brought: resources{model.NodeKey{Name: "n2"}: nodeOf("192.0.2.1")},
		refused: "/calico/v1/host/n2/metadata", why: "has the address 192.0.2.1 of node(name=n1)",
	},
	{
		name:      "an address of another node by an overwrite",
		stored:    resources{model.NodeKey{Name: "n2"}: nodeOf("fd00:2::2"), model.NodeKey{Name: "n3"}: nodeOf("fd00:2::3")},
		brought:   resources{model.NodeKey{Name: "n3"}: nodeOf("fd00:2::2")},
		overwrite: true,
		refused:   "/calico/v1/host/n3/metadata", why: "has the address fd00:2::2 of node(name=n2)",
	},
	{
		name:    "a pool over blocks of another size",
		stored:  resources{model.BlockKey{CIDR: netip.MustParsePrefix("10.7.0.0/26")}: emptyBlock("10.7.0.0/26")},
		brought: resources{poolKey("10.7.0.0/16"): poolOf("10.7.0.0/16", 28, "")},
		refused: "/calico/v1/ipam/v4/pool/10.7.0.0-16", why: "spec.blockSize: is 28, but there is the block 10.7.0.0/26",
	},
	{
		name: "another size of the blocks that stand",
		stored: resources{
			poolKey("10.7.0.0/16"): poolOf("10.7.0.0/16", 26, ""),
			model.BlockKey{CIDR: netip.MustParsePrefix("10.7.0.0/26")}: emptyBlock("10.7.0.0/26"),
		},
		brought:   resources{poolKey("10.7.0.0/16"): poolOf("10.7.0.0/16", 28, "")},
		overwrite: true,
		refused:   "/calico/v1/ipam/v4/pool/10.7.0.0-16", why: "spec.blockSize: is 28, but there is the block 10.7.0.0/26",
	},
	{
		name: "a pool with blocks of another size that come with it",
		brought: resources{
			poolKey("fd00:7::/64"): poolOf("fd00:7::/64", 124, ""),
			model.BlockKey{CIDR: netip.MustParsePrefix("fd00:7::/122")}: emptyBlock("fd00:7::/122"),
		},
		refused: "/calico/v1/ipam/v6/pool/fd00:7::-64", why: "spec.blockSize: is 124, but the block fd00:7::/122 in its range comes with it",
	},
	{
		name:    "a pool over a host's network",
		stored:  resources{model.NodeKey{Name: "n2"}: &model.Node{IPv4: netip.MustParseAddr("10.7.1.1"), IPv4Net: netip.MustParsePrefix("10.7.1.0/24")}},
		brought: resources{poolKey("10.7.0.0/16"): poolOf("10.7.0.0/16", 0, "")},
		refused: "/calico/v1/ipam/v4/pool/10.7.0.0-16", why: "use --force",
	},
	{
		name:    "a pool over a host's network by force",
		stored:  resources{model.NodeKey{Name: "n2"}: &model.Node{IPv4: netip.MustParseAddr("10.7.1.1"), IPv4Net: netip.MustParsePrefix("10.7.1.0/24")}},
		brought: resources{poolKey("10.7.0.0/16"): poolOf("10.7.0.0/16", 0, "")},
		taken:   true,
	},
	{
		name:    "a policy in a tier that is not there",
		brought: resources{model.NewPolicyKey("sec", "p"): policy("all()")},
		refused: "/calico/v1/policy/tier/sec/policy/p", why: "there is no tier sec",
	},
	{
		name:    "a policy in a tier that comes with it",
		brought: resources{model.NewPolicyKey("sec", "p"): policy("all()"), model.TierKey{Name: "sec"}: &model.Tier{}},
	},
	{
		name:    "a policy with the name of one in another tier",
		stored:  resources{model.TierKey{Name: "sec"}: &model.Tier{}, model.NewPolicyKey("sec", "p"): policy("all()")},
		brought: resources{model.NewPolicyKey("", "p"): policy("all()")},
		refused: "/calico/v1/policy/tier/default/policy/p", why: "is the name of",
	},
	{
		name:    "a pool with the name of another",
		stored:  resources{poolKey("10.7.0.0/16"): poolOf("10.7.0.0/16", 0, "web")},
		brought: resources{poolKey("10.8.0.0/16"): poolOf("10.8.0.0/16", 0, "web")},
		refused: "/calico/v1/ipam/v4/pool/10.8.0.0-16", why: "IPPool(web) is the name of ipPool(cidr=10.7.0.0/16)",
	},
}

// TestWhatMustNotBeTogetherIsRefused brings in what an apply refuses. What is left out is not
// there then, and the rest is.
func TestWhatMustNotBeTogetherIsRefused(t *testing.T) {
	for _, tc := range together {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			for k, r := range tc.stored {
				w.apply(k, r)
			}
			tc.brought[policyKey("beside")] = policy("all()")
			asked := resource.New(w.store)
			if tc.taken {
				asked.AllowTaken()
			}
			im := Import{Store: w.store, Resources: asked, Source: tc.brought.source(t), Overwrite: tc.overwrite, By: by("ann@host1", os.Getpid())}
			p, err := im.Look(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, refused := range p.Refused {
				if refused.Path != tc.refused || !strings.Contains(refused.Reason, tc.why) {
					t.Errorf("refused is %s: %s", refused.Path, refused.Reason)
				}
			}
			if (len(p.Refused) == 1) != (tc.refused != "") {
				t.Errorf("%d refused", len(p.Refused))
			}
			if r, err := im.Run(t.Context(), p); err != nil || len(r.Refused) > 0 || r.Raced.N > 0 {
				t.Errorf("%+v, %v", r, err)
			}
			for k, r := range tc.brought {
				w.brought(k, r, slices.Contains(model.Paths(k), tc.refused))
			}
			w.lockIs("true", "")
		})
	}
}

// brought checks that a resource is stored as it was brought, or is not, since it was refused.
func (w *world) brought(k model.Key, r model.Resource, refused bool) {
	w.Helper()
	stored, err := w.store.GetStored(w.Context(), k)
	if err != nil {
		w.Fatal(err)
	}
	parts, err := model.Encode(k, r)
	if err != nil {
		w.Fatal(err)
	}
	same := stateOf(item{key: k, value: r, parts: parts}, stored[0]) == Same
	if same == refused {
		w.Errorf("%v was brought in: %t", k, same)
	}
}

// TestWhatComesMeanwhileMayBeInTheWay has a pool come that another must not be beside: after
// the look, and while the import writes.
func TestWhatComesMeanwhileMayBeInTheWay(t *testing.T) {
	brought := resources{poolKey("10.9.0.0/16"): poolOf("10.9.0.0/16", 0, "")}
	for i := range 150 { // written before pools
		brought[model.FelixConfigKey{Name: fmt.Sprintf("s%03d", i)}] = &model.Setting{Of: model.KindFelixConfig, Value: "x"}
	}
	for _, when := range []string{"after the look", "while it writes"} {
		t.Run(when, func(t *testing.T) {
			w := newWorld(t)
			im := Import{Store: w.store, Source: brought.source(t), By: by("ann@host1", os.Getpid())}
			come := func() { w.apply(poolKey("10.9.9.0/24"), poolOf("10.9.9.0/24", 0, "")) }
			if when == "while it writes" {
				im.Progress = func(done, _ int) {
					if done <= 100 {
						come()
					}
				}
			}
			p, err := im.Look(t.Context())
			if err != nil || len(p.Refused) > 0 {
				t.Fatal(p.Refused, err)
			}
			if when == "after the look" {
				come()
			}
			r, err := im.Run(t.Context(), p)
			if err != nil || len(r.Refused) != 1 || !strings.Contains(r.Refused[0].Reason, "overlaps ipPool(cidr=10.9.9.0/24)") {
				t.Errorf("%+v, %v", r, err)
			}
			for k, value := range brought {
				w.brought(k, value, k == poolKey("10.9.0.0/16"))
			}
			w.lockIs("true", "")
		})
	}
}

// TestWhatIsWrittenIsStillBesideTheOthers has a pool come between the check and the write.
func TestWhatIsWrittenIsStillBesideTheOthers(t *testing.T) {
	w := newWorld(t)
	l, err := takeLock(t.Context(), w.store, by("ann@host1", os.Getpid()), false)
	if err != nil {
		t.Fatal(err)
	}
	r := &run{Import: Import{Store: w.store, Source: resources{poolKey("10.9.0.0/16"): poolOf("10.9.0.0/16", 0, "")}.source(t)}, lock: l, said: map[string]bool{}}
	if r.target, err = newTarget(t.Context(), w.store, false); err == nil {
		r.held, err = r.collect()
	}
	if err == nil {
		err = r.check(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	writes, _, err := r.writes(t.Context(), r.held)
	if err != nil || len(writes) != 1 {
		t.Fatal(writes, err)
	}
	w.apply(poolKey("10.9.9.0/24"), poolOf("10.9.9.0/24", 0, ""))
	if err := r.commit(t.Context(), writes); !errors.Is(err, etcdstore.ErrConflict) {
		t.Errorf("error %v", err)
	}
	w.brought(poolKey("10.9.0.0/16"), poolOf("10.9.0.0/16", 0, ""), true)
}
