package ipam

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// rival writes a block anew before each write of it by others.
type rival struct {
	countingStore
	w     *world
	block netip.Prefix
}

func (r *rival) commit(ctx context.Context, writes []etcdstore.Write) (int64, error) {
	k := model.BlockKey{CIDR: r.block}
	if slices.ContainsFunc(writes, func(w etcdstore.Write) bool { return w.Key() == k }) {
		entry, err := r.w.store.Get(ctx, k)
		if err != nil {
			return 0, err
		}
		same, err := etcdstore.PutWrite(k, entry.Value)
		if err != nil {
			return 0, err
		}
		if _, err := r.w.store.Commit(ctx, same); err != nil {
			return 0, err
		}
	}
	return r.countingStore.commit(ctx, writes)
}

// TestOnlyWhoAlwaysLosesIsBusy: calls that come together with one that can never win have what
// they ask for; that one is told what is written there, and has changed nothing.
func TestOnlyWhoAlwaysLosesIsBusy(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	s := &rival{countingStore: countingStore{store: etcd{w.store}}, w: w}
	c := newClient(s, "a")
	held := w.assign(c, 5, "held")
	own := w.blocks()[0].CIDR
	if err := w.node("b").Assign(w.ctx(), otherBlock(own).Addr(), Owner{}); err != nil {
		t.Fatal(err)
	}
	s.block = otherBlock(own)
	w.together(c, &s.countingStore,
		func() {
			err := c.Assign(w.ctx(), s.block.Addr().Next(), Owner{Handle: "loses"})
			path := model.Paths(model.BlockKey{CIDR: s.block})[0]
			if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), path) {
				t.Errorf("who always loses: %v", err)
			}
		},
		func() { w.release(c, held[:2]...) },
		func() { w.assign(c, 3, "wins") },
	)
	handles := map[string]int{}
	for _, o := range w.consistent() {
		handles[o.Handle]++
	}
	if handles["held"] != 3 || handles["wins"] != 3 || handles["loses"] != 0 {
		t.Errorf("in use: %v", handles)
	}
}

// otherBlock is another block of 10.0.0.0/24.
func otherBlock(not netip.Prefix) netip.Prefix {
	if p := netip.MustParsePrefix("10.0.0.64/26"); p != not {
		return p
	}
	return netip.MustParsePrefix("10.0.0.128/26")
}

// betweenLook does something when a search has just looked for blocks of other sizes.
type betweenLook struct {
	store
	then func(beside netip.Prefix)
}

func (s *betweenLook) overlapping(ctx context.Context, cidr netip.Prefix) ([]netip.Prefix, error) {
	found, err := s.store.overlapping(ctx, cidr)
	if then := s.then; then != nil {
		s.then = nil
		then(cidr)
	}
	return found, err
}

// TestASearchKnowsNothingOfWhatAnImportBrought: an import writes a block of another size, and
// has locked and opened the store again, since a search has looked.
func TestASearchKnowsNothingOfWhatAnImportBrought(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	setReady := func(ready bool) {
		r := model.Ready(ready)
		w.apply(model.ReadyKey{}, &r)
	}
	setReady(true)
	s := &betweenLook{store: etcd{w.store}}
	s.then = func(beside netip.Prefix) {
		setReady(false)
		b := newBlock(netip.PrefixFrom(beside.Addr(), 28), "other", false)
		take(b, 0, Owner{})
		w.apply(model.BlockKey{CIDR: b.CIDR}, b)
		w.apply(model.BlockAffinityKey{Node: "other", CIDR: b.CIDR}, &model.BlockAffinity{State: model.AffinityConfirmed})
		setReady(true)
	}
	w.assign(newClient(s, "a"), 1, "")
	if s.then != nil {
		t.Fatal("it did not look")
	}
	w.disjoint()
	if n := len(w.consistent()); n != 2 {
		t.Errorf("%d addresses", n)
	}
}

// slowRoom does something when a search has read blocks of others, before it has the answer.
type slowRoom struct {
	store
	then func()
}

func (s *slowRoom) room(ctx context.Context, blocks []netip.Prefix) (known, error) {
	found, err := s.store.room(ctx, blocks)
	if then := s.then; then != nil {
		s.then = nil
		then()
	}
	return found, err
}

// TestAPoolThatComesDuringASearchIsSearched: that there was nothing else is said of the pools
// that were searched only.
func TestAPoolThatComesDuringASearchIsSearched(t *testing.T) {
	w := newWorld(t, "10.0.0.0/26")
	w.assign(w.node("b"), 64, "")
	s := &slowRoom{store: etcd{w.store}}
	c := newClient(s, "a")
	s.then = func() {
		w.pool("10.1.0.0/26", nil)
		<-time.After(environmentAge + environmentAge/10) // until nobody goes by the pools of before
	}
	w.assign(c, 1, "")
	w.consistent()
}
