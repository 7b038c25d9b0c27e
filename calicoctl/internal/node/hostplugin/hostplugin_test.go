package hostplugin

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWhatIsAnothersIsRefused looks at hosts on which the service cannot be calicoctl's.
func TestWhatIsAnothersIsRefused(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	for name, c := range map[string]struct{ file, text, want string }{
		"nothing is there":              {"", "", ""},
		"ours":                          {unitDir + "/" + SocketUnit, mark + "\n[Unit]\n", ""},
		"a package's socket":            {"/lib/systemd/system/" + SocketUnit, "[Unit]\n", "from a package (dpkg -S /lib/systemd/system/calico-libnetwork.socket"},
		"a package's service":           {"/usr/lib/systemd/system/" + ServiceUnit, "[Unit]\n", "--env CALICO_LIBNETWORK_ENABLED=host"},
		"a service written by hand":     {unitDir + "/" + ServiceUnit, "[Unit]\n", "was not written by calicoctl"},
		"variables of another":          {Environment, "ETCD_ENDPOINTS=http://x\n", "move it away"},
		"another program of that name":  {Program, "#!/bin/sh\n", "what is there is another one"},
		"a package's below /usr/local/": {"/usr/local/lib/systemd/system/" + ServiceUnit, "[Unit]\n", "from a package"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Service{Root: t.TempDir()}
			if c.file != "" {
				if err := os.MkdirAll(filepath.Dir(s.path(c.file)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(s.path(c.file), []byte(c.text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			err := s.Check()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestWithoutSystemd(t *testing.T) {
	if Booted() {
		t.Skip("systemd is process 1 of this machine")
	}
	if err := (Service{}).Check(); err == nil || !strings.Contains(err.Error(), "systemd is not process 1 of this host") || !strings.Contains(err.Error(), "--plugin=container") {
		t.Errorf("got %v", err)
	}
}

// TestAProgramThatIsNotOursIsNotInstalled leaves nothing of it.
func TestAProgramThatIsNotOursIsNotInstalled(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range map[string][]byte{"a text": []byte("#!/bin/sh\n"), "another program": self} {
		s := Service{Root: t.TempDir()}
		_, _, err := s.Install(t.Context(), Content{Program: bytes.NewReader(program)})
		if err == nil || !strings.Contains(err.Error(), "is not our libnetwork-plugin") {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(filepath.Dir(s.path(Program))); err != nil || len(left) > 0 {
			t.Errorf("%s: %v is left (%v)", name, left, err)
		}
	}
}

func TestVariables(t *testing.T) {
	got, err := variables([]string{"A=1", `B=a"b\c$d`, "C="})
	if want := variablesMark + "A=\"1\"\nB=\"a\\\"b\\\\c\\$d\"\nC=\"\"\n"; err != nil || string(got) != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
	for _, bad := range []string{"A=a\nb", "A=\xff"} {
		if _, err := variables([]string{bad}); err == nil || !strings.Contains(err.Error(), "A is not one line") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
