package nodename

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	file := func(content string) string {
		path := filepath.Join(t.TempDir(), "nodename")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	missing := filepath.Join(t.TempDir(), "missing")
	for _, tt := range []struct {
		name                          string
		explicit, env, file, hostname string
		want, wantErr                 string
	}{
		{"what is given wins", "given", "env", file("file"), "host", "given", ""},
		{"then NODENAME", "", " env ", file("file"), "host", "env", ""},
		{"then the file", " ", "", file("file\n"), "host", "file", ""},
		{"then the host's name", "", "", missing, "Host.Example", "host.example", ""},
		{"an empty file says nothing", "", "", file("\n"), "host", "host", ""},
		{"case is kept where somebody chose the name", "Node-1", "", missing, "host", "Node-1", ""},
		{"a bad name that was given", "a/b", "env", missing, "host", "", `the node name that was given, "a/b", cannot be used`},
		{"a bad NODENAME", "", "a b", missing, "host", "", `the node name in NODENAME, "a b"`},
		{"a bad file", "", "", file("a\nb"), "host", "", `the node name in `},
		{"a bad host name", "", "", missing, "host_\x00", "", `the host's name`},
		{"an unreadable file", "", "", t.TempDir(), "host", "", "is a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			getenv := func(name string) string { return map[string]string{"NODENAME": tt.env, "HOSTNAME": "wrong"}[name] }
			got, err := find(tt.explicit, getenv, tt.file, func() (string, error) { return tt.hostname, nil })
			if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)) {
				t.Fatalf("error %v, want %q", err, tt.wantErr)
			}
			if got.Node != tt.want {
				t.Errorf("got %+v, want %q", got, tt.want)
			}
			if derived := strings.HasPrefix(tt.name, "then the host") || strings.HasPrefix(tt.name, "an empty file"); err == nil && (got.Host == tt.hostname) != derived {
				t.Errorf("it is the host's own name: %q, want that %t", got.Host, derived)
			}
		})
	}
}

func TestHostWithoutAName(t *testing.T) {
	t.Parallel()
	broken := errors.New("no name")
	none := func(string) string { return "" }
	_, err := find("", none, "/does/not/exist", func() (string, error) { return "", broken })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if name, err := Resolve("given", none); name != "given" || err != nil {
		t.Errorf("got %q, %v", name, err)
	}
}
