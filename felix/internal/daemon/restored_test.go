package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/history"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// following is how soon the policies of a restored store are in force.
const following = 2 * time.Second

// restoration is a cluster of two hosts whose store is restored to an older state.
type restoration struct {
	*world

	h0, h1 *host
	// a was there before the backup; young and far came after it, on its host and another.
	a, young, far *endpoint
	// taken can be reached from a by a policy that came after the backup, given by one that
	// went after it.
	taken, given *endpoint
}

func newRestoration(t *testing.T, variant string) *restoration {
	t.Helper()
	r := &restoration{world: newWorld(t, etcdtest.Start(t))}
	r.etcd.SetUp(t)
	r.h0, r.h1 = r.addHost(0, variant), r.addHost(1, iptables.NFT)
	for _, n := range []string{"net1", "net2", "net3"} {
		r.network(n)
	}
	r.put(model.NodeKey{Name: r.h1.Name}, &model.Node{IPv4: r.h1.Addr(false)})
	r.h0.startInSync()
	r.h1.startInSync()
	r.h0.Run("ip", "route", "add", "192.168.1.0/24", "via", r.h1.Addr(false).String())
	r.h0.Run("ip", "-6", "route", "add", "fd00:80::1:0/112", "via", r.h1.Addr(true).String())
	r.h1.Run("ip", "route", "add", "192.168.0.0/24", "via", r.h0.Addr(false).String())
	r.h1.Run("ip", "-6", "route", "add", "fd00:80::0:0/112", "via", r.h0.Addr(true).String())
	r.a = r.h0.container("aaaa", "net1", "192.168.0.1")
	r.taken = r.h0.container("tttt", "net2", "192.168.0.2")
	r.given = r.h0.container("gggg", "net3", "192.168.0.3")
	r.allow("given", "net1", "net3")
	rev := r.opening()
	if err := r.h0.wait(r.given, rev, patience); err != nil {
		t.Fatal(err)
	}
	r.closing()
	if err := r.etcd.Snapshot(); err != nil {
		t.Fatal(err)
	}

	r.young = r.h0.container("yyyy", "net1", "192.168.0.4")
	r.far = r.h1.container("ffff", "net1", "192.168.1.1")
	r.remove(model.NewPolicyKey("", "given"))
	rev = r.opening()
	for _, h := range []*host{r.h0, r.h1} {
		nettest.Eventually(t, patience, func() error {
			if now := h.revision(); now < rev {
				return fmt.Errorf("%s is at %d of %d", h.Name, now, rev)
			}
			return nil
		})
	}
	r.canReach(r.a, r.taken)
	r.cannotReach(r.a, r.given)
	return r
}

// rewind restores the backup, as one with many more revisions if the given number is not 0,
// and returns when etcd is back.
func (r *restoration) rewind(revisions int) {
	r.Helper()
	if err := r.etcd.Rewind(); err != nil {
		r.Fatal(err)
	}
	if revisions > 0 {
		endpoint, err := r.etcd.RestartElsewhere()
		if err != nil {
			r.Fatal(err)
		}
		etcdtest.Spend(r, endpoint, revisions)
	}
	if err := r.etcd.Restart(); err != nil {
		r.Fatal(err)
	}
}

// probing pings young containers, from old and young ones, until what it returns is called.
func (r *restoration) probing() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, pair := range [][2]*endpoint{{r.a, r.young}, {r.young, r.a}, {r.a, r.far}, {r.far, r.young}} {
		for _, to := range []netip.Addr{pair[1].addr, pair[1].addr6} {
			wg.Go(func() {
				pace := time.NewTicker(10 * time.Millisecond)
				defer pace.Stop()
				lost := 0
				for ctx.Err() == nil {
					if _, err := pair[0].Ping(to, answer); err != nil {
						lost++
					}
					<-pace.C
				}
				if lost > 0 {
					r.Errorf("%s lost %d pings to %s", pair[0].Name, lost, to)
				}
			})
		}
	}
	return func() { cancel(); wg.Wait() }
}

// follows waits until the policies of the backup are in force.
func (r *restoration) follows() {
	r.Helper()
	nettest.Eventually(r, following, func() error {
		for _, a := range []netip.Addr{r.given.addr, r.given.addr6} {
			if err := r.a.UDP(netip.AddrPortFrom(a, udpPort), 100*time.Millisecond); err != nil {
				return err
			}
		}
		for _, a := range []netip.Addr{r.taken.addr, r.taken.addr6} {
			if err := verdictFault(r.a.UDP(netip.AddrPortFrom(a, udpPort), 100*time.Millisecond), false); err != nil {
				return fmt.Errorf("what the backup denies: %w", err)
			}
		}
		return nil
	})
}

// lacking waits until a host names these endpoints, and no others, as those that the
// restored store lacks.
func (h *host) lacking(within time.Duration, names ...string) {
	h.w.Helper()
	nettest.Eventually(h.w, within, func() error {
		st, err := h.status()
		if err != nil {
			return err
		}
		got := map[string]bool{}
		for _, p := range st.GetProblems() {
			if strings.Contains(p.GetReason(), "the store was restored to an older state") {
				_, name, _ := strings.Cut(strings.TrimSuffix(p.GetObject(), ")"), ", name=")
				got[name] = true
			}
		}
		for _, name := range names {
			if !got[name] {
				return fmt.Errorf("%s does not name %s, but %v", h.Name, name, got)
			}
		}
		if len(got) != len(names) || !st.GetInSync() || !st.GetDatastoreConnected() {
			return fmt.Errorf("%s names %v, not %v; %v", h.Name, got, names, st)
		}
		return nil
	})
}

func TestARestoredStoreCutsNobodyOff(t *testing.T) {
	for name, tt := range map[string]struct {
		variant   string
		revisions int
	}{
		"to a lower revision":  {iptables.NFT, 0},
		"to a higher revision": {iptables.Legacy, 500},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRestoration(t, tt.variant)
			stop := r.probing()
			r.rewind(tt.revisions)
			r.follows()
			r.h0.lacking(patience, "yyyy", "ffff")
			r.h1.lacking(patience, "yyyy", "ffff")
			r.canReach(r.a, r.young)
			r.canReach(r.a, r.far)
			r.cannotReach(r.young, r.taken)
			// A live change that does not concern them ends nothing.
			r.put(model.NetworkSetKey{Name: "other"}, &model.NetworkSet{})
			if err := r.h0.wait(r.young, 0, patience); err != nil {
				t.Errorf("the young container is not in force: %v", err)
			}
			// Their nodes write back what they have.
			r.put(r.far.key, r.far.value)
			r.put(r.young.key, r.young.value)
			r.h0.lacking(patience)
			r.h1.lacking(patience)
			stop()
			r.canReach(r.a, r.far)
			// What is deleted now is gone at once.
			r.remove(r.young.key)
			nettest.Eventually(t, following, func() error {
				return verdictFault(r.a.UDP(netip.AddrPortFrom(r.young.addr, udpPort), 100*time.Millisecond), false)
			})
		})
	}
}

// TestKeptEndpointsEnd has each way tried in which an endpoint ends that a restored store
// lacks.
func TestKeptEndpointsEnd(t *testing.T) {
	r := newRestoration(t, iptables.NFT)
	local := r.h0.container("llll", "net1", "192.168.0.5")
	// A third container's endpoint goes while etcd cannot be asked: nobody can tell it from
	// one that the backup lacks.
	died := r.h0.container("dddd", "net1", "192.168.0.6")
	nettest.Eventually(t, patience, func() error {
		if st, err := r.h1.status(); err != nil || st.GetRevision() < r.h0.revision() {
			return errors.Join(err, errors.New("host 1 has not come so far"))
		}
		return nil
	})
	r.etcd.Stop()
	r.h0.awaitDisconnected()
	died.Remove()
	r.rewind(0)
	r.follows()
	// Its own host sees that its interface is gone; another waits for that host.
	r.h0.lacking(patience, "yyyy", "ffff", "llll")
	r.h1.lacking(patience, "yyyy", "ffff", "llll", "dddd")

	// The container of one stops.
	local.Remove()
	r.h0.lacking(patience, "yyyy", "ffff")
	if text := r.h0.Run("ip", "route") + r.h0.Run("iptables-nft-save"); strings.Contains(text, "calillll") {
		t.Errorf("left behind: %s", text)
	}
	// A second backup, and a parameter that felix reads at its start only.
	r.put(model.FelixConfigKey{Name: "InterfacePrefix"}, &model.Setting{Of: model.KindFelixConfig, Value: "cali,tap"})
	nettest.Eventually(t, patience, func() error {
		if st, err := r.h0.status(); err != nil || !st.GetInSync() || len(st.GetProblems()) == 0 {
			return fmt.Errorf("%v, %w", st, err)
		}
		return nil
	})
	r.h0.lacking(patience, "yyyy", "ffff")
	stop := r.probing()
	r.rewind(0)
	r.h0.lacking(patience, "yyyy", "ffff")
	r.canReach(r.a, r.young)
	r.canReach(r.far, r.a)

	// A node writes back, though not an endpoint that is no more.
	r.put(r.young.key, r.young.value)
	if err := history.WriteBack(t.Context(), r.store, r.h0.Name); err != nil {
		t.Fatal(err)
	}
	r.h1.lacking(2*patience, "ffff")
	stop()
	// Nobody has written back the other node's; it is deleted.
	time0 := r.h0.revision()
	r.remove(model.NodeKey{Name: r.h1.Name})
	r.h0.lacking(following)
	nettest.Eventually(t, patience, func() error {
		return verdictFault(r.a.UDP(netip.AddrPortFrom(r.far.addr, udpPort), 100*time.Millisecond), true)
	})
	if time0 > r.h0.revision() {
		t.Error("the revision went back once more")
	}
}

// TestAFreshFelixKnowsOnlyTheStore restarts felix while it keeps endpoints: what it knew of
// them is gone with it, until their node writes them back.
func TestAFreshFelixKnowsOnlyTheStore(t *testing.T) {
	r := newRestoration(t, iptables.NFT)
	r.rewind(0)
	r.h0.lacking(patience, "yyyy", "ffff")
	r.h0.felix.Kill()
	r.h0.startInSync()
	r.h0.lacking(patience)
	for _, to := range []netip.Addr{r.young.addr, r.young.addr6} {
		if _, err := r.a.Ping(to, noAnswer); err == nil {
			t.Errorf("a felix that knows only the store lets packets to %s", to)
		}
	}
	r.put(r.young.key, r.young.value)
	r.put(r.far.key, r.far.value)
	r.h0.await(r.young)
	r.canReach(r.a, r.young)
	r.canReach(r.a, r.far)
}

// TestAKeptEndpointGivesWay has another take the address, or the interface, of an endpoint
// that a restored store lacks. Nothing deletes the one that is kept: its key is not there.
func TestAKeptEndpointGivesWay(t *testing.T) {
	r := newRestoration(t, iptables.NFT)
	gone := r.h1.container("nnnn", "net1", "192.168.1.2")
	host := r.h1.container("hhhh", "net1", "192.168.1.3")
	late := r.h1.container("eeee", "net1", "192.168.1.4")
	nettest.Eventually(t, patience, func() error { return r.h0.has(r.h1.revision()) })
	r.rewind(0)
	r.follows()
	r.h0.lacking(patience, "yyyy", "ffff", "nnnn", "hhhh", "eeee")

	// A container of the other host is made anew, and its address becomes another's.
	for _, e := range []*endpoint{r.far, gone, host, late} {
		e.Remove()
	}
	r.h1.lacking(patience, "yyyy")
	stranger := r.h1.container("ssss", "net2", "192.168.1.1")
	r.h0.lacking(following, "yyyy", "nnnn", "hhhh", "eeee")
	r.cannotReach(stranger, r.a)
	r.canReach(stranger, r.taken)

	// Its interface becomes another's, which has another address.
	other := r.h1.attach("nnnn", "net2", "192.168.1.9")
	other.key.Workload = "other"
	r.put(other.key, other.value)
	r.h0.lacking(following, "yyyy", "hhhh", "eeee")

	// Its address becomes a host's.
	r.put(model.HostEndpointKey{Node: r.h1.Name, Name: "eth9"}, &model.HostEndpoint{
		ExpectedIPv6Addrs: []netip.Addr{host.addr6}, ExpectedIPv4Addrs: []netip.Addr{},
	})
	r.h0.lacking(following, "yyyy", "eeee")

	// A parameter that felix reads at its start only changes nothing about that.
	r.put(model.FelixConfigKey{Name: "InterfacePrefix"}, &model.Setting{Of: model.KindFelixConfig, Value: "cali,tap"})
	r.h0.lacking(patience, "yyyy", "eeee")
	stranger = r.h1.container("zzzz", "net2", "192.168.1.4")
	r.h0.lacking(following, "yyyy")
	r.cannotReach(stranger, r.a)

	// One of this host whose interface stands gives way to what is written now.
	r.canReach(r.a, r.young)
	taker := &model.WorkloadEndpoint{State: "active", Interface: "califar", Profiles: []string{"net2"}, IPv4Nets: r.young.value.IPv4Nets, IPv6Nets: r.young.value.IPv6Nets}
	r.put(model.WorkloadEndpointKey{Node: r.h1.Name, Orchestrator: "libnetwork", Workload: "libnetwork", Name: "taker"}, taker)
	r.h0.lacking(following)
	r.cannotReach(r.young, r.a)
}

// TestWhatComesBackWithTheStoreTakesNoPlace has a backup hold endpoints whose addresses were
// others' since. Whether these or those are there, only their host can see.
func TestWhatComesBackWithTheStoreTakesNoPlace(t *testing.T) {
	r := newRestoration(t, iptables.Legacy)
	old := []*endpoint{r.h0.container("olda", "net3", "192.168.0.7"), r.h1.container("oldb", "net3", "192.168.1.7")}
	if err := r.etcd.Snapshot(); err != nil {
		t.Fatal(err)
	}
	for _, e := range old {
		e.Remove()
		r.remove(e.key)
	}
	local, remote := r.h0.container("newa", "net1", "192.168.0.7"), r.h1.container("newb", "net1", "192.168.1.7")
	nettest.Eventually(t, patience, func() error { return r.h0.has(r.h1.revision()) })
	r.canReach(local, r.a)
	r.canReach(remote, r.a)
	r.rewind(0)
	r.h0.lacking(patience, "newa")
	r.h1.lacking(patience, "newb")
	r.canReach(r.a, local)
	r.canReach(local, r.young)
	r.cannotReach(remote, r.a)

	// Both are there.
	again := r.h0.attach("olda", "net3", "192.168.0.7")
	r.h0.lacking(following)
	r.h0.await(again)
	r.cannotReach(again, r.a)
	r.canReach(again, r.given)
}
