package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// recovery is how long felix may take to have all in force once etcd is back.
const recovery = 2 * time.Second

// allow writes a policy that lets one network reach another, and returns the revision.
func (w *world) allow(policy, from, to string) int64 {
	w.Helper()
	return w.put(model.NewPolicyKey("", policy), &model.Policy{
		Selector: "has(" + to + ")", Types: []string{model.PolicyTypeIngress},
		InboundRules: []model.Rule{{Action: model.ActionAllow, Source: model.Match{Selector: "has(" + from + ")"}}},
	})
}

// awaitDisconnected waits until felix says that etcd does not answer.
func (h *host) awaitDisconnected() {
	h.w.Helper()
	nettest.Eventually(h.w, patience, func() error {
		st, err := h.status()
		if err == nil && st.GetDatastoreConnected() {
			err = errors.New("felix has not noticed that etcd does not answer")
		}
		return err
	})
}

// recordRestores keeps what felix feeds to iptables-restore from its next start on. The
// function that it returns tells what that was since it was last called.
func (h *host) recordRestores() (taken func() string) {
	h.w.Helper()
	dir := h.w.TempDir()
	h.shimRestore("in=$(mktemp " + dir + "/XXXXXX); cat > $in; exec < $in")
	return func() string {
		h.w.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			h.w.Fatal(err)
		}
		var all strings.Builder
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err = errors.Join(err, os.Remove(f)); err != nil {
				h.w.Fatal(err)
			}
			all.Write(text)
		}
		return all.String()
	}
}

// changes tells how many objects felix says to have written to, and removed from, a table
// of the kernel since it started.
func (h *host) changes(table string) (set, deleted int) {
	h.w.Helper()
	value := func(change string) int {
		return h.metric(fmt.Sprintf("felix_kernel_changes_total{change=%q,table=%q} ", change, table))
	}
	return value("set"), value("deleted")
}

// metric is a figure of felix, given with its labels.
func (h *host) metric(name string) int {
	h.w.Helper()
	var conn net.Conn
	var err error
	h.Do(func() { conn, err = net.DialTimeout("tcp", "127.0.0.1:9091", answer) })
	if err != nil {
		h.w.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // it was read
	if _, err := io.WriteString(conn, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
		h.w.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		h.w.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, found := strings.CutPrefix(line, name); found {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				h.w.Fatal(err)
			}
			return n
		}
	}
	h.w.Fatalf("no %s in\n%s", name, text)
	return 0
}

// foreignChains lists the chains in input of iptables-restore that none of the given
// names is part of.
func foreignChains(input string, names ...string) (others []string) {
lines:
	for line := range strings.Lines(input) {
		if line = strings.TrimSpace(line); line == "COMMIT" || strings.HasPrefix(line, "*") {
			continue
		}
		for _, n := range names {
			if strings.Contains(line, n) {
				continue lines
			}
		}
		others = append(others, line)
	}
	return others
}

// TestAfterACompactionOnlyWhatChangedIsWritten cuts felix off while policies are added,
// edited and deleted, and has etcd forget how that came about.
func TestAfterACompactionOnlyWhatChangedIsWritten(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	for _, n := range []string{"net1", "net2", "net3", "net4", "net5"} {
		w.network(n)
	}
	w.allow("deleted", "net1", "net3")
	w.allow("edited", "net1", "net4")
	w.allow("kept", "net1", "net5")
	restores := h.recordRestores()
	h.startInSync("PROMETHEUSMETRICSENABLED=true", "PROMETHEUSMETRICSHOST=127.0.0.1")
	a := h.container("aaaa", "net1", "192.168.0.1")
	added := h.container("cccc", "net2", "192.168.0.2")
	deleted := h.container("dddd", "net3", "192.168.0.3")
	edited := h.container("eeee", "net4", "192.168.0.4")
	kept := h.container("ffff", "net5", "192.168.0.5")

	hold := func() {
		t.Helper()
		w.cannotReach(a, added)
		w.canReach(a, deleted)
		w.canReach(a, edited)
		w.cannotReach(added, edited)
		w.canReach(a, kept)
	}
	hold()
	h.etcd.Cut()
	h.awaitDisconnected()
	w.allow("added", "net1", "net2")
	w.remove(model.NewPolicyKey("", "deleted"))
	last := w.allow("edited", "net2", "net4")
	if _, err := w.etcd.Client(t).Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	hold()
	h.expectLittleWork(idle, a, kept)

	_ = restores()
	written := h.watchWrites()
	tables := []string{"sets", "members", "settings", "neighbours"}
	before := map[string][2]int{}
	for _, table := range tables {
		set, deleted := h.changes(table)
		before[table] = [2]int{set, deleted}
	}
	if before["members"][0] == 0 {
		t.Error("felix counts no members that it wrote")
	}
	ctx, stop := context.WithCancel(t.Context())
	lost := make(chan int, 1)
	go func() { lost <- pingUntil(ctx, a, kept.addr) }()
	h.etcd.Mend()
	start := time.Now()
	if err := h.wait(added, last, recovery); err != nil {
		t.Fatal(err)
	}
	t.Logf("in force after %v", time.Since(start))
	w.canReach(a, added)
	w.cannotReach(a, deleted)
	w.cannotReach(a, edited)
	w.canReach(added, edited)
	w.canReach(a, kept)
	stop()
	if n := <-lost; n > 0 {
		t.Errorf("%d pings were lost", n)
	}
	for _, table := range tables {
		set, deleted := h.changes(table)
		if now := [2]int{set, deleted}; now != before[table] {
			t.Errorf("%s were written: set and deleted were %v and are %v", table, before[table], now)
		}
	}
	if text := written(); text != "" {
		t.Errorf("routes or addresses were written:\n%s", text)
	}
	input := restores()
	if !strings.Contains(input, "default/added") || !strings.Contains(input, "default/deleted") {
		t.Errorf("the record of iptables-restore is not complete:\n%s", input)
	}
	if others := foreignChains(input, "default/added", "default/deleted", "default/edited", "cali-tw-calicccc", "cali-tw-calidddd"); others != nil {
		t.Errorf("chains were written that had not changed: %q", others)
	}
}

// TestABlackHoleBeforeEtcdIsNoticed drops all packets between felix and etcd, without a
// word to either.
func TestABlackHoleBeforeEtcdIsNoticed(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	w.network("net2")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	c := h.container("cccc", "net2", "192.168.0.3")
	// The variant of iptables that felix does not use.
	drop := func(action string) {
		t.Helper()
		for _, port := range []string{"--dport", "--sport"} {
			h.Run("iptables-legacy", "-w", action, "INPUT", "-i", "lo", "-p", "tcp", port, "2379", "-j", "DROP")
		}
	}
	drop("-A")
	last := w.opening()
	h.awaitDisconnected()
	w.canReach(a, b)
	w.cannotReach(a, c)
	h.expectLittleWork(idle, a, b)
	h.expectRepair()
	drop("-D")
	start := time.Now()
	if err := h.wait(c, last, recovery); err != nil {
		t.Error(err)
	}
	t.Logf("in force after %v", time.Since(start))
	w.canReach(a, c)
}

// expectRepair fails the test when a chain of container bbbb that somebody empties is
// not refilled within a second.
func (h *host) expectRepair() {
	h.w.Helper()
	h.Run("iptables-"+h.variant, "-w", "-F", "cali-tw-calibbbb")
	nettest.Eventually(h.w, time.Second, func() error {
		if !strings.Contains(h.Run("iptables-"+h.variant+"-save"), "-A cali-tw-calibbbb") {
			return errors.New("the chain is not repaired")
		}
		return nil
	})
}

// TestASlowEtcdDelaysOnlyWhatItBrings has etcd's answers trickle, at 16 kB/s with loss.
func TestASlowEtcdDelaysOnlyWhatItBrings(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	w.network("net2")
	h.startInSync("LOGSEVERITYSCREEN=WARNING")
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	c := h.container("cccc", "net2", "192.168.0.3")
	speed := func(action, rate string) {
		t.Helper()
		h.Run("tc", "qdisc", action, "dev", "lo", "root", "tbf", "rate", rate, "burst", "4000", "limit", "16000")
	}
	h.Run("ip", "link", "set", "lo", "mtu", "1500")
	speed("add", "128kbit")
	w.manyPolicies(5000)
	last := w.opening()
	h.refuses(c, last, codes.DeadlineExceeded, "felix has read etcd up to revision")
	w.canReach(a, b)
	w.cannotReach(a, c)
	first := h.revision()
	const busy = 20 // policies keep coming
	h.expectLittleWork(busy, a, b)
	h.expectRepair()
	now := h.revision()
	t.Logf("felix went from revision %d to %d of %d", first, now, last)
	if now <= first || now >= last {
		t.Fatal("etcd is not slow, or felix does not follow it")
	}
	speed("change", "1gbit")
	start := time.Now()
	if err := h.wait(c, last, recovery); err != nil {
		t.Error(err)
	}
	t.Logf("in force after %v", time.Since(start))
	w.canReach(a, c)
	if !strings.Contains(h.dump(), "default/many") {
		t.Error("the policies that came slowly are not in force")
	}
}

// revision is how far felix has come.
func (h *host) revision() int64 {
	h.w.Helper()
	st, err := h.status()
	if err != nil {
		h.w.Fatal(err)
	}
	return st.GetRevision()
}
