package rules

import (
	"slices"
	"testing"
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
