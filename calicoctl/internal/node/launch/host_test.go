package launch

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
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

func TestSecretsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calico-node.env")
	holds := func(want string) {
		t.Helper()
		got, err := os.ReadFile(path)
		if want == "" {
			if !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it is there, with %q (%v)", got, err)
			}
			return
		}
		if err != nil || string(got) != want {
			t.Errorf("it holds %q (%v), want %q", got, err, want)
		}
		if i, err := os.Stat(path); err != nil || i.Mode() != 0o600 {
			t.Errorf("its mode is %v (%v)", i.Mode(), err)
		}
	}
	undo, err := writeSecrets(path, "A=1\n")
	if err != nil {
		t.Fatal(err)
	}
	holds("A=1\n")
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	holds("")
	for _, v := range []variable{{"A", "1"}, {"B", "2"}, {"A", "3"}} {
		if err := keepSecret(path, v); err != nil {
			t.Fatal(err)
		}
	}
	holds("B=2\nA=3\n")
	if undo, err = writeSecrets(path, ""); err != nil {
		t.Fatal(err)
	}
	holds("")
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	holds("B=2\nA=3\n")
}

func TestOneAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	done, err := alone(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alone(path); err == nil || !strings.Contains(err.Error(), "another calicoctl is at work") {
		t.Errorf("got %v", err)
	}
	done()
	if done, err = alone(path); err != nil {
		t.Fatal(err)
	}
	done()
}
