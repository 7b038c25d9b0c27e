package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/model"
)

func randomBlock(r *rand.Rand) *model.Block {
	b := newBlock(netip.MustParsePrefix("10.0.0.64/26"), "me", r.IntN(2) == 0)
	if r.IntN(4) == 0 {
		b.Affinity = nil
	}
	names := []string{"me", "other", "me"}
	if r.IntN(4) == 0 {
		names[2] = `od"d\`
	}
	for range r.IntN(100) {
		ordinals, _ := free(b, 1, usable{})
		if len(ordinals) == 0 || r.IntN(3) == 0 {
			if i := r.IntN(64); b.Allocations[i] != nil {
				giveBack(b, i)
			}
			continue
		}
		o := Owner{Handle: fmt.Sprint("h", r.IntN(5))}
		if r.IntN(5) > 0 {
			o.Attrs = map[string]string{AttrNode: names[r.IntN(3)], "x": "[1,{"}
		}
		take(b, ordinals[0], o)
	}
	return b
}

func encoded(t testing.TB, b *model.Block) (path string, value []byte) {
	t.Helper()
	parts, err := model.Encode(model.BlockKey{CIDR: b.CIDR}, b)
	if err != nil {
		t.Fatal(err)
	}
	for p, v := range parts {
		path, value = p, v
	}
	return path, value
}

func TestASummaryIsWhatDecodingGives(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	fast := 0
	for range 300 {
		b := randomBlock(r)
		path, value := encoded(t, b)
		if diff := cmp.Diff(usageOf(b.CIDR, b), summarize(b.CIDR, path, value), prefixesEqual); diff != "" {
			t.Fatalf("(-decoded +scanned):\n%s\n%s", diff, value)
		}
		if _, ok := scanBlock(b.CIDR, value); ok {
			fast++
		}
	}
	if fast < 100 {
		t.Errorf("only %d of 300 values went the fast way", fast)
	}
}

func TestASummaryOfADamagedValue(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		b := randomBlock(r)
		path, value := encoded(t, b)
		value = append([]byte(nil), value...)
		for range 1 + r.IntN(3) {
			value[r.IntN(len(value))] = `{}[]",:0123456789nulltrue x`[r.IntN(27)]
		}
		if r.IntN(2) == 0 {
			value = value[:r.IntN(len(value))]
		}
		got := summarize(b.CIDR, path, value) // must end, and not panic
		if got.InUse > got.Size || got.Borrowed > got.InUse {
			t.Errorf("%+v of %s", got, value)
		}
	}
}

var prefixesEqual = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func FuzzSummarize(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 5 {
		_, value := encoded(f, randomBlock(r))
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		cidr := netip.MustParsePrefix("10.0.0.64/26")
		path := model.Paths(model.BlockKey{CIDR: cidr})[0]
		fast, ok := scanBlock(cidr, value)
		b, valid := decode(model.BlockKey{CIDR: cidr}, path, value).(*model.Block)
		if ok && valid {
			if diff := cmp.Diff(usageOf(cidr, b), fast, prefixesEqual); diff != "" {
				t.Errorf("(-decoded +scanned):\n%s", diff)
			}
		}
	})
}
