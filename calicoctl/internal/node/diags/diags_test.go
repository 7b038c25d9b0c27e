package diags

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"

	"calico.internal/libcalico/grpcsock"
	libnetworkv1 "calico.internal/proto/libnetwork/v1"
)

// program puts a program first in the path.
func program(t *testing.T, dir, name, script string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// bundle is what a bundle holds.
func bundle(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // the test is over
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		text, readErr := io.ReadAll(r)
		if err != nil || readErr != nil {
			t.Fatal(err, readErr)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		files[name] = string(text)
	}
}

// dockerd is a client of Docker whose container calico-node runs, with a password that has
// every kind of letter.
const dockerd = `case "$*" in
"container inspect"*) echo 'true ["ETCD_PASSWORD=p&w\"/ord"]';;
"exec calico-node iptables-save"*) echo '# from the container';;
"exec calico-node cat /etc/calico/confd/config/bgpd.toml") echo 'as = 64512 # p&w"/ord';;
"ps -a --format"*) echo calico-node;;
"inspect calico-node") echo '[{"Name":"calico-node","Cmd":["p&w\"/ord"],"Path":"x p\u0026w\"/ord"}]';;
"logs"*) echo 'GET /?pw=p%26w%22%2Ford and cCZ3Ii9vcmQ=';;
"exec"*) exit 127;;
*) echo docker;;
esac`

func collect(t *testing.T, cfg Config) (Result, map[string]string) {
	t.Helper()
	cfg.Dir, cfg.Name, cfg.Now = t.TempDir(), "d", time.Now()
	if cfg.Redactor == nil {
		cfg.Redactor = NewRedactor()
	}
	result, err := Collect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(result.Bundle); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the bundle is %v, %v", info, err)
	}
	return result, bundle(t, result.Bundle)
}

func missed(r Result) (names []string) {
	for _, m := range r.Missed {
		names = append(names, m.Name)
	}
	return names
}

func TestFromInsideTheContainer(t *testing.T) {
	bin, state := t.TempDir(), t.TempDir()
	program(t, bin, "docker", dockerd)
	t.Setenv("PATH", bin+":/nonexistent")
	write(t, state+"/node.json", `{"name":"n1"}`)
	write(t, state+"/calico-node.env", "OTHER_TOKEN=of-the-file\n")
	write(t, state+"/log", "of-the-file, and more\n")
	_, files := collect(t, Config{LogDir: "/nonexistent", StateDir: state})
	for name, words := range map[string]string{
		"commands/iptables-save_-c.txt": "from the container",
		"container/bgpd.toml":           "as = 64512",
		"state/node.json":               "n1",
		"state/log":                     "[redacted], and more",
		"docker/calico-node.log":        "GET /?pw=[redacted]",
	} {
		if !strings.Contains(files[name], words) {
			t.Errorf("%s: %q, want %q", name, files[name], words)
		}
	}
	for name, text := range files {
		for _, secret := range []string{`p&w`, `p\u0026w`, "p%26w", "cCZ3Ii9vcmQ", "of-the-file"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds a secret: %s", name, text)
			}
		}
		if strings.HasSuffix(name, ".env") {
			t.Errorf("%s is there", name)
		}
	}
	var entries []entry
	if err := json.Unmarshal([]byte(files["manifest.json"]), &entries); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(entries, func(e entry) bool { return e.Name == "container/bgpd.toml" })
	if i < 0 || entries[i].Bytes != int64(len(files["container/bgpd.toml"])) {
		t.Errorf("the manifest says %+v", entries)
	}
}

// TestNotThere says so of what should be, and of nothing else.
func TestNotThere(t *testing.T) {
	bin, run := t.TempDir(), t.TempDir()
	program(t, bin, "docker", `case $1 in container) exit 1;; esac`)
	t.Setenv("PATH", bin)
	none := Config{LogDir: "/nonexistent", StateDir: "/nonexistent", Files: []string{"/nonexistent/daemon.json"}, Sources: Programs(run, nil)}
	result, _ := collect(t, none)
	for _, name := range missed(result) {
		if !strings.HasPrefix(name, "commands/") || strings.Contains(name, "nft") || strings.Contains(name, "ipset") {
			t.Errorf("%s is missed on a host that is no node", name)
		}
	}
	node := none
	node.Wanted = []string{"felix", "libnetwork"}
	node.Sources = Programs(run, node.Wanted)
	result, _ = collect(t, node)
	for _, name := range []string{"container", "logs/.", "programs/calico-node-status.json", "programs/felix-endpoints.json", "programs/libnetwork-status.json"} {
		if !slices.Contains(missed(result), name) {
			t.Errorf("%s is not missed: %v", name, missed(result))
		}
	}
	if slices.Contains(missed(result), "programs/bgpd-routes.json") {
		t.Error("bgpd is missed, which should not run here")
	}
}

// plugin is a program with a socket.
type plugin struct {
	libnetworkv1.UnimplementedLibnetworkServer
}

func (plugin) Status(context.Context, *libnetworkv1.StatusRequest) (*libnetworkv1.StatusResponse, error) {
	return &libnetworkv1.StatusResponse{Version: "v1.2.3"}, nil
}

func TestProgramsAnswer(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- grpcsock.Serve(ctx, filepath.Join(dir, "libnetwork.sock"), health.NewServer(), func(s *grpc.Server) {
			libnetworkv1.RegisterLibnetworkServer(s, plugin{})
		})
	}()
	t.Cleanup(func() { cancel(); <-served })
	source := Programs(dir, []string{"libnetwork"})
	read := source[len(source)-1].Read
	for deadline := time.Now().Add(5 * time.Second); ; {
		text, err := read(t.Context())
		if err == nil {
			if !strings.Contains(string(text), "v1.2.3") {
				t.Errorf("got %s", text)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestAStuckCommand does not keep the rest.
func TestAStuckCommand(t *testing.T) {
	bin := t.TempDir()
	program(t, bin, "uptime", "exec /usr/bin/tail -f /dev/null")
	program(t, bin, "hostname", "echo here")
	t.Setenv("PATH", bin)
	result, files := collect(t, Config{LogDir: "/nonexistent", StateDir: "/nonexistent"})
	i := slices.Index(missed(result), "commands/uptime.txt")
	if i < 0 || !strings.Contains(result.Missed[i].Reason, "did not end within") {
		t.Errorf("missed: %+v", result.Missed)
	}
	if files["commands/hostname.txt"] != "here\n" {
		t.Errorf("the rest is not there: %v", files)
	}
}
