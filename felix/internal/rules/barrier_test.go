package rules

import (
	"cmp"
	"net/netip"
	"testing"

	"calico.internal/felix/internal/desired"
)

// TestBarriers walks packets through what stops them while they do not meet felix's rules.
func TestBarriers(t *testing.T) {
	t.Parallel()
	filter, raw := []Table{Filter}, []Table{Raw}
	bare := func(w *world) { w.host("eth0") }
	every := func(w *world) { w.host("*") }
	forwarding := func(w *world) {
		w.host("eth0").Forward = []desired.Tier{tier("default", w.policy("default", "p", allow()))}
	}
	untracked := func(w *world) {
		w.host("eth0").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", denyAll()...)}
	}
	mixed := func(w *world) { untracked(w); w.host("eth1") }
	for _, c := range []struct {
		name    string
		build   func(*world)
		unmet   []Table
		in, out string
		dport   uint16
		to      string // instead of another host
		conn    ConnState
		want    Verb
	}{
		{name: "workload to the host", unmet: filter, in: "cali1", want: Drop},
		{name: "workload to workload", unmet: filter, in: "cali1", out: "cali2", want: Drop},
		{name: "known, of a workload", unmet: filter, in: "cali1", out: "cali2", conn: Established, want: Accept},
		{name: "the host to a workload", unmet: filter, out: "cali1", want: Accept},
		{name: "no host endpoint", unmet: filter, in: "eth0", want: Accept},
		{name: "to a host endpoint", build: bare, unmet: filter, in: "eth0", want: Drop},
		{name: "from a host endpoint", build: bare, unmet: filter, out: "eth0", want: Drop},
		{name: "known, of a host endpoint", build: bare, unmet: filter, out: "eth0", conn: Established, want: Accept},
		{name: "failsafe port", build: bare, unmet: filter, in: "eth0", dport: 22, want: Accept},
		{name: "failsafe port elsewhere", build: bare, unmet: filter, out: "eth0", dport: 2380, want: Accept},
		{name: "etcd", build: bare, unmet: filter, out: "eth0", to: "172.28.8.10", dport: 12379, want: Accept},
		{name: "etcd's port elsewhere", build: bare, unmet: filter, out: "eth0", dport: 12379, want: Drop},
		{name: "another interface", build: bare, unmet: filter, in: "eth1", want: Accept},
		{name: "the host to a workload beside it", build: every, unmet: filter, out: "cali1", want: Accept},
		{name: "all interfaces", build: every, unmet: filter, in: "eth7", want: Drop},
		{name: "within the host", build: every, unmet: filter, in: "lo", want: Accept},
		{name: "forwarded, without a policy about that", build: bare, unmet: filter, in: "eth0", out: "eth1", want: Accept},
		{name: "forwarded", build: forwarding, unmet: filter, in: "eth0", out: "eth1", want: Drop},
		{name: "forwarded, other way", build: forwarding, unmet: filter, in: "eth1", out: "eth0", want: Drop},
		{name: "forwarded elsewhere", build: forwarding, unmet: filter, in: "eth1", out: "eth2", want: Accept},
		{name: "forwarded and known", build: forwarding, unmet: filter, in: "eth0", out: "eth1", conn: Established, want: Accept},
		{name: "where raw is unmet, an endpoint without untracked policy", build: bare, unmet: raw, in: "eth0", want: Accept},
		{name: "one with it", build: untracked, unmet: raw, in: "eth0", want: Drop},
		{name: "what that sends", build: untracked, unmet: raw, out: "eth0", want: Drop},
		{name: "what it forwards", build: untracked, unmet: raw, in: "eth0", out: "eth1", want: Drop},
		{name: "what it forwards out is not its", build: untracked, unmet: raw, in: "eth1", out: "eth0", want: Accept},
		{name: "its failsafe port", build: untracked, unmet: raw, in: "eth0", dport: 22, want: Accept},
		{name: "another endpoint beside it", build: mixed, unmet: raw, in: "eth1", want: Accept},
		{name: "both tables", build: mixed, unmet: []Table{Raw, Filter}, in: "eth1", want: Drop},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, f := range Families {
				w := newWorld(t)
				w.cfg.FailsafeInbound = []FailsafePort{{Protocol: desired.TCP, Port: 22}}
				w.cfg.FailsafeOutbound = []FailsafePort{{Protocol: desired.TCP, Port: 2380}}
				if c.build != nil {
					c.build(w)
				}
				src, dst := "192.0.2.1", "192.0.2.2"
				if f == V6 {
					src, dst = "2001:db8::1", "2001:db8::2"
				}
				if c.to != "" {
					if f == V6 {
						continue
					}
					dst = c.to
				}
				p := packet{in: c.in, out: c.out, src: src, dst: dst, conn: c.conn, proto: desired.TCP, dport: cmp.Or(c.dport, 80)}
				if p.conn == 0 {
					p.conn = New
				}
				if got, trail := barrierOf(w, f, c.unmet).trace(p); got.verdict != c.want {
					t.Errorf("IPv%d: %v, want %v: %v", f, got.verdict, c.want, trail)
				}
			}
		})
	}
}

// barrierOf has only the barrier of a world in the way of packets.
func barrierOf(w *world, f Family, unmet []Table) *tracer {
	w.t.Helper()
	r, err := NewRenderer(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	tk := NewTracker(r, f)
	tk.Apply(w.changes)
	barrier := tk.Barrier(unmet, []netip.AddrPort{netip.MustParseAddrPort("172.28.8.10:12379")})
	at := map[string]string{BarrierInput: "INPUT", BarrierForward: "FORWARD", BarrierOutput: "OUTPUT"}
	var hooks []Hook
	for _, c := range barrier {
		hooks = append(hooks, Hook{ChainID: ChainID{Filter, at[c.Name]}, Rule: Rule{Action: jump(c.Name)}})
	}
	tr := newTracer(w.t, f, hooks)
	tr.forward = Accept
	tr.apply(ChainChanges{Set: barrier})
	return tr
}
