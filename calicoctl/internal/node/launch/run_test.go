package launch

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestSettingsOfAHost(t *testing.T) {
	const forward4, forward6, conntrack = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/netfilter/nf_conntrack_max"
	for _, tc := range []struct {
		name         string
		before, want map[string]string
	}{
		{
			"a router of IPv4 alone",
			map[string]string{forward4: "0", forward6: "0", conntrack: "262144"},
			map[string]string{forward4: "1", forward6: "0", conntrack: "1000000"},
		},
		{
			"what is more stays so",
			map[string]string{forward4: "1", forward6: "1", conntrack: "2000000"},
			map[string]string{forward4: "1", forward6: "1", conntrack: "2000000"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, value := range tc.before {
				path := filepath.Join(dir, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(value), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			if err := prepareKernel(io.Discard, dir); err != nil {
				t.Fatal(err)
			}
			for name, want := range tc.want {
				if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != want || err != nil {
					t.Errorf("%s is %s, %v; want %s", name, got, err, want)
				}
			}
		})
	}
}

func TestAHostThatCannotForwardIsRefused(t *testing.T) {
	if err := prepareKernel(io.Discard, t.TempDir()); err == nil || err.Error()[:39] != "ERROR: Could not enable ipv4 forwarding" {
		t.Errorf("got %v", err)
	}
}
