package trust_test

import (
	"strings"
	"testing"

	"calico.internal/libcalico/store"
	"calico.internal/libcalico/trust"
)

const (
	ours   = "aaaa"
	theirs = "bbbb"

	readyPath    = "/calico/v1/Ready"
	guidPath     = "/calico/v1/config/ClusterGUID"
	acceptedPath = "/calico/v1/accepted_guid"
)

// What a store may say about itself.
var (
	empty      = trust.Stored{}
	open       = trust.Stored{HasReady: true, Ready: true, GUID: ours}
	locked     = trust.Stored{HasReady: true, GUID: ours}
	nameless   = trust.Stored{HasReady: true, Ready: true}
	foreign    = trust.Stored{HasReady: true, Ready: true, GUID: theirs}
	shut       = trust.Stored{HasReady: true, GUID: theirs}
	accepted   = trust.Stored{HasReady: true, Ready: true, GUID: theirs, Accepted: theirs}
	acceptShut = trust.Stored{HasReady: true, GUID: theirs, Accepted: theirs}
	instead    = trust.Stored{HasReady: true, Ready: true, GUID: theirs, Accepted: trust.Acceptance(theirs, ours)}
	otherwise  = trust.Stored{HasReady: true, Ready: true, GUID: theirs, Accepted: "cccc"}
	second     = trust.Stored{HasReady: true, Ready: true, GUID: "cccc", Accepted: trust.Acceptance(theirs, ours)}
	secondOf   = trust.Stored{HasReady: true, Ready: true, GUID: "cccc", Accepted: theirs}
	noFlag     = trust.Stored{GUID: ours}
)

func TestVerdicts(t *testing.T) {
	type look struct {
		stored trust.Stored
		want   trust.State
		says   string
	}
	for _, c := range []struct {
		name  string
		known string
		looks []look
	}{
		{"a new host follows a store that is set up", "", []look{{open, trust.Trusted, ""}}},
		{"a new host follows one that has no GUID", "", []look{{nameless, trust.Trusted, ""}}},
		{"a new host does not follow an empty one", "", []look{{empty, trust.Held, "there is no /calico/v1/Ready"}, {open, trust.Trusted, ""}}},
		{"nor one that is locked", "", []look{{locked, trust.Held, "calicoctl datastore unlock"}, {open, trust.Trusted, ""}}},
		{"emptied, and restored", ours, []look{{open, trust.Trusted, ""}, {empty, trust.Held, "Restore or import the data"}, {open, trust.Trusted, ""}}},
		{"emptied before the start", ours, []look{{empty, trust.Held, "calicoctl datastore unlock"}}},
		{"only the flag is lost", "", []look{{open, trust.Trusted, ""}, {noFlag, trust.Held, "there is no /calico/v1/Ready"}}},
		{"only the GUID is lost", "", []look{{open, trust.Trusted, ""}, {nameless, trust.Held, "this host's is aaaa"}}},
		{"an import goes on under a lock", ours, []look{{open, trust.Trusted, ""}, {empty, trust.Held, ""}, {locked, trust.Held, "is locked"}, {open, trust.Trusted, ""}}},
		{"locked and opened", "", []look{{open, trust.Trusted, ""}, {locked, trust.Locked, "is locked"}, {open, trust.Trusted, ""}}},
		{"emptied while it is locked", "", []look{{open, trust.Trusted, ""}, {locked, trust.Locked, ""}, {empty, trust.Held, ""}}},
		{"another cluster's", ours, []look{{foreign, trust.Held, "calicoctl datastore unlock --accept"}}},
		{"another's as of now", "", []look{{open, trust.Trusted, ""}, {foreign, trust.Held, "another cluster"}, {shut, trust.Held, "another cluster"}, {open, trust.Trusted, ""}}},
		{"another's, accepted", ours, []look{{foreign, trust.Held, ""}, {acceptShut, trust.Held, "is locked"}, {accepted, trust.Trusted, ""}}},
		{"what was accepted is this host's from then on", ours, []look{{accepted, trust.Trusted, ""}, {foreign, trust.Trusted, ""}, {open, trust.Held, "its GUID is aaaa, this host's is bbbb"}}},
		{"another's, accepted instead of ours", ours, []look{{foreign, trust.Held, ""}, {instead, trust.Trusted, ""}, {foreign, trust.Trusted, ""}}},
		{"but not instead of a third one's", "cccc", []look{{instead, trust.Held, "its GUID is bbbb, this host's is cccc"}}},
		{"a host without a GUID does not mind", "", []look{{nameless, trust.Trusted, ""}, {empty, trust.Held, ""}, {instead, trust.Trusted, ""}}},
		{"a second foreign store is held again", ours, []look{{instead, trust.Trusted, ""}, {second, trust.Held, "its GUID is cccc, this host's is bbbb"}, {instead, trust.Trusted, ""}}},
		{"also where any host may follow the first", ours, []look{{accepted, trust.Trusted, ""}, {secondOf, trust.Held, "its GUID is cccc, this host's is bbbb"}}},
		{"a third one is accepted", ours, []look{{otherwise, trust.Held, "another cluster"}}},
		{"a GUID is given to a cluster without one", "", []look{{nameless, trust.Trusted, ""}, {open, trust.Trusted, ""}, {foreign, trust.Held, ""}}},
		{"a cluster without a GUID is emptied and set up anew", "", []look{{nameless, trust.Trusted, ""}, {empty, trust.Held, ""}, {foreign, trust.Held, "its GUID is bbbb, this host's is none"}, {accepted, trust.Trusted, ""}}},
		{"a cluster without a GUID is restored", "", []look{{nameless, trust.Trusted, ""}, {empty, trust.Held, ""}, {nameless, trust.Trusted, ""}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := trust.NewJudge("http://etcd:2379", c.known)
			becomes := "what is in force is kept" // nobody knows how to repair it
			for i, l := range c.looks {
				v := j.Look(l.stored)
				if v.State != l.want || !strings.Contains(v.Why, l.says) {
					t.Errorf("look %d at %+v: %+v, want state %d with %q", i, l.stored, v, l.want, l.says)
				}
				if (v.Why == "") != (v.State == trust.Trusted) {
					t.Errorf("look %d: state %d says %q", i, v.State, v.Why)
				}
				if v.Why != "" && (!strings.Contains(v.Why, "http://etcd:2379") || !strings.Contains(v.Why, becomes)) {
					t.Errorf("look %d does not say where, or what becomes of the host: %q", i, v.Why)
				}
				if v.State == trust.Trusted {
					becomes = "what is in force stays and is repaired"
				}
			}
		})
	}
}

func TestWhatIsStored(t *testing.T) {
	var s trust.Stored
	puts := func(pairs ...string) (kvs []store.KV) {
		for i := 0; i < len(pairs); i += 2 {
			kvs = append(kvs, store.KV{Path: pairs[i], Value: []byte(pairs[i+1])})
		}
		return kvs
	}
	for i, c := range []struct {
		batch   store.Batch
		changed bool
		want    trust.Stored
	}{
		{store.Batch{Snapshot: true, Puts: puts("/calico/v1/A", "x", readyPath, "true\n", acceptedPath, theirs, guidPath, ours, "/calico/v1/z", "y")}, true, trust.Stored{HasReady: true, Ready: true, GUID: ours, Accepted: theirs}},
		{store.Batch{Puts: puts("/calico/v1/config/Other", "x"), Deletes: []string{"/calico/v1/host/a"}}, false, trust.Stored{HasReady: true, Ready: true, GUID: ours, Accepted: theirs}},
		{store.Batch{Puts: puts(readyPath, "false"), Deletes: []string{acceptedPath}}, true, trust.Stored{HasReady: true, GUID: ours}},
		{store.Batch{Puts: puts(readyPath, "perhaps")}, true, trust.Stored{HasReady: true, GUID: ours}},
		{store.Batch{Puts: []store.KV{{Path: readyPath}}}, true, trust.Stored{HasReady: true, GUID: ours}},
		{store.Batch{Deletes: []string{readyPath, guidPath}}, true, trust.Stored{}},
		{store.Batch{Snapshot: true, Puts: puts(guidPath, ours)}, true, trust.Stored{GUID: ours}},
		{store.Batch{Snapshot: true}, true, trust.Stored{}},
	} {
		if changed := s.Apply(c.batch); changed != c.changed || s != c.want {
			t.Errorf("batch %d: %+v (changed %t), want %+v (%t)", i, s, changed, c.want, c.changed)
		}
	}
}
