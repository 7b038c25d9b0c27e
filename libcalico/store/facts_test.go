package store_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

const (
	endpointA, endpointB   = "workloadEndpoint(node=n, orchestrator=o, workload=w, name=a)", "workloadEndpoint(node=n, orchestrator=o, workload=w, name=b)"
	pathA, pathB           = "/calico/v1/host/n/workload/o/w/endpoint/a", "/calico/v1/host/n/workload/o/w/endpoint/b"
	valueOld, valueYoung   = `{"state":"active","name":"cali1","profile_ids":["old"]}`, `{"state":"active","name":"cali1","profile_ids":["young"]}`
	endpointValue, nowGone = " *model.WorkloadEndpoint", " gone"
)

func restored(rev int64, puts ...store.KV) store.Batch {
	b := snapshot(rev, puts...)
	b.Restored = true
	return b
}

// TestFacts has a store restored in many ways. A step may also release.
func TestFacts(t *testing.T) {
	t.Parallel()
	type step struct {
		batch   store.Batch
		release string // what to release the names of which end so
		want    []string
		kept    []string
	}
	young := step{snapshot(9, put(pathA, valueOld, 3), put(pathB, valueYoung, 8), put(policyPath, goodPolicy, 7)), "", []string{
		"policy(name=web)@7 role == 'web'", endpointA + "@3" + endpointValue, endpointB + "@8" + endpointValue,
	}, nil}
	lost := step{restored(4, put(pathA, valueOld, 3)), "", []string{"policy(name=web)@4 gone"}, []string{endpointB}}
	for name, steps := range map[string][]step{
		"what a backup lacks is kept, what is wanted follows it": {young, lost},
		"what somebody deleted is not kept": {
			young,
			{snapshot(10, put(pathA, valueOld, 3)), "", []string{"policy(name=web)@10 gone", endpointB + "@10" + nowGone}, nil},
		},
		"what comes back is kept no longer": {
			young, lost,
			{puts(5, put(pathB, valueYoung, 5)), "", nil, nil},
			{snapshot(6, put(pathA, valueOld, 3)), "", []string{endpointB + "@6" + nowGone}, nil},
		},
		"what comes back otherwise is followed": {
			young, lost,
			{puts(5, put(pathB, valueOld, 5)), "", []string{endpointB + "@5" + endpointValue}, nil},
		},
		"an audit does not end it":       {young, lost, {snapshot(5, put(pathA, valueOld, 3)), "", nil, []string{endpointB}}},
		"nor does a change of another":   {young, lost, {puts(5, put(pathA, valueYoung, 5)), "", []string{endpointA + "@5" + endpointValue}, []string{endpointB}}},
		"a delete that was seen ends it": {young, lost, {deletes(6, pathB), "", []string{endpointB + "@6" + nowGone}, nil}},
		"so it does when it comes with the backup": {
			young,
			{
				store.Batch{Snapshot: true, Restored: true, Revision: 6, Puts: []store.KV{put(pathA, valueOld, 3)}, Deletes: []string{pathB}},
				"",
				[]string{"policy(name=web)@6 gone", endpointB + "@6" + nowGone},
				nil,
			},
		},
		"its owner ends it": {
			young, lost,
			{store.Batch{}, "x)", nil, []string{endpointB}},
			{store.Batch{}, "b)", []string{endpointB + "@4" + nowGone}, nil},
			{puts(5, put(pathB, valueYoung, 5)), "", []string{endpointB + "@5" + endpointValue}, nil},
		},
		"a second backup": {
			young, lost,
			{restored(2), "", nil, []string{endpointA, endpointB}},
			{restored(4, put(pathA, valueOld, 3)), "", nil, []string{endpointB}},
		},
		"a change of its value in the backup is followed": {
			young,
			{restored(4, put(pathA, valueYoung, 2), put(pathB, valueYoung, 3), put(policyPath, goodPolicy, 4)), "", []string{endpointA + "@2" + endpointValue}, nil},
		},
		"at the start nothing is known": {{restored(4, put(pathA, valueOld, 3)), "", []string{endpointA + "@3" + endpointValue}, nil}},
		"what was never usable is not kept": {
			{snapshot(9, put(pathB, "{", 8)), "", []string{endpointB + "@8 gone bad"}, nil},
			{restored(4), "", []string{endpointB + "@4" + nowGone}, nil},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := store.New(store.Options{Facts: []model.Kind{model.KindWorkloadEndpoint}})
			for i, s := range steps {
				var events []store.Event
				if s.release != "" {
					events = v.Release(func(k model.Key) bool { return strings.HasSuffix(k.String(), s.release) })
				} else {
					events = v.Apply(s.batch)
				}
				var got, kept []string
				for _, e := range events {
					got = append(got, line(e))
				}
				for _, k := range v.Kept() {
					kept = append(kept, k.String())
					if _, ok := v.Get(k); !ok {
						t.Errorf("step %d: %v is kept and not there", i, k)
					}
				}
				if !slices.Equal(got, s.want) || !slices.Equal(kept, s.kept) {
					t.Errorf("step %d gives\n%q, want\n%q; keeps\n%q, want\n%q", i, got, s.want, kept, s.kept)
				}
			}
		})
	}
}

// Of a resource with several parts each is kept by itself: what comes back of one, or is
// deleted, says nothing of the others.
func TestFactsInParts(t *testing.T) {
	t.Parallel()
	const host = "/calico/bgp/v1/host/n/"
	v4, v6, as := put(host+"ip_addr_v4", "10.0.0.1", 3), put(host+"ip_addr_v6", "fd00::1", 8), put(host+"as_num", "64513", 9)
	newer := as
	newer.Value = []byte("64514")
	key := model.NodeKey{Name: "n"}
	for name, steps := range map[string][]struct {
		batch store.Batch
		want  string
		kept  int
	}{
		"the whole of it": {
			{snapshot(9, v4, v6), "10.0.0.1 fd00::1 <nil>", 0},
			{restored(2), "10.0.0.1 fd00::1 <nil>", 1},
			{puts(4, newer), "10.0.0.1 fd00::1 64514", 1},
			{snapshot(5, newer), "10.0.0.1 fd00::1 64514", 1},
			{puts(6, v4), "10.0.0.1 fd00::1 64514", 1},
			{deletes(7, host+"ip_addr_v6"), "10.0.0.1 invalid IP 64514", 0},
			{snapshot(8, newer), "invalid IP invalid IP 64514", 0},
		},
		"a part": {
			{snapshot(9, v4, v6, as), "10.0.0.1 fd00::1 64513", 0},
			{restored(3, v4), "10.0.0.1 fd00::1 64513", 1},
			{snapshot(4, v4), "10.0.0.1 fd00::1 64513", 1},
			{puts(5, v6, as), "10.0.0.1 fd00::1 64513", 0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := store.New(store.Options{Facts: []model.Kind{model.KindNode}})
			for i, s := range steps {
				v.Apply(s.batch)
				value, _ := v.Get(key)
				n, ok := value.(*model.Node)
				if !ok {
					t.Fatalf("step %d: the node is %v", i, value)
				}
				got := fmt.Sprint(n.IPv4, n.IPv6)
				if n.ASNumber == nil {
					got += " <nil>"
				} else {
					got += " " + n.ASNumber.String()
				}
				if got != s.want || v.KeptCount() != s.kept {
					t.Errorf("step %d: the node is %s, want %s; %d are kept, want %d", i, got, s.want, v.KeptCount(), s.kept)
				}
			}
			v.Apply(restored(1))
			v.Release(func(model.Key) bool { return true })
			if _, ok := v.Get(key); ok || v.KeptCount() > 0 {
				t.Errorf("%d are kept", v.KeptCount())
			}
		})
	}
}

// Without the option nothing is kept.
func TestNoFacts(t *testing.T) {
	t.Parallel()
	v := store.New(store.Options{})
	v.Apply(snapshot(9, put(pathA, valueOld, 3)))
	if events := v.Apply(restored(2)); len(events) != 1 || v.Kept() != nil {
		t.Errorf("got %v, keeps %v", events, v.Kept())
	}
}
