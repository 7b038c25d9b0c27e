package backend

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"calico.internal/confd-templates/internal/expect"
	"calico.internal/libcalico/store"
	"github.com/google/go-cmp/cmp"
)

// kvs makes values of "key value" texts.
func kvs(texts ...string) []store.KV {
	var out []store.KV
	for _, text := range texts {
		key, value, _ := strings.Cut(text, " ")
		out = append(out, store.KV{Path: key, Value: []byte(value)})
	}
	return out
}

func signalled(s *Store) bool {
	select {
	case <-s.Changed():
		return true
	default:
		return false
	}
}

func get(t *testing.T, s *Store, keys ...string) map[string]string {
	t.Helper()
	values, err := s.GetValues(keys)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func TestValuesAreThereOnlyWhenAllPrefixesAreRead(t *testing.T) {
	s := New([]string{"/a", "/b"}, nil, slog.New(slog.DiscardHandler))
	s.Apply("/a", store.Batch{Snapshot: true, Puts: kvs("/a/x 1")})
	if _, err := s.GetValues([]string{"/a"}); !errors.Is(err, ErrNotInSync) {
		t.Errorf("GetValues = %v, want %v", err, ErrNotInSync)
	}
	select {
	case <-s.Synced():
		t.Error("Synced before all prefixes are read")
	default:
	}
	s.Apply("/b", store.Batch{Snapshot: true})
	<-s.Synced()
	if !signalled(s) {
		t.Error("no signal when the values are complete")
	}
	if diff := cmp.Diff(map[string]string{"/a/x": "1"}, get(t, s, "/a", "/b")); diff != "" {
		t.Error(diff)
	}
}

func TestChanges(t *testing.T) {
	s := New([]string{"/a", "/b"}, nil, slog.New(slog.DiscardHandler))
	s.Apply("/a", store.Batch{Snapshot: true, Puts: kvs("/a/x 1", "/a/y 2", "/abc 3")})
	s.Apply("/b", store.Batch{Snapshot: true, Puts: kvs("/b/z 4")})
	signalled(s)
	for _, c := range []struct {
		name   string
		prefix string
		batch  store.Batch
		signal bool
		want   map[string]string
	}{
		{"a put", "/a", store.Batch{Puts: kvs("/a/x 5")}, true, map[string]string{"/a/x": "5", "/a/y": "2", "/b/z": "4"}},
		{"a put of what is there", "/a", store.Batch{Puts: kvs("/a/x 5")}, false, map[string]string{"/a/x": "5", "/a/y": "2", "/b/z": "4"}},
		{"a delete", "/a", store.Batch{Deletes: []string{"/a/y"}}, true, map[string]string{"/a/x": "5", "/b/z": "4"}},
		{"an empty batch", "/a", store.Batch{Revision: 9}, false, map[string]string{"/a/x": "5", "/b/z": "4"}},
		{"a snapshot without a key", "/a", store.Batch{Snapshot: true, Puts: kvs("/a/n 6")}, true, map[string]string{"/a/n": "6", "/b/z": "4"}},
		{"an equal snapshot", "/a", store.Batch{Snapshot: true, Puts: kvs("/a/n 6")}, false, map[string]string{"/a/n": "6", "/b/z": "4"}},
		{"a lost connection", "/a", store.Batch{Err: errors.New("gone")}, false, map[string]string{"/a/n": "6", "/b/z": "4"}},
	} {
		s.Apply(c.prefix, c.batch)
		if got := signalled(s); got != c.signal {
			t.Errorf("%s: signalled %t, want %t", c.name, got, c.signal)
		}
		if diff := cmp.Diff(c.want, get(t, s, "/a", "/b")); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestGetValuesKeepsToKeyBoundaries(t *testing.T) {
	s := New([]string{"/"}, nil, slog.New(slog.DiscardHandler))
	s.Apply("/", store.Batch{Snapshot: true, Puts: kvs("/a 1", "/a/b 2", "/ab 3", "/c/d/e 4")})
	for _, c := range []struct {
		keys []string
		want map[string]string
	}{
		{[]string{"/a"}, map[string]string{"/a": "1", "/a/b": "2"}},
		{[]string{"/a/"}, map[string]string{"/a": "1", "/a/b": "2"}},
		{[]string{"/c/d", "/ab"}, map[string]string{"/ab": "3", "/c/d/e": "4"}},
		{[]string{"/"}, map[string]string{"/a": "1", "/a/b": "2", "/ab": "3", "/c/d/e": "4"}},
		{[]string{"/nothing"}, map[string]string{}},
	} {
		if diff := cmp.Diff(c.want, get(t, s, c.keys...)); diff != "" {
			t.Errorf("%q: %s", c.keys, diff)
		}
	}
}

func TestBadValues(t *testing.T) {
	var log bytes.Buffer
	rules := expect.Rules{{Keys: []string{"/a/*"}, Value: "ipv4"}}
	s := New([]string{"/a"}, rules, slog.New(slog.NewTextHandler(&log, nil)))
	has := func(when string, values map[string]string, bad ...string) {
		t.Helper()
		if diff := cmp.Diff(values, get(t, s, "/a")); diff != "" {
			t.Errorf("%s: values: %s", when, diff)
		}
		got := s.Bad()
		for _, key := range bad {
			if got[key] == nil {
				t.Errorf("%s: %s is not among the bad ones", when, key)
			}
		}
		if len(got) != len(bad) {
			t.Errorf("%s: bad %v, want %q", when, got, bad)
		}
	}
	s.Apply("/a", store.Batch{Snapshot: true, Puts: kvs("/a/good 10.0.0.1", "/a/bad nonsense")})
	has("at the start", map[string]string{"/a/good": "10.0.0.1"}, "/a/bad")
	s.Apply("/a", store.Batch{Puts: kvs("/a/good worse")})
	has("a good one turns bad", map[string]string{"/a/good": "10.0.0.1"}, "/a/bad", "/a/good")
	s.Apply("/a", store.Batch{Snapshot: true, Puts: kvs("/a/good worse", "/a/bad nonsense")})
	has("after an audit", map[string]string{"/a/good": "10.0.0.1"}, "/a/bad", "/a/good")
	s.Apply("/a", store.Batch{Puts: kvs("/a/bad 10.0.0.2")})
	has("a bad one turns good", map[string]string{"/a/good": "10.0.0.1", "/a/bad": "10.0.0.2"}, "/a/good")
	s.Apply("/a", store.Batch{Deletes: []string{"/a/good"}})
	has("a bad one is deleted", map[string]string{"/a/bad": "10.0.0.2"})
	if n := strings.Count(log.String(), "level=ERROR"); n != 2 {
		t.Errorf("%d errors in the log, want one each:\n%s", n, log.String())
	}
}

func TestLossOfEtcdIsLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	s := New([]string{"/a", "/b"}, nil, slog.New(slog.NewTextHandler(&log, nil)))
	for range 3 {
		s.Apply("/a", store.Batch{Err: errors.New("gone")})
		s.Apply("/b", store.Batch{Err: errors.New("gone")})
	}
	s.Apply("/a", store.Batch{Snapshot: true})
	s.Apply("/b", store.Batch{Snapshot: true})
	if lost, back := strings.Count(log.String(), "cannot be reached"), strings.Count(log.String(), "answers again"); lost != 1 || back != 1 {
		t.Errorf("logged the loss %d times and the return %d times, want once:\n%s", lost, back, log.String())
	}
}

func TestPrefixes(t *testing.T) {
	got := Prefixes([]string{"/calico/v1/ipam", "/calico/bgp/v1", "/calico/bgp/v1/global", "/calico/bgp/v10", "/calico/bgp/v1"})
	if diff := cmp.Diff([]string{"/calico/bgp/v1", "/calico/bgp/v10", "/calico/v1/ipam"}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"/"}, Prefixes([]string{"/a", "/"})); diff != "" {
		t.Error(diff)
	}
}

// What a restored store lacks of nodes stays until it is there again, or is deleted.
func TestFactsOutliveARestoredStore(t *testing.T) {
	rules := expect.Rules{{Keys: []string{"/h/*/ip"}, Value: "ipv4", Fact: true}, {Keys: []string{"/g"}, Value: "text"}}
	s := New([]string{"/h", "/g"}, rules, slog.New(slog.DiscardHandler))
	all := kvs("/h/a/ip 10.0.0.1", "/h/b/ip 10.0.0.2", "/h/b/level debug", "/h/c/ip 10.0.0.3", "/h/d/ip 10.0.0.4")
	s.Apply("/h", store.Batch{Snapshot: true, Puts: all})
	s.Apply("/g", store.Batch{Snapshot: true, Puts: kvs("/g 1")})
	old := kvs("/h/a/ip 10.0.0.1")
	for _, c := range []struct {
		name   string
		prefix string
		batch  store.Batch
		want   map[string]string
	}{
		{"what is wanted follows", "/g", store.Batch{Snapshot: true, Restored: true}, map[string]string{
			"/h/a/ip": "10.0.0.1", "/h/b/ip": "10.0.0.2", "/h/b/level": "debug", "/h/c/ip": "10.0.0.3", "/h/d/ip": "10.0.0.4",
		}},
		{"what is stays", "/h", store.Batch{Snapshot: true, Restored: true, Puts: old, Deletes: []string{"/h/d/ip"}}, map[string]string{
			"/h/a/ip": "10.0.0.1", "/h/b/ip": "10.0.0.2", "/h/c/ip": "10.0.0.3",
		}},
		{"an audit", "/h", store.Batch{Snapshot: true, Puts: old}, map[string]string{"/h/a/ip": "10.0.0.1", "/h/b/ip": "10.0.0.2", "/h/c/ip": "10.0.0.3"}},
		{"one comes back", "/h", store.Batch{Puts: kvs("/h/b/ip 10.0.0.9")}, map[string]string{"/h/a/ip": "10.0.0.1", "/h/b/ip": "10.0.0.9", "/h/c/ip": "10.0.0.3"}},
		{"and is deleted unseen", "/h", store.Batch{Snapshot: true, Puts: old}, map[string]string{"/h/a/ip": "10.0.0.1", "/h/c/ip": "10.0.0.3"}},
		{"one is deleted", "/h", store.Batch{Deletes: []string{"/h/c/ip"}}, map[string]string{"/h/a/ip": "10.0.0.1"}},
		{"no restoration", "/h", store.Batch{Snapshot: true}, map[string]string{}},
	} {
		s.Apply(c.prefix, c.batch)
		if diff := cmp.Diff(c.want, get(t, s, "/h", "/g")); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestWhatIsHeldStays(t *testing.T) {
	s := New([]string{"/a", "/b"}, nil, slog.New(slog.DiscardHandler))
	s.Apply("/a", store.Batch{Snapshot: true, Puts: kvs("/a/x 1", "/a/y 2")})
	s.Apply("/b", store.Batch{Snapshot: true})
	signalled(s)
	why := errors.New("it was emptied")
	s.Apply("/a", store.Batch{Held: why})
	s.Apply("/b", store.Batch{Held: why})
	if diff := cmp.Diff(map[string]string{"/a/x": "1", "/a/y": "2"}, get(t, s, "/a", "/b")); diff != "" || signalled(s) {
		t.Errorf("values were taken away: %s", diff)
	}
	s.Apply("/b", store.Batch{Snapshot: true})
	if !errors.Is(s.Held(), why) {
		t.Errorf("Held = %v while /a is", s.Held())
	}
	s.Apply("/a", store.Batch{Snapshot: true, Puts: kvs("/a/y 2")})
	if s.Held() != nil || !signalled(s) {
		t.Errorf("Held = %v in the end", s.Held())
	}
	if diff := cmp.Diff(map[string]string{"/a/y": "2"}, get(t, s, "/a", "/b")); diff != "" {
		t.Error(diff)
	}
}
