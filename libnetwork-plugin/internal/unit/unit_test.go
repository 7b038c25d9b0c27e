package unit

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// paths are those of an installation by calicoctl.
var paths = Paths{Binary: "/usr/local/libexec/calico/libnetwork-plugin", Environment: "/etc/calico/libnetwork.env"}

// units are both texts by their file names.
func units(t *testing.T, p Paths) map[string]string {
	t.Helper()
	service, err := Service(p)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{SocketName: Socket(), ServiceName: service}
}

func TestGolden(t *testing.T) {
	for name, text := range units(t, paths) {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), text); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestPathsThatSystemdWouldReadAsSomethingElse(t *testing.T) {
	for _, bad := range []string{"", "plugin", "/opt/my plugin", "/opt/%h", "/opt/$HOME", "/opt/a;b", "/opt/a\nUser=x", `/opt/"a"`, `/opt/a\b`} {
		if _, err := Service(Paths{Binary: bad, Environment: "/etc/x"}); err == nil || !strings.Contains(err.Error(), "program") {
			t.Errorf("program %q: %v", bad, err)
		}
		if _, err := Service(Paths{Binary: "/opt/x", Environment: bad}); err == nil || !strings.Contains(err.Error(), "file of variables") {
			t.Errorf("file of variables %q: %v", bad, err)
		}
	}
}

// TestSystemdUnderstandsThem has systemd look at the units, with a program that is there.
func TestSystemdUnderstandsThem(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed: the units are compared with the golden files alone")
	}
	dir := t.TempDir()
	p := Paths{Binary: filepath.Join(dir, "libnetwork-plugin"), Environment: filepath.Join(dir, "libnetwork.env")}
	if err := os.WriteFile(p.Binary, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	verify := func(units map[string]string) string {
		args := []string{"verify", "--man=no", "--recursive-errors=no"}
		for name, text := range units {
			file := filepath.Join(dir, name)
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			args = append(args, file)
		}
		out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
		if err != nil {
			return string(out) + err.Error()
		}
		return string(out)
	}
	good := units(t, p)
	if out := verify(good); out != "" {
		t.Errorf("systemd-analyze: %s", out)
	}
	bad := map[string]string{SocketName: good[SocketName], ServiceName: strings.Replace(good[ServiceName], "Restart=always", "Restart=ever", 1)}
	if out := verify(bad); !strings.Contains(out, "restart specifier") {
		t.Errorf("systemd-analyze finds no fault in a unit that has one: %q", out)
	}
}
