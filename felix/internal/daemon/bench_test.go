package daemon_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
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

// untilPasses returns how long it takes until a packet passes; or until none does any
// more, which takes several to be sure.
func untilPasses(b *testing.B, from, to *endpoint, passes bool) time.Duration {
	b.Helper()
	const (
		probe = 5 * time.Millisecond
		sure  = 10
	)
	start := time.Now()
	var first time.Duration
	for n := 0; time.Since(start) < patience; {
		sent := time.Since(start)
		passed := from.UDP(netip.AddrPortFrom(to.addr, udpPort), probe) == nil
		switch {
		case passed && passes:
			return sent
		case passed:
			n = 0
		case !passes:
			if n++; n == 1 {
				first = sent
			}
			if n == sure {
				return first
			}
		}
	}
	b.Fatal("nothing changed")
	return 0
}

func report(b *testing.B, name string, times []time.Duration) {
	b.Helper()
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, name+"-p50-ms")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, name+"-p99-ms")
}

// BenchmarkPolicyWriteToVerdict measures from the write of a policy to the packet whose
// verdict changes. Beside it stands the floor: one iptables-restore of the same size.
func BenchmarkPolicyWriteToVerdict(b *testing.B) {
	for _, variant := range []string{iptables.Legacy, iptables.NFT} {
		for _, rules := range []int{0, 1000, 10000} {
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
					w.opening()
					opened = append(opened, untilPasses(b, a, c, true))
					w.closing()
					closed = append(closed, untilPasses(b, a, c, false))
				}
				report(b, "open", opened)
				report(b, "close", closed)
				b.ReportMetric(float64(h.restoreFloor().Microseconds())/1000, "restore-ms")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// restoreFloor is what it takes iptables-restore to add one chain with a rule.
func (h *host) restoreFloor() time.Duration {
	h.w.Helper()
	var times []time.Duration
	for i := range 11 {
		script := fmt.Sprintf("printf '*filter\\n:floor%d - -\\n-A floor%d -j RETURN\\nCOMMIT\\n' | iptables-%s-restore --noflush --wait 5", i, i, h.variant)
		start := time.Now()
		h.Run("sh", "-c", script)
		times = append(times, time.Since(start))
	}
	for i := range 11 {
		h.Run("iptables-"+h.variant, "-w", "-F", fmt.Sprintf("floor%d", i))
		h.Run("iptables-"+h.variant, "-w", "-X", fmt.Sprintf("floor%d", i))
	}
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
	label := func(value string) {
		next := *a.value
		next.Labels = map[string]string{"role": value}
		w.put(a.key, &next)
	}
	for b.Loop() {
		label("x")
		opened = append(opened, untilPasses(b, a, c, true))
		label("y")
		closed = append(closed, untilPasses(b, a, c, false))
	}
	report(b, "open", opened)
	report(b, "close", closed)
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

// BenchmarkStart measures felix's start, and restart, to policy in force, with 250 local
// and 2,000 remote endpoints and 200 policies, and its memory after it.
func BenchmarkStart(b *testing.B) {
	for _, variant := range []string{iptables.Legacy, iptables.NFT} {
		b.Run(variant, func(b *testing.B) {
			w := newWorld(b, nil)
			h := w.addHost(0, variant)
			for i := range 20 {
				w.network(fmt.Sprintf("net%d", i))
			}
			for i := range 200 {
				w.put(model.NewPolicyKey("", fmt.Sprintf("p%03d", i)), &model.Policy{
					Selector: fmt.Sprintf("role == 'r%d'", i%25),
					InboundRules: []model.Rule{
						{Action: model.ActionAllow, Protocol: "tcp", Source: model.Match{Selector: fmt.Sprintf("role == 'r%d'", (i+1)%25)}, Destination: model.Match{Ports: []model.Port{{First: 80, Last: 80}}}},
						{Action: model.ActionAllow, Source: model.Match{Nets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}},
					},
					OutboundRules: []model.Rule{{Action: model.ActionAllow}},
				})
			}
			for i := range 2250 {
				node := "remote"
				if i < 250 {
					node = h.Name
					h.Run("ip", "link", "add", fmt.Sprintf("cali%03d", i), "type", "veth", "peer", "name", fmt.Sprintf("p%03d", i))
					h.Run("ip", "link", "set", fmt.Sprintf("cali%03d", i), "up")
				}
				w.put(model.WorkloadEndpointKey{Node: node, Orchestrator: "o", Workload: "w", Name: fmt.Sprint(i)}, &model.WorkloadEndpoint{
					State: "active", Interface: fmt.Sprintf("cali%03d", i), MAC: nettest.ContainerMAC, Profiles: []string{fmt.Sprintf("net%d", i%20)},
					Labels:   map[string]string{"role": fmt.Sprintf("r%d", i%25)},
					IPv4Nets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i / 256), byte(i)}), 32)},
				})
			}
			var first, again []time.Duration
			measure := func() time.Duration {
				start := time.Now()
				h.startInSync("LOGSEVERITYSCREEN=WARNING")
				return time.Since(start)
			}
			for b.Loop() {
				first = append(first, measure())
				h.felix.Kill()
				again = append(again, measure())
				b.ReportMetric(residentMB(b, h.felix.Process.Pid), "rss-MB")
				b.ReportMetric(float64(len(strings.Split(h.dump(), "\n"))), "lines")
				h.felix.Kill()
				if out, err := h.command("cleanup").CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
			}
			report(b, "start", first)
			report(b, "restart", again)
			b.ReportMetric(0, "ns/op")
		})
	}
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
