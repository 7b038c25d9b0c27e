package hostrecord_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"calico.internal/libcalico/hostrecord"
)

func write(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "node.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestARecordIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "calico")
	if _, found, err := hostrecord.Read(dir); found || err != nil {
		t.Fatalf("found %t, %v where nothing is", found, err)
	}
	if err := hostrecord.Write(dir, hostrecord.Record{Name: "node00", ClusterGUID: "abc"}); err != nil {
		t.Fatal(err)
	}
	r, found, err := hostrecord.Read(dir)
	if err != nil || !found || r.Name != "node00" || r.ClusterGUID != "abc" {
		t.Errorf("read %+v, %t, %v", r, found, err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "node.json"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("%v, %v are left", all, err)
	}
}

// A newer version of a program, or another program, has fields of its own.
func TestUnknownFieldsSurvive(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, `{"name": "node00", "identity": {"id": "x", "boot": 12345678901234567890}}`)
	r, found, err := hostrecord.Read(dir)
	if err != nil || !found || r.ClusterGUID != "" {
		t.Fatalf("read %+v, %t, %v", r, found, err)
	}
	r.ClusterGUID = "abc"
	if err := hostrecord.Write(dir, r); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "node.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"id": "x"`, `"boot": 12345678901234567890`, `"cluster_guid": "abc"`, `"name": "node00"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}

func TestARecordThatCannotBeReadIsNamed(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"", "{", `[]`, `{"name": 5}`} {
		write(t, dir, text)
		if _, found, err := hostrecord.Read(dir); err == nil || !found || !strings.Contains(err.Error(), "node.json") {
			t.Errorf("%q: found %t, %v", text, found, err)
		}
	}
}

func TestDir(t *testing.T) {
	for value, want := range map[string]string{"": "/var/lib/calico", "/x": "/x"} {
		if got := hostrecord.Dir(func(name string) string { return map[string]string{"CALICO_STATE_DIR": value}[name] }); got != want {
			t.Errorf("%q: %s", value, got)
		}
	}
}
