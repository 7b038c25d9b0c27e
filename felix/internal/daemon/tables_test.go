package daemon_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// denying puts a policy in force by which nobody reaches the endpoints of a profile.
func (w *world) denying(name, profile string) int64 {
	w.Helper()
	return w.put(model.NewPolicyKey("", name), &model.Policy{
		Selector: fmt.Sprintf("has(%s)", profile), Types: []string{model.PolicyTypeIngress},
		InboundRules: []model.Rule{{Action: model.ActionDeny}},
	})
}

// problemOf is the reason of a problem of an object, if there is one.
func (h *host) problemOf(object string) (reason string, err error) {
	st, err := h.status()
	if err != nil {
		return "", err
	}
	for _, p := range st.GetProblems() {
		if strings.HasPrefix(p.GetObject(), object) {
			return p.GetReason(), nil
		}
	}
	return "", fmt.Errorf("no problem of %s: %v", object, st.GetProblems())
}

func (h *host) awaitProblemOf(object, text string) {
	h.w.Helper()
	nettest.Eventually(h.w, patience, func() error {
		reason, err := h.problemOf(object)
		if err == nil && !strings.Contains(reason, text) {
			err = fmt.Errorf("the problem of %s is %q", object, reason)
		}
		return err
	})
}

func (h *host) awaitNoProblems() {
	h.w.Helper()
	nettest.Eventually(h.w, patience, func() error {
		st, err := h.status()
		if err == nil && len(st.GetProblems()) > 0 {
			err = fmt.Errorf("problems are %v", st.GetProblems())
		}
		return err
	})
}

// TestANativeRuleOfAnotherStopsNothing has rules that only nft understands stand in all tables
// of iptables, while felix runs and when it starts.
func TestANativeRuleOfAnotherStopsNothing(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	w.network("net2")
	w.network("net3")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	c := h.container("cccc", "net2", "192.168.0.3")
	w.canReach(a, b)
	chains := map[string]string{"raw": "OUTPUT", "mangle": "POSTROUTING", "nat": "PREROUTING", "filter": "FORWARD"}
	for _, family := range []string{"ip", "ip6"} {
		for table, chain := range chains {
			h.Run("nft", "add", "rule", family, table, chain, "ct", "state", "invalid", "counter")
		}
	}
	for _, object := range []string{"IPv4 chains of raw", "IPv4 chains of nat", "IPv6 chains of mangle", "IPv6 chains of filter"} {
		h.awaitProblemOf(object, "nft delete rule ip")
	}
	h.expectLittleWork(idle, a, b)
	expect := func(when string, n int) {
		t.Helper()
		opened := w.opening()
		if err := h.wait(a, opened, recovery); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		w.canReach(a, c)
		if err := h.wait(a, w.denying("no", "net2"), recovery); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		w.cannotReach(a, c)
		d := h.container(fmt.Sprintf("d%03d", n), "net1", fmt.Sprintf("192.168.0.%d", n))
		w.canReach(a, d)
		w.remove(model.NewPolicyKey("", "no"))
	}
	expect("while felix runs", 4)
	h.felix.Kill()
	h.startInSync()
	expect("after a restart", 5)
	h.Run("iptables-nft", "-w", "-I", "FORWARD", "-m", "comment", "--comment", "before the hook", "-j", "RETURN")
	nettest.Eventually(t, time.Second, func() error {
		_, list, _ := strings.Cut(h.Run("nft", "list", "chain", "ip", "filter", "FORWARD"), "policy accept;")
		if first, _, _ := strings.Cut(strings.TrimSpace(list), "\n"); !strings.Contains(first, "cali-FORWARD") {
			return fmt.Errorf("the first rule is %s", first)
		}
		return nil
	})
	h.Run("nft", "flush", "ruleset")
	h.awaitNoProblems()
	w.cannotReach(c, a)
}

// TestAChainThatAnotherUsesHoldsUpNothingElse has a rule of somebody else lead to the chain of
// a policy that is deleted, which only the kernel refuses.
func TestAChainThatAnotherUsesHoldsUpNothingElse(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.network("net1")
		w.network("net2")
		old := model.NewPolicyKey("", "old")
		w.put(old, &model.Policy{Selector: "has(net1)", Types: []string{model.PolicyTypeIngress}, InboundRules: []model.Rule{{Action: model.ActionAllow}}})
		h.startInSync()
		a := h.container("aaaa", "net1", "192.168.0.1")
		c := h.container("cccc", "net2", "192.168.0.3")
		w.cannotReach(a, c)
		h.Run("iptables-"+variant, "-w", "-N", "others")
		h.Run("iptables-"+variant, "-w", "-A", "others", "-j", "cali-pi-default/old")
		w.remove(old)
		opened := w.opening()
		if err := h.wait(a, opened, recovery); err != nil {
			t.Error(err)
		}
		w.canReach(a, c)
		h.awaitProblemOf("IPv4 chains of filter: cali-pi-default/old", "")
		d := h.container("dddd", "net1", "192.168.0.4")
		w.canReach(a, d)
		h.Run("iptables-"+variant, "-w", "-F", "others")
		h.awaitNoProblems()
	})
}

// links has felix find no other programs than those of the variant, of one family or both.
func (h *host) links(names ...string) {
	h.w.Helper()
	h.shims, h.bare = h.w.TempDir(), true
	for _, name := range names {
		program, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(program, filepath.Join(h.shims, name))
		}
		if err != nil {
			h.w.Fatal(err)
		}
	}
}

// TestWithoutIP6TablesIPv4Works starts felix where there is no ip6tables.
func TestWithoutIP6TablesIPv4Works(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.network("net1")
		w.network("net2")
		h.links("iptables-"+variant+"-save", "iptables-"+variant+"-restore")
		h.Run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
		h.startInSync()
		a := h.container("aaaa", "net1", "192.168.0.1")
		b := h.container("bbbb", "net1", "192.168.0.2")
		c := h.container("cccc", "net2", "192.168.0.3")
		if _, err := a.Ping(b.addr, answer); err != nil {
			t.Error(err)
		}
		w.cannotReach(a, c)
		if got := h.Run("ip", "-6", "route"); strings.Contains(got, "fd00:80::") {
			t.Errorf("IPv6 is routed and not filtered: %s", got)
		}
		h.awaitProblemOf("IPv6 chains of filter", "ip6tables-"+variant+"-")
		nettest.Eventually(t, patience, func() error { return h.ready(false) })
		if got := h.Run("sysctl", "-n", "net.ipv6.conf.all.forwarding"); strings.TrimSpace(got) != "0" {
			t.Errorf("IPv6 is forwarded and not filtered: %s", got)
		}
		sets := func() int { return strings.Count(h.Run("ipset", "list", "-n"), "cali") }
		before := sets()
		denying := w.denying("no", "role")
		if err := errors.Join(h.wait(a, denying, patience), h.wait(a, w.denial("role == 'x'"), patience)); err != nil {
			t.Error(err)
		}
		w.remove(model.NewPolicyKey("", "denial"))
		nettest.Eventually(t, patience, func() error {
			if n := sets(); n != before {
				return fmt.Errorf("there are %d sets, and were %d", n, before)
			}
			return nil
		})
		only6 := h.attach("eeee", "net1", "192.168.0.5")
		only6.value.IPv4Nets = nil
		rev := w.put(only6.key, only6.value)
		h.refuses(only6, rev, codes.DeadlineExceeded, "is not installed")
	})
}

// TestWithoutAFilterTableOfIPv6IPv4Works starts felix on a kernel in which a legacy table of IPv6
// is missing: ip6tables says so.
func TestWithoutAFilterTableOfIPv6IPv4Works(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.Legacy)
	w.network("net1")
	h.shims = t.TempDir()
	const missing = "#!/bin/sh\necho \"ip6tables: can't initialize ip6tables table 'filter': Table does not exist (do you need to insmod?)\" >&2\nexit 3\n"
	for _, name := range []string{"ip6tables-legacy-save", "ip6tables-legacy-restore"} {
		if err := os.WriteFile(filepath.Join(h.shims, name), []byte(missing), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	if _, err := a.Ping(b.addr, answer); err != nil {
		t.Error(err)
	}
	if got := h.Run("ip", "-6", "route"); strings.Contains(got, "fd00:80::") {
		t.Errorf("IPv6 is routed and not filtered: %s", got)
	}
	h.awaitProblemOf("IPv6", "Table does not exist")
}

// refuseTable has iptables-restore refuse one table of IPv6 for as long as a file exists.
func (h *host) refuseTable(table string) (refuse, allow func()) {
	h.w.Helper()
	dir := h.w.TempDir()
	file, input := filepath.Join(dir, "refuse"), filepath.Join(dir, "input")
	h.shimRestore(fmt.Sprintf(`t=$(mktemp %s.XXXXXX); cat > $t
case $0 in *ip6tables*) if [ -e %s ] && grep -q '^\*%s' $t; then echo "can't initialize the table: do you need to insmod?" >&2; exit 3; fi;; esac
exec < $t; rm $t`, input, file, table))
	refuse = func() {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			h.w.Fatal(err)
		}
	}
	return refuse, func() {
		if err := os.Remove(file); err != nil {
			h.w.Fatal(err)
		}
	}
}

// TestATableThatCannotBeHadStopsOnlyWhatDependsOnIt has one table of IPv6 refuse everything
// from the start on.
func TestATableThatCannotBeHadStopsOnlyWhatDependsOnIt(t *testing.T) {
	for _, table := range []string{"nat", "mangle"} {
		t.Run(table, func(t *testing.T) {
			onVariants(t, func(t *testing.T, variant string) {
				w := newWorld(t, nil)
				h := w.addHost(0, variant)
				w.network("net1")
				w.network("net2")
				refuse, allow := h.refuseTable(table)
				refuse()
				h.startInSync()
				a := h.container("aaaa", "net1", "192.168.0.1")
				b := h.container("bbbb", "net1", "192.168.0.2")
				c := h.container("cccc", "net2", "192.168.0.3")
				w.canReach(a, b)
				w.cannotReach(a, c)
				h.awaitProblemOf("IPv6 chains of "+table, "not in force for this family")
				if err := h.wait(c, w.opening(), recovery); err != nil {
					t.Error(err)
				}
				w.canReach(a, c)
				h.expectLittleWork(idle, a, b)
				allow()
				h.awaitNoProblems()
			})
		})
	}
}

// TestWhatIsNotFilteredIsNotRouted has IPv6's filter table refuse everything for a while.
func TestWhatIsNotFilteredIsNotRouted(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.network("net1")
		refuse, allow := h.refuseTable("filter")
		h.startInSync()
		a := h.container("aaaa", "net1", "192.168.0.1")
		b := h.container("bbbb", "net1", "192.168.0.2")
		refuse()
		only4 := h.attach("dddd", "net1", "192.168.0.4")
		only4.value.IPv6Nets = nil
		if err := h.wait(only4, w.put(only4.key, only4.value), patience); err != nil {
			t.Errorf("an endpoint with IPv4 alone: %v", err)
		}
		both := h.attach("eeee", "net1", "192.168.0.5")
		rev := w.put(both.key, both.value)
		h.refuses(both, rev, codes.DeadlineExceeded, "IPv6 chains of filter")
		h.awaitProblemOf("IPv6 chains of filter", "no new routes")
		nettest.Eventually(t, patience, func() error { return h.ready(false) })
		if _, err := a.Ping(both.addr, answer); err != nil {
			t.Errorf("IPv4 of it: %v", err)
		}
		if got := h.Run("ip", "-6", "route"); strings.Contains(got, both.addr6.String()) || !strings.Contains(got, b.addr6.String()) {
			t.Errorf("IPv6 routes are %s", got)
		}
		w.canReach(a, b)
		allow()
		start := time.Now()
		if err := h.wait(both, rev, patience); err != nil {
			t.Error(err)
		}
		t.Logf("in force %v after the table can be written", time.Since(start))
		w.canReach(a, both)
		h.awaitNoProblems()
		if err := h.ready(true); err != nil {
			t.Error(err)
		}
	})
}

// TestAChangeDoesNotWaitForATableThatFailedOften has a table of IPv6 refuse everything until felix
// tries it rarely, and mends it without a word.
func TestAChangeDoesNotWaitForATableThatFailedOften(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	w.network("net2")
	refuse, allow := h.refuseTable("filter")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	c := h.container("cccc", "net2", "192.168.0.3")
	refuse()
	w.opening()
	// The tries are 0.5, 1, 2, 4 and 8 s apart, and a little more.
	<-time.After(11 * time.Second)
	allow()
	start := time.Now()
	if err := h.wait(c, w.denying("other", "net1"), patience); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("in force %v after the change", took)
	}
	w.canReach(a, c)
}

// withoutRPFilter has the kernel refuse rules with the match rpfilter of a table of IPv4, by
// another match in its place that cannot stand there.
func (h *host) withoutRPFilter() (calls func() int) {
	h.w.Helper()
	program, err := exec.LookPath("iptables-" + h.variant + "-restore")
	if err != nil {
		h.w.Fatal(err)
	}
	return h.shimRestore(fmt.Sprintf(`case $0 in *ip6tables*) ;; *) sed 's/-m rpfilter --validmark --invert/-m realm --realm 1/' | %s "$@"; exit $?;; esac`, program))
}

// TestAColdStartNeverCutsOffTheHost has the kernel refuse a chain of the frame, which sends
// felix looking for the one at fault among many, while another host talks to this one. felix is
// killed in the middle of it once.
func TestAColdStartNeverCutsOffTheHost(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		peer := w.net.AddHost(nettest.HostSpec{Name: "peer", Addrs: []netip.Prefix{netip.MustParsePrefix("172.28.8.200/24")}})
		w.network("net1")
		w.manyPolicies(100)
		a := h.attach("aaaa", "net1", "192.168.0.1")
		w.put(a.key, a.value)
		h.ServeUDP(udpPort)
		probes := startProbing(t, peer.Space, netip.AddrPortFrom(h.Addr(false), udpPort))
		expectAnswers := func(when string) {
			t.Helper()
			probes.awaitMore(100)
			sent := probes.sent.Load()
			nettest.Eventually(t, time.Second, func() error {
				if n := probes.answered.Load(); n < sent {
					return fmt.Errorf("%s: %d of %d packets to the host were answered", when, n, sent)
				}
				return nil
			})
		}
		calls := h.withoutRPFilter()
		expectAnswers("before the start")
		h.start("LOGSEVERITYSCREEN=WARNING")
		nettest.Eventually(t, patience, func() error {
			if n := calls(); n < 3 {
				return fmt.Errorf("iptables-restore was called %d times", n)
			}
			return nil
		})
		h.felix.Kill()
		expectAnswers("killed in the middle")
		h.startInSync("LOGSEVERITYSCREEN=WARNING")
		expectAnswers("after the start")
		h.awaitProblemOf("IPv4 chains of raw: cali-PREROUTING", "")
		h.refuses(a, 0, codes.DeadlineExceeded, "cali-PREROUTING") // its sources are not checked
		if _, err := a.Ping(h.Addr(false), noAnswer); err == nil {
			t.Error("a packet of a container whose source is not checked passes")
		}
		if err := peer.TCP(netip.AddrPortFrom(h.Addr(false), tcpPort), noAnswer); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the host answers a connection to a closed port with %v", err)
		}
	})
}

// TestAHookThatChangesPlacesIsBackWithinASecond does what Docker does when it puts its own rule
// first again, after which a legacy table has as many and as large rules as before.
func TestAHookThatChangesPlacesIsBackWithinASecond(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.network("net1")
		ipt := "iptables-" + variant
		h.Run(ipt, "-w", "-N", "DOCKER-USER")
		h.Run(ipt, "-w", "-A", "FORWARD", "-j", "DOCKER-USER")
		h.startInSync()
		h.container("aaaa", "net1", "192.168.0.1")
		for range 3 {
			h.Run("sh", "-c", fmt.Sprintf("%[1]s -w -D FORWARD -j DOCKER-USER; %[1]s -w -I FORWARD -j DOCKER-USER", ipt))
			start := time.Now()
			nettest.Eventually(t, patience, func() error {
				list := strings.Split(h.Run(ipt, "-w", "-S", "FORWARD"), "\n")
				if len(list) < 2 || !strings.Contains(list[1], "cali-FORWARD") {
					return fmt.Errorf("FORWARD is %q", list)
				}
				return nil
			})
			if took := time.Since(start); took > time.Second {
				t.Errorf("the repair took %v", took)
			}
		}
	})
}

// flushed is how long forbidden packets may pass after another program flushed the rules.
const flushed = 250 * time.Millisecond

// TestAFlushOpensForMillisecondsOnly has another program flush all rules in nf_tables, where
// the kernel tells of it.
func TestAFlushOpensForMillisecondsOnly(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	w.network("net2")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	c := h.container("cccc", "net2", "192.168.0.3")
	late := 0
	for range revocations {
		v := a.fire(t, netip.AddrPortFrom(c.addr, udpPort))
		<-time.After(volleyBefore)
		h.Run("nft", "flush", "ruleset")
		<-time.After(2 * flushed)
		var took time.Duration
		sent, answered := v.end(t)
		if first := slices.Index(answered, true); first >= 0 {
			last := len(answered) - 1
			for !answered[last] {
				last--
			}
			took = sent[last].Sub(sent[first])
		}
		t.Logf("forbidden packets passed for %v", took)
		if took > flushed {
			late++
		}
	}
	if late > 1 {
		t.Errorf("%d of %d times forbidden packets passed for more than %v after a flush", late, revocations, flushed)
	}
}
