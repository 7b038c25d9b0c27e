package daemon

import (
	"slices"
	"strings"
	"testing"
)

func TestWherePluginRuns(t *testing.T) {
	for value, want := range map[string]struct{ must, here bool }{
		"true": {true, true}, "host": {true, false}, "false": {}, "": {},
	} {
		s, err := readSettings(func(name string) string {
			return map[string]string{"CALICO_LIBNETWORK_ENABLED": value}[name]
		})
		if err != nil {
			t.Fatal(err)
		}
		if must, here := slices.Contains(s.programs, plugin), slices.Contains(s.own(), plugin); must != want.must || here != want.here {
			t.Errorf("%q: it must run: %v, here: %v", value, must, here)
		}
		if !slices.Contains(s.own(), felix) {
			t.Errorf("%q: felix is not here", value)
		}
		var out strings.Builder
		s.announce(&out)
		if starts := strings.Contains(out.String(), "Starting libnetwork service"); starts != want.here {
			t.Errorf("%q: it says %q", value, &out)
		}
	}
}

func TestTheBackendIsReadAsByTheStartUp(t *testing.T) {
	for value, want := range map[string]string{"": "gobgp", "GoBGP": "gobgp", "bird": "bird", "NONE": "none"} {
		s, err := readSettings(func(name string) string {
			return map[string]string{"CALICO_NETWORKING_BACKEND": value}[name]
		})
		if err != nil || s.backend != want || slices.Contains(s.programs, bgpd) == (want == "none") {
			t.Errorf("%q: got %+v, %v", value, s, err)
		}
	}
}
