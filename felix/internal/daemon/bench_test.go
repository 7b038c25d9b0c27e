package daemon_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/iptables"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	"calico.internal/libcalico/selector"
)

// manyPolicies writes policies for the endpoints of net2 which let nothing pass, until
// about as many rules as asked for stand in the filter table.
func (w *world) manyPolicies(rules int) {
	w.Helper()
	const perPolicy = 50
	for i := range rules / perPolicy {
		p := &model.Policy{Selector: "has(net2)", Types: []string{model.PolicyTypeIngress}}
		for j := range perPolicy / 2 {
			p.InboundRules = append(p.InboundRules, model.Rule{
				Action: model.ActionAllow, Protocol: "tcp",
				Destination: model.Match{Ports: []model.Port{{First: uint16(1 + i), Last: uint16(1 + i)}}},
				Source:      model.Match{Nets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(j), 0}), 24)}},
			})
		}
		w.put(model.NewPolicyKey("", fmt.Sprintf("many%04d", i)), p)
	}
}

func report(b *testing.B, name string, times []time.Duration) {
	b.Helper()
	slices.Sort(times)
	b.ReportMetric(milliseconds(times[len(times)/2]), name+"-p50-ms")
	b.ReportMetric(milliseconds(times[len(times)*99/100]), name+"-p99-ms")
}

// BenchmarkPolicyWriteToVerdict measures from the write of a policy to the packet whose
// verdict changes. Beside it stands the floor: the same iptables-restore without felix.
func BenchmarkPolicyWriteToVerdict(b *testing.B) {
	for _, variant := range []string{iptables.Legacy, iptables.NFT} {
		for _, rules := range []int{0, 100, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/rules=%d", variant, rules), func(b *testing.B) {
				w := newWorld(b, nil)
				h := w.addHost(0, variant)
				w.network("net1")
				w.network("net2")
				w.manyPolicies(rules)
				h.startInSync("LOGSEVERITYSCREEN=WARNING")
				a := h.container("aaaa", "net1", "192.168.0.1")
				c := h.container("cccc", "net2", "192.168.0.3")
				var opened, closed []time.Duration
				for b.Loop() {
					opened = append(opened, verdictChange(b, a, c, true, h.inForce(c, w.opening)))
					closed = append(closed, verdictChange(b, a, c, false, h.inForce(c, w.closing)))
				}
				report(b, "open", opened)
				report(b, "close", closed)
				b.ReportMetric(milliseconds(w.watchFloor(a, c)), "etcd-ms")
				opening, closing := h.restoreFloors(b, a, c)
				b.ReportMetric(milliseconds(opening), "open-restore-ms")
				b.ReportMetric(milliseconds(closing), "close-restore-ms")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// restoreFloors are how long it takes from the start of iptables-restore to the changed
// verdict, with the input by which felix opens and closes: it is recorded, and fed again
// without felix.
func (h *host) restoreFloors(b *testing.B, from, to *endpoint) (opening, closing time.Duration) {
	b.Helper()
	h.felix.Kill()
	dir := b.TempDir()
	h.shimRestore(fmt.Sprintf("case $0 in *ip6*) ;; *) cat > %[1]s/$$; exec < %[1]s/$$; mv %[1]s/$$ %[1]s/last;; esac", dir))
	h.startInSync("LOGSEVERITYSCREEN=WARNING")
	record := func(name string, write func() int64) string {
		_ = os.Remove(filepath.Join(dir, "last"))
		h.inForce(to, write)()
		path := filepath.Join(dir, name)
		nettest.Eventually(b, patience, func() error { return os.Rename(filepath.Join(dir, "last"), path) })
		return path
	}
	open, closed := record("open", h.w.opening), record("closed", h.w.closing)
	h.felix.Kill()
	h.shims = ""
	restore := func(path string) func() {
		return func() {
			input, err := os.ReadFile(path)
			if err != nil {
				b.Fatal(err)
			}
			cmd := h.Command(b.Context(), "iptables-"+h.variant+"-restore", "--noflush", "--wait", "5")
			cmd.Stdin = bytes.NewReader(input)
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	}
	var opens, closes []time.Duration
	for range 11 {
		opens = append(opens, verdictChange(b, from, to, true, restore(open)))
		closes = append(closes, verdictChange(b, from, to, false, restore(closed)))
	}
	return median(opens), median(closes)
}

// watchFloor is how long it takes from a write to etcd until a watch tells of it, on a
// host that is as busy as that of a measurement.
func (w *world) watchFloor(from, to *endpoint) time.Duration {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	client := w.etcd.Client(w)
	events := client.Watch(ctx, "/calico-bench", clientv3.WithCreatedNotify())
	<-events
	var times []time.Duration
	for range 11 {
		v := from.fire(w, netip.AddrPortFrom(to.addr, udpPort))
		<-time.After(volleyBefore)
		start := time.Now()
		if _, err := client.Put(ctx, "/calico-bench", "x"); err != nil {
			w.Fatal(err)
		}
		<-events
		times = append(times, time.Since(start))
		v.end(w)
	}
	return median(times)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}

// BenchmarkRelabel measures from the write of an endpoint's label to the packet that a
// rule's selector lets pass: one member of a set.
func BenchmarkRelabel(b *testing.B) {
	w := newWorld(b, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	w.network("net2")
	w.manyPolicies(10000)
	w.put(model.NewPolicyKey("", "label"), &model.Policy{
		Selector: "has(net2)", Types: []string{model.PolicyTypeIngress},
		InboundRules: []model.Rule{{Action: model.ActionAllow, Source: model.Match{Selector: "role == 'x'"}}},
	})
	h.startInSync("LOGSEVERITYSCREEN=WARNING")
	a := h.container("aaaa", "net1", "192.168.0.1")
	c := h.container("cccc", "net2", "192.168.0.3")
	var opened, closed []time.Duration
	label := func(value string) func() int64 {
		next := *a.value
		next.Labels = map[string]string{"role": value}
		return func() int64 { return w.put(a.key, &next) }
	}
	for b.Loop() {
		opened = append(opened, verdictChange(b, a, c, true, h.inForce(c, label("x"))))
		closed = append(closed, verdictChange(b, a, c, false, h.inForce(c, label("y"))))
	}
	b.ReportMetric(milliseconds(w.watchFloor(a, c)), "etcd-ms")
	report(b, "open", opened)
	report(b, "close", closed)
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRelabelStorm measures how long after the last of 1,000 writes, each of which
// gives an endpoint of another host a label that a rule selects, all are in force.
func BenchmarkRelabelStorm(b *testing.B) {
	const count = 1000
	w := newWorld(b, nil)
	h := w.addHost(0, iptables.NFT)
	w.labelled(h)
	var late []time.Duration
	for round := 0; b.Loop(); round++ {
		var last int64
		for i := range count {
			last = w.relabel(i, []string{"x", "y"}[round%2])
		}
		start := time.Now()
		h.awaitRevision(last)
		late = append(late, time.Since(start))
	}
	report(b, "late", late)
	b.ReportMetric(0, "ns/op")
}

// BenchmarkEndpoint measures from the write of an endpoint to the answer of WaitEndpoint.
func BenchmarkEndpoint(b *testing.B) {
	for _, variant := range []string{iptables.Legacy, iptables.NFT} {
		for _, rules := range []int{0, 10000} {
			b.Run(fmt.Sprintf("%s/rules=%d", variant, rules), func(b *testing.B) {
				w := newWorld(b, nil)
				h := w.addHost(0, variant)
				w.network("net1")
				w.network("net2")
				w.manyPolicies(rules)
				h.startInSync("LOGSEVERITYSCREEN=WARNING")
				h.container("cccc", "net2", "192.168.0.3")
				e := h.attach("aaaa", "net1", "192.168.0.1")
				var added []time.Duration
				for b.Loop() {
					start := time.Now()
					rev := w.put(e.key, e.value)
					if err := h.wait(e, rev, patience); err != nil {
						b.Fatal(err)
					}
					added = append(added, time.Since(start))
					w.remove(e.key)
					nettest.Eventually(b, patience, func() error {
						if strings.Contains(h.Run("ip", "route"), "192.168.0.1") {
							return fmt.Errorf("still there")
						}
						return nil
					})
				}
				report(b, "in-force", added)
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkStart measures felix's start, and restart, to policy in force, and its memory
// after it.
func BenchmarkStart(b *testing.B) {
	for _, variant := range []string{iptables.Legacy, iptables.NFT} {
		for _, size := range []struct{ local, remote, policies, rulesEach int }{{250, 2000, 200, 2}, {250, 10000, 200, 50}} {
			name := fmt.Sprintf("%s/local=%d,remote=%d,rules=%d", variant, size.local, size.remote, size.policies*size.rulesEach)
			b.Run(name, func(b *testing.B) {
				w := newWorld(b, nil)
				h := w.addHost(0, variant)
				h.fill(size.local, size.remote, size.policies, size.rulesEach)
				h.measureStarts(b)
			})
		}
	}
}

// fill writes endpoints and policies. The local ones have interfaces without containers.
func (h *host) fill(local, remote, policies, rulesEach int) {
	h.w.Helper()
	const roles, networks = 25, 20
	for i := range networks {
		h.w.network(fmt.Sprintf("net%d", i))
	}
	for i := range policies {
		p := &model.Policy{
			Selector:      fmt.Sprintf("role == 'r%d'", i%roles),
			OutboundRules: []model.Rule{{Action: model.ActionAllow}},
		}
		for j := range rulesEach {
			r := model.Rule{Action: model.ActionAllow, Protocol: "tcp", Destination: model.Match{Ports: []model.Port{{First: uint16(80 + j), Last: uint16(80 + j)}}}}
			if j%2 == 0 {
				r.Source.Selector = fmt.Sprintf("role == 'r%d'", (i+1)%roles)
			} else {
				r.Source.Nets = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(j), 0, 0}), 16)}
			}
			p.InboundRules = append(p.InboundRules, r)
		}
		h.w.put(model.NewPolicyKey("", fmt.Sprintf("p%03d", i)), p)
	}
	for i := range local + remote {
		node := "remote"
		iface := fmt.Sprintf("cali%05d", i)
		if i < local {
			node = h.Name
			h.Run("ip", "link", "add", iface, "type", "veth", "peer", "name", fmt.Sprintf("p%05d", i))
			h.Run("ip", "link", "set", iface, "up")
		}
		h.w.put(model.WorkloadEndpointKey{Node: node, Orchestrator: "o", Workload: "w", Name: fmt.Sprint(i)}, &model.WorkloadEndpoint{
			State: "active", Interface: iface, MAC: nettest.ContainerMAC, Profiles: []string{fmt.Sprintf("net%d", i%networks)},
			Labels:   map[string]string{"role": fmt.Sprintf("r%d", i%roles)},
			IPv4Nets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i / 256), byte(i)}), 32)},
		})
	}
}

func (h *host) measureStarts(b *testing.B) {
	b.Helper()
	start := func() time.Duration {
		began := time.Now()
		h.startInSync("LOGSEVERITYSCREEN=WARNING")
		return time.Since(began)
	}
	var first, again []time.Duration
	for b.Loop() {
		first = append(first, start())
		h.felix.Kill()
		again = append(again, start())
		<-time.After(2 * time.Second)
		b.ReportMetric(residentMB(b, h.felix.Process.Pid), "rss-MB")
		b.ReportMetric(float64(strings.Count(h.dump(), "\n")), "lines")
		h.felix.Kill()
		if out, err := h.command("cleanup").CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	report(b, "start", first)
	report(b, "restart", again)
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRelabelsForAMinute changes the label of an endpoint of another host 50 times a
// second for a minute, and measures each until the kernel's set is as it must be, and
// felix's share of a core.
func BenchmarkRelabelsForAMinute(b *testing.B) {
	const rate, count = 50, 3000
	w := newWorld(b, nil)
	h := w.addHost(0, iptables.NFT)
	w.labelled(h)
	kernel := h.watchRole(b)
	var times []time.Duration
	for b.Loop() {
		before, began := h.runTime(b), time.Now()
		tick := time.NewTicker(time.Second / rate)
		for i := range count {
			<-tick.C
			start := time.Now()
			role := []string{"x", "y"}[i/1000%2]
			w.relabel(i%1000, role)
			kernel(i%1000, role == "x")
			times = append(times, time.Since(start))
		}
		tick.Stop()
		b.ReportMetric(100*(h.runTime(b)-before).Seconds()/time.Since(began).Seconds(), "%-of-a-core")
	}
	report(b, "in-force", times)
	b.ReportMetric(0, "ns/op")
}

// watchRole gives a function that returns once the set of the addresses with role x has an
// endpoint's address, or has it no more.
func (h *host) watchRole(b *testing.B) func(i int, member bool) {
	b.Helper()
	sel, err := selector.Parse("role == 'x'")
	if err != nil {
		b.Fatal(err)
	}
	set := rules.SetName(rules.V4, desired.SetID(sel.ID()))
	var handle *netlink.Handle
	h.Do(func() { handle, err = netlink.NewHandle(unix.NETLINK_NETFILTER) })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(handle.Close)
	return func(i int, member bool) {
		pace := time.NewTicker(50 * time.Microsecond)
		defer pace.Stop()
		entry := &netlink.IPSetEntry{IP: remoteAddr(i).AsSlice(), CIDR: 32}
		for deadline := time.Now().Add(patience); ; <-pace.C {
			is, err := handle.IpsetTest(set, entry)
			if err == nil && is == member {
				return
			}
			if time.Now().After(deadline) {
				b.Fatalf("set %s: %s is a member: %v, %v", set, remoteAddr(i), is, err)
			}
		}
	}
}

// remoteAddr is the address of a remote endpoint.
func remoteAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(i / 256), byte(i)}) }

// runTime is the time that felix's threads ran, by the scheduler's count: the times of
// /proc/<pid>/stat are counted in ticks where the kernel is built so, which says little
// of a process that runs for microseconds.
func (h *host) runTime(b *testing.B) (sum time.Duration) {
	b.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", h.felix.Process.Pid))
	if err != nil || len(threads) == 0 {
		b.Fatalf("felix has no threads: %v", err)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		ran, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(n)
	}
	return sum
}

// labelled makes a container whose policy lets endpoints with a label pass.
func (w *world) labelled(h *host) *endpoint {
	w.Helper()
	w.network("net2")
	w.put(model.NewPolicyKey("", "label"), &model.Policy{
		Selector: "has(net2)", Types: []string{model.PolicyTypeIngress},
		InboundRules: []model.Rule{{Action: model.ActionAllow, Source: model.Match{Selector: "role == 'x'"}}},
	})
	h.startInSync("LOGSEVERITYSCREEN=WARNING")
	return h.container("cccc", "net2", "192.168.0.3")
}

// relabel gives a remote endpoint a role.
func (w *world) relabel(i int, role string) int64 {
	w.Helper()
	return w.put(model.WorkloadEndpointKey{Node: "remote", Orchestrator: "o", Workload: "w", Name: strconv.Itoa(i)}, &model.WorkloadEndpoint{
		State: "active", Interface: "calix", Labels: map[string]string{"role": role},
		IPv4Nets: []netip.Prefix{netip.PrefixFrom(remoteAddr(i), 32)},
	})
}

// awaitRevision asks felix until the state of a revision is in the kernel.
func (h *host) awaitRevision(rev int64) {
	h.w.Helper()
	for deadline := time.Now().Add(patience); ; {
		st, err := h.status()
		if err == nil && st.GetRevision() >= rev {
			return
		}
		if time.Now().After(deadline) {
			h.w.Fatalf("revision %d is not in force: %v, %v", rev, st, err)
		}
	}
}

// BenchmarkMemory creates and deletes 100,000 endpoints of this host, 500 at a time, and
// shows the memory after the first and after the last tenth.
func BenchmarkMemory(b *testing.B) {
	const cycles, atOnce = 100_000, 500
	w := newWorld(b, nil)
	h := w.addHost(0, iptables.Legacy)
	w.network("net1")
	h.startInSync("LOGSEVERITYSCREEN=WARNING")
	write := func(n int, gone bool) (rev int64) {
		var writes []etcdstore.Write
		for i := range atOnce {
			k := model.WorkloadEndpointKey{Node: h.Name, Orchestrator: "o", Workload: "w", Name: fmt.Sprint(n*atOnce + i)}
			step, err := etcdstore.PutWrite(k, &model.WorkloadEndpoint{
				State: "active", Interface: fmt.Sprintf("cali%d", n*atOnce+i), Profiles: []string{"net1"},
				IPv4Nets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), byte(i / 256), byte(i)}), 32)},
			})
			if gone {
				step, err = etcdstore.DeleteWrite(k, 0)
			}
			if err != nil {
				b.Fatal(err)
			}
			if writes = append(writes, step); len(writes) < 100 {
				continue
			}
			if rev, err = w.store.Commit(b.Context(), writes...); err != nil {
				b.Fatal(err)
			}
			writes = nil
		}
		return rev
	}
	for b.Loop() {
		for n := range cycles / atOnce {
			h.awaitRevision(write(n, false))
			h.awaitRevision(write(n, true))
			if n == cycles/atOnce/10 {
				b.ReportMetric(residentMB(b, h.felix.Process.Pid), "rss-MB-at-10%")
			}
		}
		b.ReportMetric(residentMB(b, h.felix.Process.Pid), "rss-MB-at-100%")
	}
	b.ReportMetric(0, "ns/op")
}

func residentMB(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "VmRSS:"); found {
			kb, _ := strconv.Atoi(strings.Fields(value)[0])
			return float64(kb) / 1024
		}
	}
	return 0
}

// BenchmarkIdle measures felix's share of a core while nothing happens.
func BenchmarkIdle(b *testing.B) {
	const local, remote, policies, rulesEach, span = 250, 2000, 200, 2, 30 * time.Second
	for _, variant := range []string{iptables.Legacy, iptables.NFT} {
		b.Run(variant, func(b *testing.B) {
			w := newWorld(b, nil)
			h := w.addHost(0, variant)
			h.fill(local, remote, policies, rulesEach)
			h.startInSync("LOGSEVERITYSCREEN=WARNING")
			<-time.After(3 * time.Second)
			for b.Loop() {
				before := h.runTime(b)
				<-time.After(span)
				b.ReportMetric(100*(h.runTime(b)-before).Seconds()/span.Seconds(), "%-of-a-core")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
