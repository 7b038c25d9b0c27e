package rules

import (
	"slices"
	"testing"

	"calico.internal/felix/internal/desired"
)

func TestStandIns(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.WorkloadPrefixes = []string{"cali", "tap"}
	r, err := NewRenderer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	drops := func(r Rule) bool { return r.Action.Verb == Drop }
	ofHost := func(r Rule) bool { return drops(r) && r.Match.In.Name == "" && r.Match.Out.Name == "" }
	for _, f := range Families {
		for _, c := range r.Static(f) {
			got := r.StandIn(c.ChainID).Rules
			if slices.ContainsFunc(got, ofHost) {
				t.Errorf("what stands in for %v cuts off the host: %v", c.ChainID, got)
			}
			closes := c.Table == Raw || c.Table == Filter
			if want := map[bool]int{true: 4}[closes]; len(got) != want {
				t.Errorf("what stands in for %v has %d rules, want %d", c.ChainID, len(got), want)
			}
		}
	}
	for name, want := range map[string]string{
		"cali-fh-eth0": chainFailsafeIn, "cali-th-eth0": chainFailsafeOut,
		"cali-fhfw-eth0": "", "cali-pi-default/a": "", "cali-pro-net1": "", "cali-tw-cali1": "", "cali-fw-cali1": "",
	} {
		got := r.StandIn(ChainID{Filter, name}).Rules
		if len(got) == 0 || !ofHost(got[len(got)-1]) || got[0].Action.Chain != want {
			t.Errorf("what stands in for %s: %v", name, got)
		}
	}
}

// TestClosing walks packets through what closes workloads off while nobody knows their policy.
func TestClosing(t *testing.T) {
	t.Parallel()
	r, err := NewRenderer(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range Families {
		closing := r.Closing(f)
		hooks := slices.DeleteFunc(r.Hooks(), func(h Hook) bool {
			return !slices.ContainsFunc(closing, func(c Chain) bool { return h.Table == c.Table && h.Rule.Action.Chain == c.Name })
		})
		tr := newTracer(t, f, hooks)
		tr.forward = Accept
		tr.apply(ChainChanges{Set: closing})
		src, dst := map[Family]string{V4: "10.0.0.1", V6: "fd00::1"}[f], map[Family]string{V4: "10.0.0.2", V6: "fd00::2"}[f]
		for _, c := range []struct {
			in, out string
			conn    ConnState
			icmp    uint8
			want    Verb
		}{
			{in: "cali1", out: "cali2", conn: New, want: Drop},
			{in: "cali1", out: "eth0", conn: New, want: Drop},
			{in: "eth0", out: "cali1", conn: New, want: Drop},
			{in: "cali1", conn: New, want: Drop},
			{in: "cali1", out: "cali2", conn: Established, want: Accept},
			{in: "cali1", out: "eth0", conn: Related, want: Accept},
			{in: "eth0", out: "cali1", conn: Established, want: Accept},
			{in: "cali1", conn: Established, want: Accept},
			{in: "cali1", conn: New, icmp: 135, want: map[Family]Verb{V4: Drop, V6: Accept}[f]},
			{in: "cali1", out: "cali2", conn: New, icmp: 135, want: Drop},
			{in: "eth0", out: "br-0123456789ab", conn: New, want: Accept},
			{in: "eth0", conn: New, want: Accept},
			{out: "cali1", conn: New, want: Accept},
		} {
			p := packet{in: c.in, out: c.out, src: src, dst: dst, conn: c.conn, proto: desired.TCP, dport: 80}
			if c.icmp != 0 {
				p.proto, p.icmp, p.dport = desired.ICMPv6, c.icmp, 0
			}
			if got, trail := tr.trace(p); got.verdict != c.want {
				t.Errorf("IPv%d %+v: %v, want %v: %v", f, c, got.verdict, c.want, trail)
			}
		}
	}
}
