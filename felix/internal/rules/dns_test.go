package rules

import (
	"testing"

	"calico.internal/felix/internal/desired"
)

// TestNamesOfTheGateway walks questions and answers through the rules of a host that closes
// all else: of endpoints without policy, and of a host endpoint for all interfaces.
func TestNamesOfTheGateway(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*world){
		"as it comes":        func(*world) {},
		"with RETURN":        func(w *world) { w.cfg.FilterAllow, w.cfg.MangleAllow, w.cfg.EndpointToHost = Return, Return, Return },
		"appended":           func(w *world) { w.cfg.HookPosition = Last },
		"with untracked all": func(w *world) { w.host("eth0").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", allow())} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.endpoint("cali1")
			w.host("*")
			w.bridges = []string{"br-0123456789ab"}
			change(w)
			for _, f := range []struct{ gateway, second, asker, other string }{
				{"169.254.1.1", "169.254.1.2", "10.0.0.1", "172.28.8.100"}, {"fe80::a9fe:101", "fe80::a9fe:102", "fd00::1", "fd28::100"},
			} {
				for _, proto := range []desired.Protocol{desired.UDP, desired.TCP} {
					for _, conn := range []ConnState{New, UntrackedState} {
						for iface, want := range map[string]Verb{
							"cali1": Accept, "cali9": Accept, "docker0": Accept, "br-0123456789ab": Accept, "br-lan": Drop, "eth0": Drop, "eth7": Drop, "lo": Accept,
						} {
							for _, to := range []string{f.gateway, f.second} {
								question := packet{in: iface, src: f.asker, dst: to, proto: proto, sport: 40000, dport: 53, conn: conn}
								if got := w.send(question); got.verdict != want {
									t.Errorf("question by %s to %s, protocol %s, state %d: %v by %q", iface, to, proto, conn, got.verdict, got.by)
								}
							}
							if iface == "lo" || want == Drop {
								continue
							}
							answer := packet{out: iface, src: f.gateway, dst: f.asker, proto: proto, sport: 53, dport: 40000, conn: conn}
							if got := w.send(answer); got.verdict != Accept {
								t.Errorf("answer by %s, protocol %s, state %d: %v by %q", iface, proto, conn, got.verdict, got.by)
							}
						}
					}
					for _, p := range []packet{
						{in: "cali1", dst: f.other, dport: 53},
						{in: "cali1", dst: f.gateway, dport: 54},
						{in: "cali1", out: "eth0", dst: f.gateway, dport: 53},
						{in: "docker0", dst: f.other, dport: 53},
						{in: "docker0", dst: f.gateway, dport: 54},
					} {
						p.src, p.proto, p.sport = f.asker, proto, 40000
						if got := w.send(p); got.verdict != Drop {
							t.Errorf("%+v: %v by %q", p, got.verdict, got.by)
						}
					}
				}
			}
		})
	}
}

// TestNamesWhereWorkloadsAreClosedOff: what closes workloads off in the place of their rules lets
// them ask too, unless names are not let in.
func TestNamesWhereWorkloadsAreClosedOff(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{true, false} {
		cfg := DefaultConfig()
		cfg.WorkloadDNS = on
		r, err := NewRenderer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range Families {
			src, dst := map[Family]string{V4: "10.0.0.1", V6: "fd00::1"}[f], map[Family]string{V4: "169.254.1.1", V6: "fe80::a9fe:101"}[f]
			for name, chains := range map[string][]Chain{"closing": r.Closing(f), "barrier": r.Barrier(f)} {
				hooks := []Hook{{ChainID: ChainID{Filter, "INPUT"}, Rule: Rule{Action: jump(chainInput)}}}
				if name == "barrier" {
					hooks[0].Rule.Action = jump(BarrierInput)
				}
				tr := newTracer(t, f, hooks)
				tr.apply(ChainChanges{Set: chains})
				for _, proto := range []desired.Protocol{desired.UDP, desired.TCP} {
					for port, open := range map[uint16]bool{53: on, 54: false} {
						got, trail := tr.trace(packet{in: "cali1", src: src, dst: dst, proto: proto, dport: port})
						if (got.verdict == Accept) != open {
							t.Errorf("%s, IPv%d, on %v, port %d: %v: %v", name, f, on, port, got.verdict, trail)
						}
					}
				}
			}
		}
	}
}
