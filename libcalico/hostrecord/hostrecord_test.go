package hostrecord_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/model"
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
	if (hostrecord.Record{ID: "x"}).Member() || !r.Member() {
		t.Error("a host with an id alone is a member, or one with a cluster is none")
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
	for _, text := range []string{"", "{", `[]`, `null`, `{}`, `{"name": 5}`} {
		write(t, dir, text)
		if _, found, err := hostrecord.Read(dir); err == nil || !found || !strings.Contains(err.Error(), "node.json") {
			t.Errorf("%q: found %t, %v", text, found, err)
		}
	}
}

func TestEveryFieldIsKept(t *testing.T) {
	dir := t.TempDir()
	want := hostrecord.Record{
		Name: "node00", ClusterGUID: "abc", ID: "0a", IPv4: netip.MustParseAddr("10.0.0.1"), IPv4Net: netip.MustParsePrefix("10.0.0.0/24"),
		IPv6: netip.MustParseAddr("fd00::1"), IPv6Net: netip.MustParsePrefix("fd00::/64"), Programs: []string{"bgpd", "felix"}, Backend: "gobgp",
	}
	if err := hostrecord.Write(dir, want); err != nil {
		t.Fatal(err)
	}
	got, _, err := hostrecord.Read(dir)
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(hostrecord.Record{}), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	// What is emptied is gone, and what others have put in stays.
	write(t, dir, `{"name": "n", "ipv4": "10.0.0.1", "programs": ["felix"], "theirs": 1}`)
	if err := hostrecord.Update(dir, func(r *hostrecord.Record) { r.IPv4, r.Programs = netip.Addr{}, nil }); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "node.json"))
	if err != nil || strings.Contains(string(text), "ipv4") || strings.Contains(string(text), "programs") || !strings.Contains(string(text), `"theirs": 1`) {
		t.Errorf("%s, %v", text, err)
	}
}

func none(string) string { return "" }

// TestOneIDIsMade has many programs start at once on a host that has none.
func TestOneIDIsMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "calico")
	ids := make(chan model.Identity)
	for range 20 {
		go func() {
			id, err := hostrecord.Identity(dir, none)
			if err != nil {
				t.Error(err)
			}
			ids <- id
		}()
	}
	first := <-ids
	if len(first.ID) != 32 || len(first.Boot) != 36 {
		t.Errorf("identity %+v", first)
	}
	for range 19 {
		if id := <-ids; id != first {
			t.Errorf("two identities: %+v and %+v", id, first)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "node.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := hostrecord.Update(dir, func(r *hostrecord.Record) { r.Name = "n" }); err != nil {
		t.Fatal(err)
	}
	again, err := hostrecord.Identity(dir, func(name string) string { return map[string]string{hostrecord.BootVariable: "b2"}[name] })
	if want := (model.Identity{ID: first.ID, Boot: "b2"}); err != nil || again != want {
		t.Errorf("identity %+v, %v, want %+v", again, err, want)
	}
}

func TestADamagedRecordIsMadeAnew(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "{")
	if id, err := hostrecord.Peek(dir, none); err != nil || !id.Known() {
		t.Errorf("peek: %+v, %v", id, err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "node.json")); err != nil || string(text) != "{" {
		t.Errorf("a peek has written %s, %v", text, err)
	}
	id, err := hostrecord.Identity(dir, none)
	if err != nil || !id.Known() {
		t.Fatalf("%+v, %v", id, err)
	}
	if r, _, err := hostrecord.Read(dir); err != nil || r.ID != id.ID {
		t.Errorf("the record has %+v, %v", r, err)
	}
}

// TestBootOfAFile: where a file tells the start of the host, as it does to containers of hosts
// that share a kernel, it is read anew each time; one that is not there is said, not replaced by
// the kernel's.
func TestBootOfAFile(t *testing.T) {
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "boot")
	getenv := func(name string) string { return map[string]string{hostrecord.BootFileVariable: file}[name] }
	for _, boot := range []string{"b1", "b2"} {
		if err := os.WriteFile(file, []byte(boot+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if id, err := hostrecord.Identity(dir, getenv); err != nil || id.Boot != boot {
			t.Errorf("identity %v, %v, want boot %s", id, err, boot)
		}
	}
	for _, tc := range []struct {
		what   string
		change func() error
	}{
		{"empty", func() error { return os.WriteFile(file, []byte("\n"), 0o644) }},
		{"away", func() error { return os.Remove(file) }},
	} {
		if err := tc.change(); err != nil {
			t.Fatal(err)
		}
		if id, err := hostrecord.Identity(dir, getenv); err == nil || !strings.Contains(err.Error(), file) || id.Boot != "" {
			t.Errorf("%s: identity %v, %v", tc.what, id, err)
		}
	}
}

// TestWithoutADirectoryThereIsABoot has a file where the directory should be.
func TestWithoutADirectoryThereIsABoot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	write(t, filepath.Dir(file), "{}")
	for _, identity := range []func(string, func(string) string) (model.Identity, error){hostrecord.Identity, hostrecord.Peek} {
		id, err := identity(filepath.Join(filepath.Dir(file), "node.json"), none)
		if err == nil || id.Known() || id.Boot == "" {
			t.Errorf("%+v, %v", id, err)
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

// TestWhatKilledProgramsHaveBegunIsRemoved has them killed while they wrote.
func TestWhatKilledProgramsHaveBegunIsRemoved(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".node.json-123", ".node.json-456", ".topology-1", ".other-1"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := hostrecord.Update(dir, func(r *hostrecord.Record) { r.Name = "n" }); err != nil {
		t.Fatal(err)
	}
	if err := hostrecord.Keep(dir, "topology", []byte("x")); err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadDir(dir)
	var names []string
	for _, e := range all {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{".other-1", "node.json", "topology"}, names); err != nil || diff != "" {
		t.Errorf("%v, left: %s", err, diff)
	}
}

// TestALockIsNotWaitedForForever has another program that never ends its own.
func TestALockIsNotWaitedForForever(t *testing.T) {
	dir := t.TempDir()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close() //nolint:errcheck // the test is over
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := hostrecord.Write(dir, hostrecord.Record{Name: "n"}); err == nil || !strings.Contains(err.Error(), "has locked "+dir) {
		t.Errorf("error %v", err)
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := hostrecord.Write(dir, hostrecord.Record{Name: "n"}); err != nil {
		t.Error(err)
	}
}

// TestAnEmptyRecordIsADamagedOne: a host that may have been a node founds no cluster.
func TestAnEmptyRecordIsADamagedOne(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, `{}`)
	if _, err := hostrecord.Identity(dir, none); err != nil {
		t.Fatal(err)
	}
	if r, _, err := hostrecord.Read(dir); err != nil || r.ID == "" || !r.Member() {
		t.Errorf("record %+v, %v", r, err)
	}
}

// TestAFieldOfANewerVersionIsNotLost has a field of another type than here, which no program of
// this version writes over.
func TestAFieldOfANewerVersionIsNotLost(t *testing.T) {
	dir := t.TempDir()
	const text = `{"id": "0a", "name": "n", "programs": {"felix": 2}}`
	write(t, dir, text)
	err := hostrecord.Update(dir, func(r *hostrecord.Record) { r.Name = "other" })
	if err == nil || !strings.Contains(err.Error(), "programs is not of the kind that this version knows") {
		t.Errorf("the update ended with %v", err)
	}
	if _, err := hostrecord.Identity(dir, none); err == nil {
		t.Error("the host has an id that it did not read")
	}
	if now, err := os.ReadFile(filepath.Join(dir, "node.json")); err != nil || string(now) != text {
		t.Errorf("the record is now %s, %v", now, err)
	}
}

// TestARecordThatWasLostIsRemembered has a host that may have been a node, until it is one again.
func TestARecordThatWasLostIsRemembered(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, `{"name": `)
	if _, err := hostrecord.Identity(dir, func(string) string { return "boot" }); err != nil {
		t.Fatal(err)
	}
	if r, _, err := hostrecord.Read(dir); err != nil || r.ID == "" || !r.Member() {
		t.Errorf("record %+v, %v", r, err)
	}
}
