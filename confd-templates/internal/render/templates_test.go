package render_test

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"calico.internal/confd-templates/internal/backend"
	"calico.internal/confd-templates/internal/render"
	"calico.internal/confd-templates/internal/resource"
	"calico.internal/libcalico/store"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestBGPDTemplate renders the project's own template: testdata/bgpd/NAME.keys has the keys of etcd, one a line with
// its value, and NAME.toml what must come of them.
func TestBGPDTemplate(t *testing.T) {
	cases, err := filepath.Glob("../../testdata/bgpd/*.keys")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases:", err)
	}
	for _, keys := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(keys), ".keys"), func(t *testing.T) {
			golden := strings.TrimSuffix(keys, ".keys") + ".toml"
			got := renderBGPD(t, readKeys(t, keys))
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// readKeys reads a file of keys. NODENAME sets the node; a line that starts with ! gives a key's next value, as if it
// was written later.
func readKeys(t *testing.T, name string) []store.Batch {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NODENAME", "node00")
	snapshot := store.Batch{Snapshot: true, Revision: 1}
	batches := []store.Batch{snapshot}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		later := strings.HasPrefix(line, "!")
		key, value, _ := strings.Cut(strings.TrimPrefix(line, "!"), " ")
		kv := store.KV{Path: key, Value: []byte(value)}
		switch {
		case key == "NODENAME":
			t.Setenv("NODENAME", value)
		case later:
			batches = append(batches, store.Batch{Puts: []store.KV{kv}})
		default:
			batches[0].Puts = append(batches[0].Puts, kv)
		}
	}
	return batches
}

func renderBGPD(t *testing.T, batches []store.Batch) string {
	t.Helper()
	resources, warnings, err := resource.Load("../..", "")
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	r := resources[0]
	r.Dest = filepath.Join(t.TempDir(), "bgpd.toml")
	prefixes := backend.Prefixes(r.Paths())
	values := backend.New(prefixes, r.Rules(), slog.New(slog.DiscardHandler))
	for _, b := range batches {
		for _, prefix := range prefixes {
			values.Apply(prefix, b)
		}
	}
	engine, err := render.New(render.Config{ConfDir: "../..", StoreClient: values}, []resource.Resource{r})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	staged, err := engine.Render(r)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(staged)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestRenderErrors: what the engine cannot render leaves nothing behind, and says which template and line.
func TestRenderErrors(t *testing.T) {
	dir := t.TempDir()
	r := resource.Resource{Src: "a.tmpl", Dest: filepath.Join(dir, "out", "a"), Keys: []string{"/x"}, Prefix: "/"}
	values := backend.New([]string{"/x"}, nil, slog.New(slog.DiscardHandler))
	engine, err := render.New(render.Config{ConfDir: dir, StoreClient: values}, []resource.Resource{r})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close() //nolint:errcheck // nothing is buffered
	template := func(text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, "templates"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "templates", "a.tmpl"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fails := func(want string) {
		t.Helper()
		if _, err := engine.Render(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Render = %v, want %q in it", err, want)
		}
		left, err := os.ReadDir(filepath.Join(dir, "out"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	}
	template("{{getv \"/x/a\"}}")
	fails("not been read")
	values.Apply("/x", store.Batch{Snapshot: true, Puts: []store.KV{{Path: "/x/a", Value: []byte("{bad")}}})
	template("{{getv \"/x/b\"}}")
	fails("render a.tmpl: ")
	fails("key does not exist: /x/b")
	template("fine\n{{json (getv \"/x/a\")}}")
	fails("a.tmpl:2")
	template("{{if}}")
	fails("a.tmpl")
	if err := os.Remove(filepath.Join(dir, "templates", "a.tmpl")); err != nil {
		t.Fatal(err)
	}
	fails("Missing template")
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	r := resource.Resource{Dest: filepath.Join(dir, "a.conf")}
	for _, name := range []string{".a.conf.staged", "..a.conf.staged123", "a.conf", ".b.conf.staged"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := render.Sweep(r); err != nil {
		t.Fatal(err)
	}
	var left []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	if diff := cmp.Diff([]string{".b.conf.staged", "a.conf"}, left); diff != "" {
		t.Error(diff)
	}
}

// BenchmarkBGPDTemplate renders the document of a mesh of 1,000 nodes.
func BenchmarkBGPDTemplate(b *testing.B) {
	b.Setenv("NODENAME", "node0")
	resources, _, err := resource.Load("../..", "")
	if err != nil {
		b.Fatal(err)
	}
	r := resources[0]
	r.Dest = filepath.Join(b.TempDir(), "bgpd.toml")
	prefixes := backend.Prefixes(r.Paths())
	values := backend.New(prefixes, r.Rules(), slog.New(slog.DiscardHandler))
	batch := meshOf(1000)
	for _, prefix := range prefixes {
		values.Apply(prefix, batch)
	}
	engine, err := render.New(render.Config{ConfDir: "../..", StoreClient: values}, []resource.Resource{r})
	if err != nil {
		b.Fatal(err)
	}
	defer engine.Close() //nolint:errcheck // nothing is buffered
	for b.Loop() {
		if _, err := engine.Render(r); err != nil {
			b.Fatal(err)
		}
	}
}

// meshOf has the keys of n nodes.
func meshOf(n int) store.Batch {
	b := store.Batch{Snapshot: true}
	put := func(key, value string) { b.Puts = append(b.Puts, store.KV{Path: key, Value: []byte(value)}) }
	put("/calico/bgp/v1/global/as_num", "64512")
	put("/calico/v1/ipam/v4/pool/192.168.0.0-16", `{"cidr":"192.168.0.0/16"}`)
	for i := range n {
		host := fmt.Sprintf("/calico/bgp/v1/host/node%d/", i)
		put(host+"ip_addr_v4", fmt.Sprintf("10.0.%d.%d", i/250, i%250+1))
		put(host+"ip_addr_v6", "")
		put(host+"network_v4", "10.0.0.0/16")
		put(host+"as_num", "")
	}
	return b
}
