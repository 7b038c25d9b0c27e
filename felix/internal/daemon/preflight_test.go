package daemon

import "testing"

func TestCheckCapabilities(t *testing.T) {
	for name, c := range map[string]struct {
		status string
		ok     bool
	}{
		"root":               {"Name:\tx\nCapInh:\t0\nCapEff:\t000001ffffffffff\n", true},
		"only what it needs": {"CapEff:\t0000000000003000\n", true},
		"no NET_RAW":         {"CapEff:\t0000000000001000\n", false},
		"nothing":            {"CapEff:\t0000000000000000\n", false},
	} {
		if err := checkCapabilities(c.status); (err == nil) != c.ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
