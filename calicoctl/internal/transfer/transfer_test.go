package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// killAt makes a run of the test binary an import that kills itself after so many writes.
const killAt = "TRANSFER_TEST_KILL_AT"

func TestMain(m *testing.M) {
	if os.Getenv(killAt) != "" {
		if err := dyingImport(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(etcdtest.Main(m))
}

// dyingImport imports the file that is the last argument.
func dyingImport() error {
	c, err := etcdstore.New(etcdstore.Config{Endpoints: []string{os.Getenv("ETCD_ENDPOINTS")}})
	if err != nil {
		return err
	}
	at, err := strconv.Atoi(os.Getenv(killAt))
	if err != nil {
		return err
	}
	f, err := os.Open(os.Args[len(os.Args)-1])
	if err != nil {
		return err
	}
	source, err := File(f.Name(), f)
	if err != nil {
		return err
	}
	writes := 0
	die := func(int, int) {
		if writes++; writes == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	im := Import{Store: c, Source: source, By: by("ann@host1", os.Getpid()), Progress: die}
	p, err := im.Look(context.Background())
	if err == nil {
		_, err = im.Run(context.Background(), p)
	}
	return err
}

func by(who string, pid int) *model.Lock {
	l := &model.Lock{By: who, Command: "calicoctl datastore import", Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	SignProcess(l, pid)
	return l
}

// world is a datastore, set up and empty but for a pool.
type world struct {
	*testing.T

	server *etcdtest.Server
	store  *etcdstore.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, server: etcdtest.Shared(t)}
	w.server.Wipe(t)
	w.server.SetUp(t)
	var err error
	if w.store, err = etcdstore.New(etcdstore.Config{Endpoints: w.server.Endpoints()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Close() })
	for _, cidr := range []string{"10.0.0.0/16", "fd00:1::/64"} {
		p := netip.MustParsePrefix(cidr)
		w.apply(model.IPPoolKey{CIDR: p}, &model.IPPool{CIDR: p, IPAM: true})
	}
	w.apply(model.NodeKey{Name: "n1"}, &model.Node{IPv4: netip.MustParseAddr("192.0.2.1")})
	return w
}

func (w *world) apply(k model.Key, r model.Resource) {
	w.Helper()
	if _, _, err := w.store.Apply(w.Context(), k, r); err != nil {
		w.Fatal(err)
	}
}

func (w *world) delete(k model.Key) {
	w.Helper()
	if _, err := w.store.Delete(w.Context(), k, 0); err != nil {
		w.Fatal(err)
	}
}

func (w *world) policy(name, selector string) { w.apply(policyKey(name), policy(selector)) }

func policyKey(name string) model.Key { return model.NewPolicyKey("", name) }

func policy(selector string) *model.Policy {
	return &model.Policy{Selector: selector, Types: []string{model.PolicyTypeIngress}}
}

// endpoint gives an address to an endpoint of node n1.
func (w *world) endpoint(name, addr string) {
	w.Helper()
	w.assign(name, addr)
	w.apply(endpointKey(name), endpointOf(addr))
}

func (w *world) assign(handle, addr string) {
	w.Helper()
	err := ipam.New(w.store, "n1").Assign(w.Context(), netip.MustParseAddr(addr), ipam.Owner{Handle: handle, Attrs: map[string]string{ipam.AttrEndpoint: handle}})
	if err != nil {
		w.Fatal(err)
	}
}

func endpointKey(name string) model.WorkloadEndpointKey {
	return model.WorkloadEndpointKey{Node: "n1", Orchestrator: "libnetwork", Workload: "libnetwork", Name: name}
}

func endpointOf(addr string) *model.WorkloadEndpoint {
	a := netip.MustParseAddr(addr)
	ep := &model.WorkloadEndpoint{State: "active", Interface: "cali0"}
	if net := netip.PrefixFrom(a, a.BitLen()); a.Is4() {
		ep.IPv4Nets = append(ep.IPv4Nets, net)
	} else {
		ep.IPv6Nets = append(ep.IPv6Nets, net)
	}
	return ep
}

func (w *world) release(addr string) {
	w.Helper()
	if missing, err := ipam.New(w.store, "n1").Release(w.Context(), netip.MustParseAddr(addr)); err != nil || len(missing) > 0 {
		w.Fatal(missing, err)
	}
}

func (w *world) export() Source {
	w.Helper()
	var text bytes.Buffer
	if _, err := (Exporting{Store: w.store, Now: time.Now()}).Write(w.Context(), &text); err != nil {
		w.Fatal(err)
	}
	s, err := File("backup", bytes.NewReader(text.Bytes()))
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// run looks and imports.
func (w *world) run(im Import) (Result, error) {
	w.Helper()
	if im.Store = w.store; im.By == nil {
		im.By = by("ann@host1", os.Getpid())
	}
	p, err := im.Look(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	return im.Run(w.Context(), p)
}

func (w *world) mustRun(im Import) {
	w.Helper()
	if r, err := w.run(im); err != nil || r.Raced.N > 0 {
		w.Fatalf("%+v: %v", r, err)
	}
}

// owners are the handles of the addresses in use.
func (w *world) owners() map[string]string {
	w.Helper()
	i, err := ipam.New(w.store, "").Inventory(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	out := map[string]string{}
	for h := range i.Holdings() {
		out[h.Addr.String()] = h.Owner.Handle
	}
	return out
}

// consistent fails for what may bring an address into two hands.
func (w *world) consistent() {
	w.Helper()
	i, err := ipam.New(w.store, "").Inventory(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	for _, p := range ipam.Check(i, ipam.Seen{}, time.Now()) {
		if p.Kind != ipam.ProblemLeakedAddress {
			w.Errorf("%s: %s", p.Kind, p.Text)
		}
	}
}

// lockIs checks the flag ("" for none) and who has the lock ("" for nobody).
func (w *world) lockIs(flag, who string) {
	w.Helper()
	resp, err := w.store.Raw().Get(w.Context(), "/calico/v1/Ready")
	if err != nil {
		w.Fatal(err)
	}
	have := ""
	if len(resp.Kvs) > 0 {
		have = string(resp.Kvs[0].Value)
	}
	s, err := w.store.LockState(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	holder := ""
	if s.By != nil {
		holder = s.By.By
	}
	if have != flag || holder != who {
		w.Errorf("the flag is %q, the lock %q's; want %q and %q's", have, holder, flag, who)
	}
	if s.By == nil && s.LockRevision != 0 {
		w.Error("a lock is left")
	}
}

func (w *world) selector(name string) string {
	w.Helper()
	e, err := w.store.Get(w.Context(), policyKey(name))
	if errors.Is(err, etcdstore.ErrNotFound) {
		return ""
	}
	if err != nil {
		w.Fatal(err)
	}
	return e.Value.(*model.Policy).Selector
}

// TestARestoreTakesNoAddressAway imports an old export into a cluster that has gone on.
func TestARestoreTakesNoAddressAway(t *testing.T) {
	w := newWorld(t)
	w.endpoint("kept", "10.0.0.1")
	w.endpoint("ended", "10.0.0.2")
	w.endpoint("six", "fd00:1::1")
	w.policy("web", "role == 'old'")
	backup := w.export()

	w.delete(endpointKey("ended"))
	w.release("10.0.0.2")
	w.endpoint("heir", "10.0.0.2") // somebody else's by now
	w.endpoint("later", "10.0.0.3")
	w.endpoint("later-six", "fd00:1::2")
	w.endpoint("elsewhere", "10.0.1.1") // in a block of its own
	w.policy("web", "role == 'new'")
	w.mustRun(Import{Source: backup, Overwrite: true})

	want := map[string]string{
		"10.0.0.1": "kept", "10.0.0.2": "heir", "10.0.0.3": "later", "10.0.1.1": "elsewhere", "fd00:1::1": "six", "fd00:1::2": "later-six",
	}
	if got := w.owners(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("in use are %v, want %v", got, want)
	}
	if _, err := w.store.Get(t.Context(), endpointKey("ended")); !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("the endpoint whose address somebody else has is back: %v", err)
	}
	if got := w.selector("web"); got != "role == 'old'" {
		t.Errorf("the policy selects %s", got)
	}
	w.consistent()
	w.lockIs("true", "")
	// Nobody gets what anybody has.
	addrs, err := ipam.New(w.store, "n1").AutoAssign(t.Context(), ipam.Request{IPv4: 5, IPv6: 5, Owner: ipam.Owner{Handle: "next"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if who, taken := want[a.String()]; taken {
			t.Errorf("%s of %s is given out again", a, who)
		}
	}
}

// TestARestoreMarksWhatTheExportHasInUse imports into a store that lacks addresses: released
// ones, a whole block, and a range that has blocks of another size now.
func TestARestoreMarksWhatTheExportHasInUse(t *testing.T) {
	w := newWorld(t)
	w.endpoint("a", "10.0.0.1")
	w.endpoint("b", "10.0.1.1")
	w.endpoint("c", "10.0.2.1")
	w.endpoint("d", "10.0.2.60")
	w.endpoint("six", "fd00:1::1")
	backup := w.export()
	for _, name := range []string{"a", "b", "c", "d", "six"} {
		w.delete(endpointKey(name))
	}
	for _, addr := range []string{"10.0.0.1", "10.0.1.1", "10.0.2.1", "10.0.2.60", "fd00:1::1"} {
		w.release(addr)
	}
	w.assign("other", "10.0.0.9")
	for _, gone := range []string{"10.0.1.0/26", "10.0.2.0/26"} {
		cidr := netip.MustParsePrefix(gone)
		w.delete(model.BlockKey{CIDR: cidr})
		w.delete(model.BlockAffinityKey{Node: "n1", CIDR: cidr})
	}
	small := netip.MustParsePrefix("10.0.2.0/28")
	node := "host:n1"
	block := &model.Block{CIDR: small, Affinity: &node, Allocations: make([]*int, 16), Attributes: []model.BlockAttributes{}}
	for i := range 16 {
		block.Unallocated = append(block.Unallocated, i)
	}
	w.apply(model.BlockKey{CIDR: small}, block)
	w.apply(model.BlockAffinityKey{Node: "n1", CIDR: small}, &model.BlockAffinity{State: model.AffinityConfirmed})

	im := Import{Store: w.store, Source: backup, By: by("ann@host1", os.Getpid())}
	p, err := im.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Skipped) > 0 {
		t.Errorf("skipped: %v", p.Skipped)
	}
	if _, err := im.Run(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"10.0.0.1": "a", "10.0.0.9": "other", "10.0.1.1": "b", "10.0.2.1": "c", "10.0.2.60": "d", "fd00:1::1": "six"}
	if got := w.owners(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("in use are %v, want %v", got, want)
	}
	w.consistent()
	if again, err := (Import{Store: w.store, Source: backup}).Look(t.Context()); err != nil || again.Missing.N > 0 || again.Different.N > 0 {
		t.Errorf("a second import would write: %+v, %v", again, err)
	}
}

// TestMoreHandlesThanATransactionHolds imports a block of 1,024 addresses.
func TestMoreHandlesThanATransactionHolds(t *testing.T) {
	w := newWorld(t)
	pool := netip.MustParsePrefix("10.9.0.0/16")
	w.apply(model.IPPoolKey{CIDR: pool}, &model.IPPool{CIDR: pool, IPAM: true, BlockSize: 22})
	addr, c := pool.Addr(), ipam.New(w.store, "n1")
	for i := range 250 {
		if err := c.Assign(t.Context(), addr, ipam.Owner{Handle: fmt.Sprintf("h%d", i)}); err != nil {
			t.Fatal(err)
		}
		addr = addr.Next()
	}
	backup := w.export()
	w.server.Wipe(t)
	w.mustRun(Import{Source: backup})
	if got := w.owners(); len(got) != 250 || got["10.9.0.249"] != "h249" {
		t.Errorf("%d addresses in use, the last is %q's", len(got), got["10.9.0.249"])
	}
	w.consistent()
	w.lockIs("true", "")
}

// TestWhatComesMeanwhileIsNotOverwritten has somebody write after the look.
func TestWhatComesMeanwhileIsNotOverwritten(t *testing.T) {
	w := newWorld(t)
	w.policy("web", "role == 'web'")
	w.policy("db", "role == 'db'")
	backup := w.export()
	w.delete(policyKey("web"))
	w.delete(policyKey("db"))
	im := Import{Store: w.store, Source: backup, By: by("ann@host1", os.Getpid())}
	p, err := im.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.policy("web", "role == 'mine'")
	r, err := im.Run(t.Context(), p)
	if err != nil || r.Raced.N != 1 || r.Raced.First[0] != policyKey("web") {
		t.Errorf("%+v, %v", r, err)
	}
	if got := w.selector("web"); got != "role == 'mine'" {
		t.Errorf("it was overwritten: %s", got)
	}
	if got := w.selector("db"); got != "role == 'db'" {
		t.Errorf("the other one is %q", got)
	}
	w.lockIs("true", "")
}

// TestALivingNodeKeepsItsRecord imports other accounts of a node that lives and of one that
// does not.
func TestALivingNodeKeepsItsRecord(t *testing.T) {
	w := newWorld(t)
	w.apply(model.NodeKey{Name: "gone"}, &model.Node{IPv4: netip.MustParseAddr("192.0.2.7")})
	w.endpoint("e", "10.0.0.1")
	w.apply(model.DockerNetworkKey{Name: "net"}, &model.DockerNetwork{IDs: map[string]string{"n1": "old"}})
	w.policy("web", "role == 'old'")
	backup := w.export()
	w.apply(model.NodeKey{Name: "n1"}, &model.Node{IPv4: netip.MustParseAddr("192.0.2.11")})
	w.apply(model.NodeKey{Name: "gone"}, &model.Node{IPv4: netip.MustParseAddr("192.0.2.17")})
	w.apply(model.DockerNetworkKey{Name: "net"}, &model.DockerNetwork{IDs: map[string]string{"n1": "new"}})
	changed := endpointOf("10.0.0.1")
	changed.Labels = map[string]string{"a": "new"}
	w.apply(endpointKey("e"), changed)
	w.apply(model.FelixConfigKey{Name: model.ClusterGUID}, &model.Setting{Of: model.KindFelixConfig, Value: "another"})
	w.policy("web", "role == 'new'")
	w.apply(model.LivenessKey{Node: "n1", Program: "felix"}, &model.Liveness{Version: "v1"})
	w.mustRun(Import{Source: backup, Overwrite: true})

	get := func(k model.Key) model.Resource {
		e, err := w.store.Get(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		return e.Value
	}
	for k, want := range map[model.Key]string{
		model.NodeKey{Name: "n1"}:                     "192.0.2.11",
		model.NodeKey{Name: "gone"}:                   "192.0.2.7",
		model.DockerNetworkKey{Name: "net"}:           "new",
		endpointKey("e"):                              "new",
		model.FelixConfigKey{Name: model.ClusterGUID}: "another",
		policyKey("web"):                              "role == 'old'",
	} {
		if got := fmt.Sprintf("%+v", get(k)); !strings.Contains(got, want) {
			t.Errorf("%v is %s, want %s", k, got, want)
		}
	}
}

// TestTheLockNeverStaysBehind breaks an import off in its middle, from each state of the lock.
func TestTheLockNeverStaysBehind(t *testing.T) {
	lockOf := func(w *world, l *model.Lock) {
		no := model.Ready(false)
		w.apply(model.ReadyKey{}, &no)
		w.apply(model.LockKey{}, l)
	}
	for _, tc := range []struct {
		name   string
		before func(*world)
		flag   string
		who    string
		steal  bool
	}{
		{"an open one", func(*world) {}, "true", "", false},
		{"one without a flag", func(w *world) { w.server.Wipe(w) }, "", "", false},
		{"one that the operator has locked", func(w *world) { lockOf(w, &model.Lock{By: "ann@host1", Command: "calicoctl datastore lock"}) }, "false", "ann@host1", false},
		{"one that somebody else has locked", func(w *world) { lockOf(w, &model.Lock{By: "bob@host2", Command: "calicoctl datastore lock"}) }, "false", "bob@host2", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, cause := range []string{"interrupt", "rival", "lost lock"} {
				t.Run(cause, func(t *testing.T) {
					w := newWorld(t)
					for i := range 300 {
						w.policy(fmt.Sprintf("p%03d", i), "all()")
					}
					backup := w.export()
					for i := range 300 {
						w.delete(policyKey(fmt.Sprintf("p%03d", i)))
					}
					tc.before(w)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					flag, who, want := tc.flag, tc.who, "repeat the import"
					im := Import{Store: w.store, Source: backup, TakeLock: tc.steal, By: by("ann@host1", os.Getpid())}
					im.Progress = func(int, int) {
						switch cause {
						case "interrupt":
							cancel()
						case "rival": // what is to come is there by then, with another value
							w.policy("p299", "has(x)")
						case "lost lock":
							w.apply(model.LockKey{}, &model.Lock{By: "eve@host3"})
							flag, who, want = "false", "eve@host3", "opened or taken over by somebody else"
						}
					}
					p, err := im.Look(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					r, err := im.Run(ctx, p)
					if cause == "rival" {
						if err != nil || r.Raced.N != 1 {
							t.Errorf("%+v, %v", r, err)
						}
						if flag == "" {
							flag = "true" // it is all there
						}
					} else if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("error %v, want %q", err, want)
					}
					if cause == "interrupt" && (!errors.Is(err, context.Canceled) || r.Written == 0 || r.Written > 200) {
						t.Errorf("%+v, %v", r, err)
					}
					if cause == "lost lock" && r.Written > 100 {
						t.Errorf("it wrote on without the lock: %d", r.Written)
					}
					w.lockIs(flag, who)
				})
			}
		})
	}
}

// TestOfTwoImportsTheSecondIsRefused starts another import within one, by the same operator
// and by another one.
func TestOfTwoImportsTheSecondIsRefused(t *testing.T) {
	w := newWorld(t)
	w.policy("web", "all()")
	backup := w.export()
	w.delete(policyKey("web"))
	sleeper := exec.Command("sleep", "60") // a process of this host that runs
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleeper.Process.Kill() //nolint:errcheck // the test is over
	im := Import{Source: backup, By: by("ann@host1", sleeper.Process.Pid)}
	tried := 0
	im.Progress = func(int, int) {
		for _, who := range []string{"ann@host1", "bob@host2"} {
			tried++
			w.policy("other", "all()")
			_, err := w.run(Import{Source: w.export(), KeepLocked: true, By: by(who, os.Getpid())})
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("ann@host1 (calicoctl datastore import, process %d) since 2026-01-02T03:04:05Z", sleeper.Process.Pid)) {
				t.Errorf("the import of %s: %v", who, err)
			}
		}
	}
	w.mustRun(im)
	if tried != 2 {
		t.Errorf("%d imports were tried", tried)
	}
	w.lockIs("true", "")
}

// TestAKilledImportIsResumed kills an import after each of its writes.
func TestAKilledImportIsResumed(t *testing.T) {
	w := newWorld(t)
	for i := range 150 {
		w.policy(fmt.Sprintf("p%03d", i), "all()")
	}
	w.endpoint("a", "10.0.0.1")
	w.endpoint("b", "10.0.1.1")
	w.endpoint("c", "fd00:1::1")
	path := t.TempDir() + "/backup.json"
	err := WriteFile(path, func(f io.Writer) error {
		_, err := (Exporting{Store: w.store, Now: time.Now()}).Write(t.Context(), f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	source, err := File(path, f)
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for at := 1; ; at++ {
		w.server.Wipe(t)
		flag := "true" // the import brings it
		if at%2 == 0 {
			w.server.SetUp(t)
		}
		cmd := exec.Command(os.Args[0], path)
		cmd.Env = append(os.Environ(), killAt+"="+strconv.Itoa(at), "ETCD_ENDPOINTS="+w.server.Endpoint())
		out, err := cmd.CombinedOutput()
		if err == nil {
			w.lockIs(flag, "")
			break
		}
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("%v: %s", err, out)
		}
		killed++
		w.lockIs("false", "ann@host1")
		if _, err := w.store.Unlocked(t.Context()); !errors.Is(err, etcdstore.ErrLocked) || !strings.Contains(err.Error(), "ann@host1") {
			t.Errorf("after %d writes: %v", at, err)
		}
		if _, err := w.run(Import{Source: source, By: by("bob@host2", os.Getpid())}); err == nil || !strings.Contains(err.Error(), "--take-lock") {
			t.Errorf("after %d writes, the import of somebody else: %v", at, err)
		}
		im := Import{Source: source}
		if at%3 == 0 {
			im.By, im.TakeLock = by("bob@host2", os.Getpid()), true
		}
		w.mustRun(im)
		w.lockIs(flag, "")
		w.consistent()
		if got := w.owners(); len(got) != 3 || w.selector("p149") != "all()" {
			t.Errorf("after %d writes, in use are %v", at, got)
		}
	}
	if killed < 5 {
		t.Errorf("it was killed %d times only", killed)
	}
}

// TestOnlyWhatIsWanted imports intents into an emptied store and into one of another cluster.
func TestOnlyWhatIsWanted(t *testing.T) {
	w := newWorld(t)
	w.policy("web", "all()")
	w.apply(model.HostEndpointKey{Node: "n1", Name: "eth0"}, &model.HostEndpoint{Interface: "eth0"})
	w.endpoint("e", "10.0.0.1")
	backup := w.export()
	for _, tc := range []struct {
		name, guid string
		before     func()
		flag       string
	}{
		{"emptied", etcdtest.GUID, func() { w.server.Wipe(t) }, ""},
		{"another cluster's", "another", func() {
			w.server.Wipe(t)
			w.server.SetUp(t)
			w.apply(guidKey, &model.Setting{Of: model.KindFelixConfig, Value: "another"})
		}, "true"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.before()
			im := Import{Store: w.store, Source: backup, Intents: true, By: by("ann@host1", os.Getpid())}
			p, err := im.Look(t.Context())
			if err != nil || p.LeftOut != 5 { // node, block, affinity, handle, endpoint
				t.Fatalf("%+v, %v", p, err)
			}
			if _, err := im.Run(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			w.lockIs(tc.flag, "")
			if w.selector("web") == "" {
				t.Error("the policy is not there")
			}
			for _, k := range []model.Key{model.NodeKey{Name: "n1"}, endpointKey("e"), model.HandleKey{ID: "e"}, model.BlockKey{CIDR: netip.MustParsePrefix("10.0.0.0/26")}} {
				if _, err := w.store.Get(t.Context(), k); !errors.Is(err, etcdstore.ErrNotFound) {
					t.Errorf("%v: %v", k, err)
				}
			}
			e, err := w.store.Get(t.Context(), guidKey)
			if err != nil || e.Value.(*model.Setting).Value != tc.guid {
				t.Errorf("the GUID is %v, %v", e.Value, err)
			}
		})
	}
}

// TestAnExportIsReadAsItWasWritten has values that are no text, and none at all.
func TestAnExportIsReadAsItWasWritten(t *testing.T) {
	w := newWorld(t)
	values := map[string]string{
		"/calico/x/text": "<a & \"b\">\n", "/calico/x/binary": "\xff\x00\x01", "/calico/x/empty": "", "/calico/x/ünicode": "ü",
	}
	for path, value := range values {
		if _, err := w.store.Raw().Put(t.Context(), path, value); err != nil {
			t.Fatal(err)
		}
	}
	for _, prefix := range []string{"/calico/a/", "/calico/ipam/v2/assignment/y/", "/calico/y/"} {
		for i := range 2500 / 100 { // more than a page
			var puts []clientv3.Op
			for j := range 100 {
				puts = append(puts, clientv3.OpPut(fmt.Sprint(prefix, i*100+j), "v"))
			}
			if _, err := w.store.Raw().Txn(t.Context()).Then(puts...).Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.apply(model.LivenessKey{Node: "n1", Program: "felix"}, &model.Liveness{Version: "v1"})
	got := map[string]string{}
	source := w.export()
	for range 2 { // as often as need be
		clear(got)
		if err := source.each(func(path string, value []byte) error {
			got[path] = string(value)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range values {
		if value, ok := got[path]; !ok || value != want {
			t.Errorf("%s is %q (%t), want %q", path, value, ok, want)
		}
	}
	if n := len(got); n < 3*2500+len(values) || got["/calico/y/2499"] != "v" || got["/calico/ipam/v2/assignment/y/2499"] != "v" {
		t.Errorf("%d values", n)
	}
	for path := range got {
		if strings.HasPrefix(path, "/calico/status/") {
			t.Errorf("%s is a report", path)
		}
	}
}

func TestWhatIsNoExport(t *testing.T) {
	for _, text := range []string{
		"", "no JSON", "[]", "{", `{"apiVersion":"calico.internal/v1","kind":"datastoreExport","values":{"/calico/a":"b"`,
		`{"apiVersion":"calico.internal/v1","kind":"datastoreExport","values":{"/calico/a":1}}`,
		`{"apiVersion":"v1","kind":"datastoreExport","values":{"/calico/a":"b"}}`, `{"values":{"/calico/a":"b"}}`,
		`{"apiVersion":"calico.internal/v1","kind":"datastoreExport","values":{"/calico/a":"b"}} {}`,
	} {
		if _, err := File("f", strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), "f is not an export") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := File("f", strings.NewReader(`{"apiVersion":"calico.internal/v1","kind":"datastoreExport","values":{}}`)); err == nil {
		t.Error("an empty one is taken")
	}
}

// TestAnExportFromNobody names what is the matter, and does not wait for ever.
func TestAnExportFromNobody(t *testing.T) {
	c, err := etcdstore.New(etcdstore.Config{Endpoints: []string{"http://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // there is nothing to lose
	var text bytes.Buffer
	_, err = Exporting{Store: c, Now: time.Now()}.Write(t.Context(), &text)
	if !errors.Is(err, etcdstore.ErrUnavailable) || !strings.Contains(err.Error(), "cannot reach etcd at http://127.0.0.1:1") {
		t.Errorf("error %v", err)
	}
}

// TestWhatNeedsANewerVersion imports what only newer programs may write.
func TestWhatNeedsANewerVersion(t *testing.T) {
	w := newWorld(t)
	w.policy("web", "all()")
	need := func(v string) *model.Setting { return &model.Setting{Of: model.KindMinVersion, Value: v} }
	w.apply(model.MinVersionKey{}, need("v1.2.0"))
	backup := w.export()
	open := func(v string) *world {
		c, err := etcdstore.New(etcdstore.Config{Endpoints: w.server.Endpoints(), Version: v})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return &world{T: t, server: w.server, store: c}
	}
	stored := func() string {
		e, err := w.store.Get(t.Context(), model.MinVersionKey{})
		if err != nil {
			return err.Error()
		}
		return e.Value.(*model.Setting).Value
	}
	w.server.Wipe(t)
	if _, err := open("v1.1.0").run(Import{Source: backup}); !errors.Is(err, etcdstore.ErrTooOld) || !strings.Contains(err.Error(), "backup is for v1.2.0 and later, and this is v1.1.0") {
		t.Errorf("an older program: %v", err)
	}
	w.lockIs("", "")
	newer := open("v1.4.0")
	newer.mustRun(Import{Source: backup})
	if got := stored(); got != "v1.2.0" {
		t.Errorf("the store is for %s", got)
	}
	newer.apply(model.MinVersionKey{}, need("v1.3.0"))
	newer.delete(policyKey("web"))
	newer.mustRun(Import{Source: backup})
	if got := stored(); got != "v1.3.0" || w.selector("web") == "" {
		t.Errorf("the store is for %s", got)
	}
	newer.lockIs("true", "")

	// A node that is older would lose what is written.
	w.server.Wipe(t)
	w.server.SetUp(t)
	open("v1.1.0").apply(model.LivenessKey{Node: "n1", Program: "felix"}, &model.Liveness{Version: "v1.1.0"})
	if _, err := newer.run(Import{Source: backup}); !errors.Is(err, etcdstore.ErrTooOld) || !strings.Contains(err.Error(), "node n1 (felix is v1.1.0)") {
		t.Errorf("with an older node: %v", err)
	}
	newer.lockIs("true", "")
}

// TestEtcdIsAwayWhenTheLockIsGivenBack stops etcd under an import that is interrupted.
func TestEtcdIsAwayWhenTheLockIsGivenBack(t *testing.T) {
	w := newWorld(t)
	w.policy("web", "all()")
	backup := w.export()
	w.delete(policyKey("web"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	back := make(chan error, 1)
	im := Import{Store: w.store, Source: backup, By: by("ann@host1", os.Getpid()), Progress: func(int, int) {
		w.server.Stop()
		cancel()
		go func() {
			<-time.After(time.Second)
			back <- w.server.Restart()
		}()
	}}
	p, err := im.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.Run(ctx, p); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "the datastore is open; repeat the import") {
		t.Errorf("error %v", err)
	}
	if err := <-back; err != nil {
		t.Fatal(err)
	}
	w.lockIs("true", "")
}

// TestNothingIsWrittenThatIsNotAsItWasCompared has others write between comparison and write.
func TestNothingIsWrittenThatIsNotAsItWasCompared(t *testing.T) {
	w := newWorld(t)
	w.policy("changed", "role == 'old'")
	w.assign("a", "10.0.0.1")
	l, err := takeLock(t.Context(), w.store, by("ann@host1", os.Getpid()), false)
	if err != nil {
		t.Fatal(err)
	}
	r := &run{Import: Import{Store: w.store, Overwrite: true}, lock: l}
	if r.target, err = newTarget(t.Context(), w.store, false); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"new", "changed"} {
		parts, err := model.Encode(policyKey(name), policy("all()"))
		if err != nil {
			t.Fatal(err)
		}
		writes, _, err := r.writes(t.Context(), []item{{key: policyKey(name), value: policy("all()"), parts: parts}})
		if err != nil || len(writes) != 1 {
			t.Fatal(writes, err)
		}
		w.policy(name, "role == 'meanwhile'")
		if err := l.commit(t.Context(), writes...); !errors.Is(err, etcdstore.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
		if got := w.selector(name); got != "role == 'meanwhile'" {
			t.Errorf("%s was overwritten: %s", name, got)
		}
	}
	block := netip.MustParsePrefix("10.0.0.0/26")
	e, err := w.store.Get(t.Context(), model.BlockKey{CIDR: block})
	if err != nil {
		t.Fatal(err)
	}
	for _, revision := range []int64{0, e.Revision} { // as if it had not been there, and as it was
		b := blockWrite{run: r, from: e.Value.(*model.Block), next: e.Value.(*model.Block), place: block, revision: revision}
		if revision != 0 {
			w.release("10.0.0.1")
		}
		if _, err := b.do(t.Context()); !errors.Is(err, etcdstore.ErrConflict) {
			t.Errorf("the block as of revision %d: %v", revision, err)
		}
	}
	if got := w.owners(); len(got) > 0 {
		t.Errorf("what was given back is in use again: %v", got)
	}
}

// TestAnOverwriteGivesNoAddressAway imports an endpoint as it was before its address became
// somebody else's, of a node of which nothing lives.
func TestAnOverwriteGivesNoAddressAway(t *testing.T) {
	for _, addrs := range [][2]string{{"10.0.0.1", "10.0.0.2"}, {"fd00:1::1", "fd00:1::2"}} {
		w := newWorld(t)
		w.endpoint("a", addrs[0])
		backup := w.export()
		w.release(addrs[0])
		w.endpoint("a", addrs[1])
		w.endpoint("b", addrs[0])
		for range 2 { // a repetition too
			w.mustRun(Import{Source: backup, Overwrite: true})
			w.consistent()
		}
		e, err := w.store.Get(t.Context(), endpointKey("a"))
		if err != nil {
			t.Fatal(err)
		}
		ep := e.Value.(*model.WorkloadEndpoint)
		if got := slices.Concat(ep.IPv4Nets, ep.IPv6Nets); len(got) != 1 || got[0].Addr().String() != addrs[1] {
			t.Errorf("endpoint a has %v, want %s", got, addrs[1])
		}
		w.lockIs("true", "")
	}
}

// TestARepeatedImportChecksTheAddresses has nothing to write into a datastore in which two
// endpoints have one address.
func TestARepeatedImportChecksTheAddresses(t *testing.T) {
	w := newWorld(t)
	w.endpoint("a", "10.0.0.1")
	w.apply(endpointKey("b"), endpointOf("10.0.0.1"))
	backup := w.export()
	for _, keep := range []bool{false, true} {
		if _, err := w.run(Import{Source: backup, KeepLocked: keep}); err == nil || !strings.Contains(err.Error(), "10.0.0.1") {
			t.Errorf("error %v", err)
		}
	}
	if _, err := w.run(Import{Source: backup, Intents: true}); err != nil {
		t.Errorf("what is wanted alone has nothing to do with addresses: %v", err)
	}
}

// TestAnAddressInARangeOfSmallerBlocksStaysInUse imports a block into a pool whose blocks are
// smaller by now, and of which only the first is there, of another node.
func TestAnAddressInARangeOfSmallerBlocksStaysInUse(t *testing.T) {
	for _, tc := range []struct {
		pool, first, other string
		bits, small        int
		addrs              []string
	}{
		{"10.8.0.0/24", "10.8.0.1", "10.8.0.2", 26, 28, []string{"10.8.0.3", "10.8.0.20", "10.8.0.21", "10.8.0.63"}},
		{"fd00:8::/64", "fd00:8::1", "fd00:8::2", 122, 124, []string{"fd00:8::3", "fd00:8::14", "fd00:8::15", "fd00:8::3f"}},
	} {
		t.Run(tc.pool, func(t *testing.T) {
			w := newWorld(t)
			pool := netip.MustParsePrefix(tc.pool)
			poolOf := func(bits int) {
				w.apply(model.IPPoolKey{CIDR: pool}, &model.IPPool{CIDR: pool, IPAM: true, BlockSize: bits})
			}
			poolOf(tc.bits)
			want := map[string]string{tc.first: "first"}
			for i, addr := range tc.addrs {
				want[addr] = fmt.Sprint("e", i)
				w.endpoint(want[addr], addr)
			}
			poolOf(tc.small)
			backup := w.export()
			w.server.Wipe(t)
			w.server.SetUp(t)
			poolOf(tc.small)
			w.apply(model.NodeKey{Name: "n2"}, &model.Node{IPv4: netip.MustParseAddr("192.0.2.2")})
			if err := ipam.New(w.store, "n2").Assign(t.Context(), netip.MustParseAddr(tc.first), ipam.Owner{Handle: "first"}); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				w.mustRun(Import{Source: backup})
				w.consistent()
				if got := w.owners(); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("in use are %v, want %v", got, want)
				}
			}
			for _, addr := range tc.addrs {
				if err := ipam.New(w.store, "n3").Assign(t.Context(), netip.MustParseAddr(addr), ipam.Owner{Handle: "thief"}); err == nil {
					t.Errorf("%s is given to somebody else", addr)
				}
			}
			w.lockIs("true", "")
		})
	}
}

// TestTheLockIsGivenBackWhenItsAnswerIsLost loses the answer to the taking of the lock, and
// has the import interrupted while it waits for it.
func TestTheLockIsGivenBackWhenItsAnswerIsLost(t *testing.T) {
	w := newWorld(t)
	w.policy("web", "all()")
	backup := w.export()
	proxy := w.server.Proxy(t)
	far, err := etcdstore.New(etcdstore.Config{Endpoints: []string{proxy.Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close() //nolint:errcheck // the test is over
	for _, before := range []struct {
		name, flag, who string
		set             func()
	}{
		{"open", "true", "", func() { w.server.SetUp(t) }},
		{"without a flag", "", "", func() {}},
		{"locked by the operator", "false", "ann@host1", func() {
			no := model.Ready(false)
			w.apply(model.ReadyKey{}, &no)
			w.apply(model.LockKey{}, &model.Lock{By: "ann@host1", Command: "calicoctl datastore lock"})
		}},
	} {
		for _, how := range etcdtest.Losses {
			t.Run(before.name+", "+how.String(), func(t *testing.T) {
				w.server.Wipe(t)
				before.set()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				im := Import{Store: far, Source: backup, By: by("ann@host1", os.Getpid())}
				p, err := im.Look(ctx)
				if err != nil {
					t.Fatal(err)
				}
				proxy.Lose(1, how)
				interrupted := make(chan struct{})
				go func() {
					defer close(interrupted)
					if how != etcdtest.AnswerHeld {
						return
					}
					defer cancel()
					poll := time.NewTicker(time.Millisecond)
					defer poll.Stop()
					for proxy.Writes() == 0 {
						select {
						case <-poll.C:
						case <-ctx.Done():
							return
						}
					}
				}()
				r, err := im.Run(ctx, p)
				<-interrupted
				if err == nil || r.Written > 0 {
					t.Errorf("%+v, %v", r, err)
				}
				proxy.AwaitLate()
				w.lockIs(before.flag, before.who)
			})
		}
	}
}

// TestWhatOthersReferToIsWrittenFirst lists the order in which things came into the datastore.
func TestWhatOthersReferToIsWrittenFirst(t *testing.T) {
	w := newWorld(t)
	w.apply(model.NetworkSetKey{Name: "office"}, &model.NetworkSet{Nets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Labels: map[string]string{"role": "office"}})
	w.policy("web", "all()")
	w.apply(model.HostEndpointKey{Node: "n1", Name: "eth0"}, &model.HostEndpoint{Interface: "eth0"})
	r := &run{Import: Import{Source: w.export()}}
	plain, err := r.collect()
	if err != nil {
		t.Fatal(err)
	}
	at := func(kind model.Kind) int {
		return slices.IndexFunc(plain, func(it item) bool { return it.key.Kind() == kind })
	}
	for _, pair := range [][2]model.Kind{{model.KindNetworkSet, model.KindPolicy}, {model.KindPolicy, model.KindHostEndpoint}, {model.KindNode, model.KindHostEndpoint}} {
		if first, then := at(pair[0]), at(pair[1]); first < 0 || first > then {
			t.Errorf("%s is written at %d, %s at %d", pair[0], first, pair[1], then)
		}
	}
}
