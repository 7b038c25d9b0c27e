package daemon_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// awaitHold waits until felix says that it does not follow the store, with a reason.
func (h *host) awaitHold(says string) {
	h.w.Helper()
	nettest.Eventually(h.w, patience, func() error {
		st, err := h.status()
		if err == nil && !strings.Contains(st.GetDatastoreHeld(), says) || says == "" && st.GetDatastoreHeld() != "" {
			err = fmt.Errorf("%q is said to be the matter with the datastore", st.GetDatastoreHeld())
		}
		return err
	})
}

// pinging pings all the time until stop is called, and fails the test unless each ping is
// answered.
func (w *world) pinging(from, to *endpoint) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if _, err := from.Ping(to.addr, answer); err != nil {
				w.Errorf("%s: %v", from.Name, err)
				return
			}
		}
	})
	stop = sync.OnceFunc(func() {
		close(done)
		wg.Wait()
	})
	w.Cleanup(stop) // also when the test ends early
	return stop
}

// repairs damages rules and routes of an endpoint in different ways and wants them mended
// within a second, give or take what a busy machine adds.
func (h *host) repairs(e *endpoint) {
	h.w.Helper()
	before := h.dump()
	tables := "iptables-" + h.variant
	for _, damage := range [][]string{
		{tables, "-F", "cali-tw-" + e.value.Interface},
		{tables, "-F", "FORWARD"},
		{"ip", "route", "del", e.addr.String() + "/32"},
		{"ip", "-6", "route", "del", e.addr6.String() + "/128"},
	} {
		h.Run(damage[0], damage[1:]...)
		start := time.Now()
		nettest.Eventually(h.w, patience, func() error {
			if d := cmp.Diff(before, h.dump()); d != "" {
				return fmt.Errorf("after %v: %s", damage, d)
			}
			return nil
		})
		if took := time.Since(start); took > 2*time.Second {
			h.w.Errorf("%v was mended after %v", damage, took)
		}
	}
}

func (w *world) wipe() {
	w.Helper()
	if _, err := w.etcd.Client(w).Delete(w.Context(), "/calico", clientv3.WithPrefix()); err != nil {
		w.Fatal(err)
	}
}

func TestAnEmptiedStoreTakesNothingAway(t *testing.T) {
	for _, c := range []struct {
		name  string
		empty func(w *world)
	}{
		{"its keys are deleted", func(w *world) { w.wipe() }},
		{"etcd starts on a new folder", func(w *world) {
			if err := w.etcd.Reset(); err != nil {
				w.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			onVariants(t, func(t *testing.T, variant string) {
				etcd := etcdtest.Start(t)
				w := newWorld(t, etcd)
				h := w.addHost(0, variant)
				w.network("net1")
				w.network("net2")
				h.startInSync()
				a := h.container("aaaa", "net1", "192.168.0.1")
				b := h.container("bbbb", "net1", "192.168.0.2")
				x := h.container("cccc", "net2", "192.168.0.3")
				w.canReach(a, b)
				before := h.dump()
				stop := w.pinging(a, b)
				c.empty(w)
				h.awaitHold("calicoctl datastore unlock")
				stop()
				if d := cmp.Diff(before, h.dump()); d != "" {
					t.Errorf("the kernel changed: %s", d)
				}
				h.repairs(b)
				w.canReach(a, b)
				w.cannotReach(a, x)
				h.heldEndpoint()
				if keys := w.keys(); len(keys) > 0 {
					t.Errorf("felix wrote %v to a store that is not its cluster's", keys)
				}
				// The data comes back, without one endpoint and with a policy more.
				ready := model.Ready(false)
				w.put(model.ReadyKey{}, &ready)
				w.put(model.FelixConfigKey{Name: model.ClusterGUID}, &model.Setting{Of: model.KindFelixConfig, Value: etcdtest.GUID})
				w.put(a.key, a.value)
				h.awaitHold("is locked")
				w.put(x.key, x.value)
				w.network("net1")
				w.network("net2")
				w.opening()
				w.canReach(a, b)
				ready = true
				rev := w.put(model.ReadyKey{}, &ready)
				h.awaitHold("")
				if err := h.wait(x, rev, patience); err != nil {
					t.Fatal(err)
				}
				w.canReach(a, x)
				// The container of the endpoint that did not come back runs all the same.
				h.lacking(patience, "bbbb")
				w.canReach(a, b)
				b.Remove()
				h.lacking(patience)
			})
		})
	}
}

// heldEndpoint wants a caller that waits for a new endpoint to be told at once that it
// cannot come.
func (h *host) heldEndpoint() {
	h.w.Helper()
	e := &endpoint{key: model.WorkloadEndpointKey{Node: h.Name, Orchestrator: "libnetwork", Workload: "libnetwork", Name: "new"}}
	start := time.Now()
	err := h.wait(e, 0, patience)
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "calicoctl datastore unlock") {
		h.w.Errorf("a caller that waits for an endpoint is told %v", err)
	}
	if took := time.Since(start); took > patience/2 {
		h.w.Errorf("it is told so after %v", took)
	}
}

// keys are all that the store holds.
func (w *world) keys() (keys []string) {
	w.Helper()
	resp, err := w.etcd.Client(w).Get(w.Context(), "/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		w.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

func TestAnotherClustersStoreIsNotFollowed(t *testing.T) {
	etcd := etcdtest.Start(t)
	w := newWorld(t, etcd)
	h := w.addHost(0, iptables.NFT)
	if err := hostrecord.Write(h.runDir, hostrecord.Record{ClusterGUID: "mine"}); err != nil {
		t.Fatal(err)
	}
	w.network("net1")
	a := h.attach("aaaa", "net1", "192.168.0.1")
	w.put(a.key, a.value)
	// At a start nothing is known yet that could stay.
	before := h.dump()
	h.start()
	h.awaitHold("its GUID is " + etcdtest.GUID + ", this host's is mine")
	if d := cmp.Diff(before, h.dump()); d != "" {
		t.Errorf("the kernel was touched: %s", d)
	}
	h.heldEndpoint()
	w.put(model.AcceptedGUIDKey{}, &model.Setting{Of: model.KindAcceptedGUID, Value: etcdtest.GUID})
	h.awaitHold("")
	h.await(a)
	// What was accepted is the host's cluster from then on.
	w.put(model.FelixConfigKey{Name: model.ClusterGUID}, &model.Setting{Of: model.KindFelixConfig, Value: "mine"})
	h.awaitHold("its GUID is mine, this host's is " + etcdtest.GUID)
}

// TestNodesOfAnotherStoreAreNotTheClusters has nodes in a store that is not followed: the
// set of nodes, whose BGP no workload may reach, stays.
func TestNodesOfAnotherStoreAreNotTheClusters(t *testing.T) {
	const mine, strange = "172.28.9.1", "172.28.9.2"
	node := func(addr string) *model.Node { return &model.Node{IPv4: netip.MustParseAddr(addr)} }
	for _, c := range []struct {
		name, says string
		become     func(w *world)
	}{
		{"an emptied one", "calicoctl datastore unlock", func(w *world) { w.wipe() }},
		{"another cluster's", "its GUID is", func(w *world) {
			if err := w.etcd.Reset(); err != nil {
				w.Fatal(err)
			}
			etcdtest.SetUpAs(w, w.etcd.Client(w), "other")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, etcdtest.Start(t))
			h := w.addHost(0, iptables.NFT)
			w.put(model.NodeKey{Name: "mine"}, node(mine))
			h.startInSync()
			holds := func(addrs ...string) error {
				sets := h.Run("ipset", "save")
				for _, a := range []string{mine, strange} {
					if strings.Contains(sets, a) != slices.Contains(addrs, a) {
						return fmt.Errorf("want %v in %s", addrs, sets)
					}
				}
				return nil
			}
			nettest.Eventually(t, patience, func() error { return holds(mine) })
			c.become(w)
			w.put(model.NodeKey{Name: "strange"}, node(strange))
			h.awaitHold(c.says)
			for range 20 { // as long as it took those who followed the store
				<-time.After(50 * time.Millisecond)
				if err := holds(mine); err != nil {
					t.Fatal(err)
				}
			}
			// Somebody says that it is right: nobody has deleted the node that it lacks.
			w.etcd.SetUp(t)
			w.put(model.AcceptedGUIDKey{}, &model.Setting{Of: model.KindAcceptedGUID, Value: etcdtest.GUID})
			h.awaitHold("")
			nettest.Eventually(t, patience, func() error { return holds(mine, strange) })
			w.put(model.NodeKey{Name: "mine"}, node(mine))
			w.remove(model.NodeKey{Name: "mine"})
			nettest.Eventually(t, patience, func() error { return holds(strange) })
		})
	}
}

func TestALockedStoreIsRepairedAndFollowedAtItsEnd(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.network("net1")
		h.startInSync()
		a := h.container("aaaa", "net1", "192.168.0.1")
		b := h.container("bbbb", "net1", "192.168.0.2")
		c := h.attach("cccc", "net2", "192.168.0.3")
		c.value.Labels = map[string]string{"role": "friend"}
		w.put(model.NewPolicyKey("", "friends"), &model.Policy{
			Selector: "all()", InboundRules: []model.Rule{{Action: model.ActionAllow, Source: model.Match{Selector: "role == 'friend'"}}},
			OutboundRules: []model.Rule{{Action: model.ActionAllow}}, Types: []string{"ingress", "egress"},
		})
		w.put(c.key, c.value)
		h.await(c)
		w.canReach(c, b)
		w.cannotReach(a, b)
		ready := model.Ready(false)
		w.put(model.ReadyKey{}, &ready)
		h.awaitHold("is locked")
		if st, err := h.status(); err != nil || !st.GetInSync() || len(st.GetProblems()) == 0 || st.GetProblems()[0].GetObject() != "datastore" {
			t.Errorf("the status is %v, %v", st, err)
		}
		// Access is taken away, and given, under the lock: neither acts.
		c.value.Labels = nil
		w.put(c.key, c.value)
		a.value.Labels = map[string]string{"role": "friend"}
		rev := w.put(a.key, a.value)
		d := h.attach("dddd", "net1", "192.168.0.4")
		w.put(d.key, d.value)
		h.repairs(b)
		w.canReach(c, b)
		w.cannotReach(a, b)
		h.refuses(a, rev, codes.FailedPrecondition, "is locked")
		ready = true
		rev = w.put(model.ReadyKey{}, &ready)
		if err := h.wait(a, rev, 2*time.Second); err != nil {
			t.Error(err)
		}
		h.await(d)
		w.cannotReach(c, b)
		w.canReach(a, b)
	})
}

func TestFelixStartedWhileTheStoreIsLockedTouchesNothing(t *testing.T) {
	w := newWorld(t, nil)
	w.network("net1")
	h := w.addHost(0, iptables.NFT)
	a := h.attach("aaaa", "net1", "192.168.0.1")
	w.put(a.key, a.value)
	ready := model.Ready(false)
	w.put(model.ReadyKey{}, &ready)
	before := h.dump()
	h.start()
	h.awaitHold("is locked")
	if d := cmp.Diff(before, h.dump()); d != "" {
		t.Errorf("the kernel was touched: %s", d)
	}
	ready = true
	w.put(model.ReadyKey{}, &ready)
	h.awaitHold("")
	h.await(a)
}

// Parameters wait for the end of a lock too, those above all that make felix start again:
// it would repair nothing meanwhile.
func TestParametersWaitForTheEndOfALock(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.startInSync()
	b := h.container("bbbb", "net1", "192.168.0.2")
	ready := model.Ready(false)
	w.put(model.ReadyKey{}, &ready)
	h.awaitHold("is locked")
	set := func(name, value string) {
		w.put(model.FelixConfigKey{Name: name}, &model.Setting{Of: model.KindFelixConfig, Value: value})
	}
	set("DefaultEndpointToHostAction", "ACCEPT")
	set("InterfacePrefix", "cali,tap")
	h.repairs(b)
	const accepts = `"Endpoint to host" -j ACCEPT`
	if strings.Contains(h.dump(), accepts) {
		t.Error("a parameter took effect under the lock")
	}
	ready = true
	w.put(model.ReadyKey{}, &ready)
	nettest.Eventually(t, patience, func() error {
		if rules := h.Run("iptables-nft-save", "-t", "filter"); !strings.Contains(rules, accepts) || !strings.Contains(rules, "tap") {
			return errors.New("the parameters are not in force: " + rules)
		}
		return nil
	})
}

// TestAnotherStartWithinTheProcessForgetsNothing changes a parameter that has felix start
// again, with the store locked, or away, the moment after: felix goes on repairing.
func TestAnotherStartWithinTheProcessForgetsNothing(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.startInSync()
	b := h.container("bbbb", "net1", "192.168.0.2")
	prefixes := func(value string) int64 {
		return w.put(model.FelixConfigKey{Name: "InterfacePrefix"}, &model.Setting{Of: model.KindFelixConfig, Value: value})
	}
	ready := func(is bool) int64 {
		r := model.Ready(is)
		return w.put(model.ReadyKey{}, &r)
	}
	// The lock may come before felix has taken up the parameter, which waits then; so it is
	// tried some times.
	for i := range 5 {
		prefixes(fmt.Sprintf("cali,tap%d", i))
		ready(false)
		h.awaitHold("is locked")
		h.repairs(b)
		ready(true)
		h.awaitHold("")
		if err := h.wait(b, 0, patience); err != nil {
			t.Fatal(err)
		}
	}
	// The parameter is the last that felix hears of etcd.
	if err := h.felix.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	prefixes("cali,tap")
	w.raw(model.Paths(model.ProfileKey{Name: "long"})[0], strings.Repeat("x", 10000))
	nettest.Eventually(t, patience, func() error { return h.unread(10000) })
	h.etcd.Cut()
	if err := h.felix.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, patience, func() error {
		if rules := h.Run("iptables-nft-save", "-t", "filter"); !strings.Contains(rules, "-i tap+") {
			return errors.New("felix has not started again: " + rules)
		}
		return nil
	})
	h.awaitDisconnected()
	h.repairs(b)
}

// unread looks whether so many bytes from etcd wait for felix to read them.
func (h *host) unread(bytes int64) error {
	sockets := h.Run("cat", "/proc/net/tcp")
	for line := range strings.Lines(sockets) {
		fields := strings.Fields(line)
		if len(fields) < 5 || !strings.HasSuffix(fields[2], ":094B") { // felix's ends
			continue
		}
		_, received, _ := strings.Cut(fields[4], ":")
		if n, err := strconv.ParseInt(received, 16, 64); err == nil && n >= bytes {
			return nil
		}
	}
	return errors.New("less has come: " + sockets)
}
