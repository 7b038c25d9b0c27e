package rules

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden renders whole rule sets for review. What they mean is checked by the tracer
// tests; these files show what they look like, and make every change of it visible.
func TestGolden(t *testing.T) {
	tests := []struct {
		name   string
		family Family
		build  func(w *world)
	}{
		{"frame-v4", V4, func(*world) {}},
		{"frame-v6", V6, func(*world) {}},
		{"frame-return", V4, func(w *world) {
			w.cfg.FilterAllow, w.cfg.MangleAllow, w.cfg.FilterDeny, w.cfg.EndpointToHost = Return, Return, Reject, Return
			w.cfg.HookPosition = Last
			w.cfg.NoInvalidCheck = true
			w.cfg.WorkloadPrefixes = []string{"cali", "tap"}
			w.endpoint("tap0")
		}},
		{"endpoints", V4, goldenEndpoints},
		{"hostendpoints", V4, goldenHosts},
		{"rules-v4", V4, goldenRules},
		{"rules-v6", V6, goldenRules},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.build(w)
			tr := w.tracer(tt.family)
			var b strings.Builder
			for _, h := range tr.hooks {
				where := "first"
				if h.Position == Last {
					where = "last"
				}
				if h.IfExists {
					where += ", if it exists"
				}
				fmt.Fprintf(&b, "hook %s %s (%s)\n  %s\n", h.Table, h.Name, where, h.Rule)
			}
			r, _ := NewRenderer(w.cfg)
			static := map[ChainID]bool{}
			for _, c := range r.Static(tt.family) {
				static[c.ChainID] = true
			}
			tk := NewTracker(r, tt.family)
			for _, c := range append(tk.Apply(w.changes).Set, r.OfBridges([]string{"docker0", "docker_gwbridge", "br-0123456789ab"})...) {
				if slices.Contains([]string{chainForwardWorkload, chainDNSIn, chainDNSOut}, c.Name) && !strings.HasPrefix(tt.name, "frame") {
					continue
				}
				if static[c.ChainID] && !strings.Contains(c.Name, "host-endpoint") && !strings.Contains(c.Name, "hep-forward") && !strings.HasPrefix(tt.name, "frame") {
					continue
				}
				fmt.Fprintf(&b, "%s %s\n", c.Table, c.Name)
				for _, rule := range c.Rules {
					fmt.Fprintf(&b, "  %s\n", rule)
				}
			}
			checkGolden(t, tt.name, b.String())
		})
	}
}

func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("..", "..", "testdata", "rules", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("differs from %s (-want +got):\n%s\nrun with -update if this is right", path, diff)
	}
}

func goldenEndpoints(w *world) {
	w.profile("net1",
		[]desired.Rule{{Action: desired.Allow, Source: desired.Match{Sets: []desired.SetID{"s:net1"}}}},
		[]desired.Rule{{Action: desired.Allow}})
	web := w.policy("default", "web", desired.Rule{Action: desired.Allow, Protocol: desired.TCP, Destination: desired.Match{Ports: ports(80, 443)}})
	log := w.policy("default", "log", desired.Rule{Action: desired.Log, LogPrefix: "seen"})
	guard := w.policy("guard", "baseline", desired.Rule{Action: desired.Pass}, desired.Rule{Action: desired.Deny})
	w.endpoint("cali0123456789a", "net1")
	w.endpoint("cali0f23456789a", "net1").Tiers = []desired.Tier{tier("guard", guard), tier("default", web, log)}
	w.endpoint("cali7777777777a", "net1").Tiers = []desired.Tier{{Name: "default", Ingress: []model.PolicyKey{web}}}
	w.endpoint("cali9999999999a", "net1").Up = false
}

func goldenHosts(w *world) {
	w.cfg.FailsafeInbound = []FailsafePort{{Protocol: desired.TCP, Port: 22}, {Protocol: desired.TCP, Port: 179, Net: netip.MustParsePrefix("172.28.8.0/24")}}
	w.cfg.FailsafeOutbound = []FailsafePort{{Protocol: desired.UDP, Port: 53}}
	w.profile("hosts", allowAll(), allowAll())
	w.host("eth0", "hosts").Tiers = []desired.Tier{tier("default", w.policy("default", "normal", allow()))}
	e := w.host("eth1")
	e.Forward = []desired.Tier{tier("default", w.policy("default", "forward", allow()))}
	e.PreDNAT = []desired.Tier{w.staged(desired.PreDNAT, "pre", allow(), desired.Rule{Action: desired.Deny})}
	w.host("*").Untracked = []desired.Tier{w.staged(desired.Untracked, "raw", allow(), desired.Rule{Action: desired.Deny})}
}

func goldenRules(w *world) {
	var list []desired.Rule
	add := func(change func(r *desired.Rule)) {
		r := desired.Rule{Action: desired.Allow}
		change(&r)
		list = append(list, r)
	}
	both := func(v4, v6 string) []netip.Prefix { return nets(v4, v6) }
	add(func(*desired.Rule) {})
	add(func(r *desired.Rule) { r.Action = desired.Deny })
	add(func(r *desired.Rule) { r.Action = desired.Pass })
	add(func(r *desired.Rule) { r.Action = desired.Log })
	add(func(r *desired.Rule) { r.Action, r.LogPrefix = desired.Log, strings.Repeat("long", 20) })
	add(func(r *desired.Rule) { r.IPVersion = 4 })
	add(func(r *desired.Rule) { r.IPVersion = 6 })
	add(func(r *desired.Rule) { r.NotProtocol = 89 })
	add(func(r *desired.Rule) {
		r.Protocol = desired.ICMPv4
		r.ICMP = &desired.ICMP{Type: 3, Code: new(uint8(4))}
		r.NotICMP = &desired.ICMP{Type: 8}
	})
	add(func(r *desired.Rule) { r.Protocol, r.ICMP = desired.ICMPv6, &desired.ICMP{Type: 128} })
	add(func(r *desired.Rule) {
		r.Source.Nets, r.Destination.NotNets = both("10.0.0.0/8", "fd00::/8"), both("10.1.0.0/16", "fd01::/16")
	})
	add(func(r *desired.Rule) { r.Source.Nets = nets("10.0.0.0/8") })
	add(func(r *desired.Rule) {
		r.Source.Nets = nets("10.0.0.0/8", "172.16.0.0/12", "fd00::/8", "fc00::/8")
		r.Destination.Nets = nets("192.0.2.0/24", "198.51.100.0/24", "2001:db8:1::/48", "2001:db8:2::/48")
		r.Source.NotNets = nets("10.1.0.0/16", "fd01::/16")
	})
	add(func(r *desired.Rule) {
		r.Source.Sets, r.Source.NotSets = []desired.SetID{"s:frontend"}, []desired.SetID{"s:debug", "s:old"}
	})
	add(func(r *desired.Rule) {
		r.Protocol, r.Source.Ports, r.Destination.NotPorts = desired.UDP, ports(53), ports(67, 68)
	})
	add(func(r *desired.Rule) { r.Protocol, r.Destination.Ports = desired.TCP, manyPorts(8000, 14) })
	add(func(r *desired.Rule) {
		r.Protocol, r.Destination.Ports, r.Destination.NamedPorts = desired.TCP, ports(80), []desired.SetID{"n:tcp:http"}
		r.Destination.NotNamedPorts = []desired.SetID{"n:tcp:admin"}
	})
	w.policy("default", "rules", list...)
}
