package address

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

func (b *Borrowed) list() []netip.Prefix {
	var out []netip.Prefix
	for block := range b.noted {
		out = append(out, block)
	}
	return slices.SortedFunc(slices.Values(out), netip.Prefix.Compare)
}

// Blocks are remembered over a restart, and forgotten when nothing is held in them for long
// enough.
func TestBorrowedBlocksAreRemembered(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	one, two := netip.MustParsePrefix("10.0.0.0/26"), netip.MustParsePrefix("fd80::/122")
	now := time.Now()
	open := func() *Borrowed {
		b := OpenBorrowed(dir, slog.New(slog.DiscardHandler))
		b.now = func() time.Time { return now }
		return b
	}
	b := open()
	b.Note(one)
	b.Note(two)
	b.Note(one)
	if got := open().list(); !slices.Equal(got, []netip.Prefix{one, two}) {
		t.Fatalf("after a restart: %v", got)
	}
	held := []ipam.Holding{{Addr: two.Addr(), Block: two}}
	b.forget([]netip.Prefix{one, two}, held)
	if got := b.list(); len(got) != 2 {
		t.Errorf("an address may be about to be given out, and left is %v", got)
	}
	now = now.Add(2 * borrowedGrace)
	b.Note(one) // again
	b.forget([]netip.Prefix{one, two}, held)
	if got := b.list(); len(got) != 2 {
		t.Errorf("another address is about to be given out, and left is %v", got)
	}
	now = now.Add(2 * borrowedGrace)
	b.forget([]netip.Prefix{one, two}, held)
	for name, got := range map[string][]netip.Prefix{"now": b.list(), "after a restart": open().list()} {
		if !slices.Equal(got, []netip.Prefix{two}) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A file that cannot be read, or written, keeps nobody from borrowing.
func TestWithoutItsFileABlockIsKnownToTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // where the folder should be
		t.Fatal(err)
	}
	b := OpenBorrowed(dir, slog.New(slog.DiscardHandler))
	block := netip.MustParsePrefix("10.0.0.0/26")
	b.Note(block)
	if got := b.list(); !slices.Equal(got, []netip.Prefix{block}) {
		t.Errorf("known are %v", got)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, borrowedFile), []byte("nonsense\n10.0.0.0/26\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := OpenBorrowed(other, slog.New(slog.DiscardHandler)).list(); !slices.Equal(got, []netip.Prefix{block}) {
		t.Errorf("read were %v", got)
	}
}

// A block that is damaged, so that nobody can tell what is held in it, is not forgotten.
func TestADamagedBlockIsNotForgotten(t *testing.T) {
	server := etcdtest.Shared(t)
	server.SetUp(t)
	store, err := etcdstore.New(etcdstore.Config{Endpoints: server.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close() //nolint:errcheck // the test is over
	pool := netip.MustParsePrefix("10.64.0.0/16")
	if _, err := store.Create(t.Context(), model.IPPoolKey{CIDR: pool}, &model.IPPool{CIDR: pool, IPAM: true}); err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr("10.64.0.1")
	block := netip.PrefixFrom(addr, 26).Masked()
	if err := ipam.New(store, "other").Assign(t.Context(), addr.Next(), ipam.Owner{}); err != nil {
		t.Fatal(err)
	}
	own := ipam.New(store, "node00")
	if err := own.Assign(t.Context(), addr, ipam.Owner{}); err != nil {
		t.Fatal(err)
	}
	b := OpenBorrowed(t.TempDir(), slog.New(slog.DiscardHandler))
	b.Note(block)
	b.now = func() time.Time { return time.Now().Add(time.Hour) }

	path := model.Paths(model.BlockKey{CIDR: block})[0]
	was, err := store.Raw().Get(t.Context(), path)
	if err != nil || len(was.Kvs) != 1 {
		t.Fatal(was, err)
	}
	for _, value := range []string{"[not a block", string(was.Kvs[0].Value)} {
		if _, err := store.Raw().Put(t.Context(), path, value); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.holdings(t.Context(), own, "node00"); err != nil {
			t.Fatal(err)
		}
		if got := b.list(); !slices.Equal(got, []netip.Prefix{block}) {
			t.Errorf("remembered are %v", got)
		}
	}
}
