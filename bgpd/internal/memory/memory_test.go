package memory

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sample() Record {
	return Record{
		Node: "node00", ClusterGUID: "abc", Document: "node = \"node00\"\n[[peer]]\npassword = \"secret\"\n",
		Resources: map[string]string{"/calico/bgp/v1/host/node01/ip_addr_v4": "10.0.0.2", "/calico/ipam/v2/host/node00/ipv4/block/192.168.0.0-26": "confirmed"},
	}
}

func mustWrite(t *testing.T, dir string, r Record) {
	t.Helper()
	if _, err := write(dir, r); err != nil {
		t.Fatal(err)
	}
}

func TestARecordIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "calico")
	if _, found, err := Read(dir, "node00", "abc"); found || err != nil {
		t.Fatalf("found %t, %v where nothing is", found, err)
	}
	want := sample()
	want.Written = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	mustWrite(t, dir, want)
	got, found, err := Read(dir, "node00", "abc")
	if err != nil || !found {
		t.Fatalf("found %t, %v", found, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if info, err := os.Stat(filepath.Join(dir, File)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("it holds passwords, and its mode is %v, %v", info.Mode(), err)
	}
}

func TestARecordThatIsOfNoUseIsNamed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, File)
	mustWrite(t, dir, sample())
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(what, says string, text []byte) {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		r, found, err := Read(dir, "node00", "abc")
		if err == nil || found || r.Node != "" || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: found %t, %+v, %v", what, found, r, err)
		}
	}
	for _, text := range []string{"", "{", "[]", "null", `{"version":1}`, `{"version":1,"sha256":"","record":{}}`} {
		expect(text, "", []byte(text))
	}
	for i := range whole {
		expect("cut short", "it is damaged", whole[:i])
	}
	for _, change := range [][2]string{{"10.0.0.2", "10.0.0.3"}, {"confirmed", "confirmee"}, {"node01", "node02"}, {`"sha256":"`, `"sha256":"0`}} {
		expect(change[1], "it is damaged", bytes.Replace(whole, []byte(change[0]), []byte(change[1]), 1))
	}
	expect("an older one", "its format is 0", bytes.Replace(whole, []byte(`"version":1`), []byte(`"version":0`), 1))
	expect("a newer one", "its format is 2", bytes.Replace(whole, []byte(`"version":1`), []byte(`"version":2`), 1))

	mustWrite(t, dir, sample())
	if _, found, err := Read(dir, "node01", "abc"); found || err == nil || !strings.Contains(err.Error(), `is of node "node00", but this host is "node01"`) {
		t.Errorf("another node's: found %t, %v", found, err)
	}
	for _, guid := range []string{"def", ""} {
		if _, found, err := Read(dir, "node00", guid); found || err == nil || !strings.Contains(err.Error(), `the cluster with the GUID "abc"`) {
			t.Errorf("another cluster's: found %t, %v", found, err)
		}
	}
}

func TestPace(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	var p pace
	expect := func(want time.Duration) {
		t.Helper()
		got, due := p.due()
		if due != (want != 0) || due && !got.Equal(at(want)) {
			t.Errorf("due %t at %v, want %v", due, got.Sub(start), want)
		}
	}
	expect(0)
	p.change(at(time.Second))
	expect(2 * time.Second)
	p.change(at(1500 * time.Millisecond))
	expect(2500 * time.Millisecond)
	for d := 2 * time.Second; d < 30*time.Second; d += 500 * time.Millisecond {
		p.change(at(d)) // it never ends
	}
	expect(11 * time.Second)
	p.wrote(at(11 * time.Second))
	expect(0)
	p.change(at(12 * time.Second))
	expect(21 * time.Second)
	p.wrote(at(21 * time.Second))
	p.change(at(60 * time.Second))
	expect(61 * time.Second)
}

// kept runs a keeper for a time that is not the machine's, with changes of the record that
// the test makes, and returns how many writes there were.
type kept struct {
	*Keeper

	t      *testing.T
	record Record
	none   bool
	log    bytes.Buffer
	asked  int
}

func keep(t *testing.T, dir string, before *Record, do func(k *kept)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		k := &kept{t: t, record: sample()}
		k.Keeper = NewKeeper(dir, before, slog.New(slog.NewTextHandler(&k.log, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- k.Run(ctx, func(context.Context) (Record, bool) { k.asked++; return k.record, !k.none })
		}()
		do(k)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// pass lets time go by.
func (k *kept) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (k *kept) wants(what, document string) {
	k.t.Helper()
	r, found, err := Read(k.dir, "node00", "abc")
	if err != nil || found != (document != "") || r.Document != document {
		k.t.Errorf("%s: found %t, document %q, %v; want %q", what, found, r.Document, err, document)
	}
}

func TestAKeeperWritesWhatChanged(t *testing.T) {
	dir := t.TempDir()
	keep(t, dir, nil, func(k *kept) {
		first := k.record.Document
		k.pass(time.Hour)
		k.wants("nothing was said to have changed", "")
		k.Changed()
		k.pass(900 * time.Millisecond)
		k.wants("too early", "")
		k.pass(200 * time.Millisecond)
		k.wants("after a second", first)

		k.record.Document = "second"
		k.Changed()
		k.pass(8 * time.Second)
		k.wants("too soon after the last", first)
		k.pass(2 * time.Second)
		k.wants("ten seconds after the last", "second")

		// The same again is not written, and tells no other time.
		before, err := os.Stat(filepath.Join(dir, File))
		if err != nil {
			t.Fatal(err)
		}
		asked := k.asked
		k.Changed()
		k.pass(time.Minute)
		after, err := os.Stat(filepath.Join(dir, File))
		if err != nil || !os.SameFile(before, after) || k.asked != asked+1 {
			t.Errorf("the same was written again (%v); asked %d times", err, k.asked-asked)
		}

		k.none = true
		k.record.Document = "not to be kept"
		k.Changed()
		k.pass(time.Minute)
		k.wants("there is nothing to remember", "second")
	})
}

func TestAKeeperGoesOnFromWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, sample())
	before, _, err := Read(dir, "node00", "abc")
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.Stat(filepath.Join(dir, File))
	if err != nil {
		t.Fatal(err)
	}
	keep(t, dir, &before, func(k *kept) {
		k.Changed()
		k.pass(time.Minute)
		if now, err := os.Stat(filepath.Join(dir, File)); err != nil || !os.SameFile(stat, now) {
			t.Errorf("what was there was written again, %v", err)
		}
	})
}

func TestWhatChangedLastIsWrittenAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	keep(t, dir, nil, func(k *kept) {
		finish := func() { k.Finish(func() (Record, bool) { return k.record, true }) }
		finish()
		k.wants("nothing changed", "")
		k.Changed()
		k.pass(time.Second)
		k.record.Document = "last"
		k.Changed()
		finish()
		k.wants("at the end", "last")
	})
}

// A disk that is full, or a directory that cannot be had, is named once; the record is
// written when it is well again.
func TestAKeeperTriesAgain(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "calico")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // no directory can be there
		t.Fatal(err)
	}
	keep(t, dir, nil, func(k *kept) {
		k.Changed()
		k.pass(time.Minute)
		if n := strings.Count(k.log.String(), "is not written"); n != 1 {
			t.Errorf("it was said %d times:\n%s", n, k.log.String())
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		k.pass(15 * time.Second)
		k.wants("once it can be", k.record.Document)
	})
}
