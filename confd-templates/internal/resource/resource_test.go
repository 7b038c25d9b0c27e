package resource

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"calico.internal/confd-templates/internal/expect"
	"github.com/google/go-cmp/cmp"
)

func confDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad(t *testing.T) {
	dir := confDir(t, map[string]string{
		"conf.d/a.toml": `[template]
src = "a.tmpl"
dest = "/etc/a"
mode = "0600"
uid = 1
prefix = "/calico"
keys = ["/x", "y"]
check_cmd = "check {{.src}}"
reload_cmd = "reload"
colour = "red"
[[expect]]
keys = ["/x/*"]
value = "ipv4"
`,
		"conf.d/sub/b.toml": "[template]\nsrc = 'a.tmpl'\ndest = '/etc/b'\nkeys = ['/']\n",
		"conf.d/README":     "not a resource",
		"templates/a.tmpl":  "",
	})
	got, warnings, err := Load(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []Resource{
		{
			File: filepath.Join(dir, "conf.d/a.toml"), Src: "a.tmpl", Dest: "/etc/a", Prefix: "/calico", Keys: []string{"/x", "y"},
			Mode: 0o600, UID: 1, GID: -1, CheckCmd: "check {{.src}}", ReloadCmd: "reload",
			Expect: expect.Rules{{Keys: []string{"/x/*"}, Value: "ipv4"}},
		},
		{File: filepath.Join(dir, "conf.d/sub/b.toml"), Src: "a.tmpl", Dest: "/etc/b", Prefix: "/", Keys: []string{"/"}, UID: -1, GID: -1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "template.colour") {
		t.Errorf("warnings %q, want one about template.colour", warnings)
	}
	if diff := cmp.Diff([]string{"/calico/x", "/calico/y"}, got[0].Paths()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(expect.Rules{{Keys: []string{"/calico/x/*"}, Value: "ipv4"}}, got[0].Rules()); diff != "" {
		t.Error(diff)
	}
}

func TestPrefixFlagOverrides(t *testing.T) {
	dir := confDir(t, map[string]string{
		"conf.d/a.toml":    "[template]\nsrc = 'a.tmpl'\ndest = '/etc/a'\nkeys = ['/x']\nprefix = '/calico'\n",
		"templates/a.tmpl": "",
	})
	got, _, err := Load(dir, "other")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/other/x"}, got[0].Paths()); diff != "" {
		t.Error(diff)
	}
}

func TestLoadNamesEveryFault(t *testing.T) {
	good := "[template]\nsrc = 'a.tmpl'\ndest = '/etc/a'\nkeys = ['/x']\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"no conf.d", nil, []string{"conf.d: no such file"}},
		{"no resources", map[string]string{"conf.d/x": ""}, []string{"there is no *.toml"}},
		{"no TOML", map[string]string{"conf.d/a.toml": "[template"}, []string{"a.toml: toml: "}},
		{"an empty file", map[string]string{"conf.d/a.toml": ""}, []string{"src is missing", "dest is missing", "keys is empty"}},
		{"a missing template", map[string]string{"conf.d/a.toml": good}, []string{"template: stat", "a.tmpl: no such file"}},
		{
			"bad values",
			map[string]string{"conf.d/a.toml": "[template]\nsrc = 'a.tmpl'\ndest = 'etc/a'\nkeys = ['/x']\nmode = 'rw'\n[[expect]]\nkeys = ['/x']\nvalue = 'colour'\n", "templates/a.tmpl": ""},
			[]string{"dest etc/a is not an absolute path", `mode "rw"`, `unknown form "colour"`},
		},
		{"two for one file", map[string]string{"conf.d/a.toml": good, "conf.d/b.toml": good, "templates/a.tmpl": ""}, []string{"b.toml: /etc/a is made by", "a.toml too"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := Load(confDir(t, c.files), "")
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("Load = %v, want %q in it", err, want)
				}
			}
		})
	}
}
