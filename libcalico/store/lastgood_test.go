package store_test

import (
	"slices"
	"testing"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// TestEveryKindThatPolicyReadsKeepsItsLastGoodVersion has one of each kind turn bad, be
// mended, turn bad again and be deleted.
func TestEveryKindThatPolicyReadsKeepsItsLastGoodVersion(t *testing.T) {
	for path, values := range map[string]struct{ good, bad string }{
		policyPath:                                  {goodPolicy, `{"selector":"role == 'web'","inbound_rules":[{"action":"allow","src_net":"here"}]}`},
		rulesPath:                                   {`{"inbound_rules":[{"action":"allow"}]}`, `{"inbound_rules":[{"action":"open"}]}`},
		"/calico/v1/policy/tier/guard/metadata":     {`{"order":5}`, `{"order":5,"default_action":"Perhaps"}`},
		"/calico/v1/netset/blocklist":               {`{"nets":["10.0.0.0/8"],"labels":{"bad":"yes"}}`, `{"nets":["10.0.0.0/8","here"],"labels":{"bad":"yes"}}`},
		"/calico/v1/host/node00/endpoint/eth0":      {`{"name":"eth0"}`, `{"name":"eth0","expected_ipv4_addrs":["here"]}`},
		"/calico/v1/host/n/workload/o/w/endpoint/e": {`{"state":"active","name":"cali1"}`, `{"state":"sleeping","name":"cali1"}`},
		poolPath:                            {goodPool, `nonsense`},
		"/calico/v1/ipam/v6/pool/fd00::-64": {`{"cidr":"fd00::/64","masquerade":true,"ipam":true}`, `{"cidr":"fd00::/64","masquerade":"yes"}`},
		"/calico/v1/policy/tier/guard/policy/%2Fquoted": {goodPolicy, `{`},
	} {
		v := store.New(store.Options{KeepLastGood: true})
		apply := func(b store.Batch) store.Event {
			t.Helper()
			events := v.Apply(b)
			if len(events) != 1 {
				t.Fatalf("%s: events are %v", path, events)
			}
			return events[0]
		}
		good := apply(snapshot(5, put(path, values.good, 3)))
		if good.Value == nil || good.Err != nil {
			t.Fatalf("%s: %+v", path, good)
		}
		if e := apply(puts(6, put(path, values.bad, 6))); e.Value != good.Value || e.Err == nil {
			t.Errorf("%s turns bad: %+v", path, e)
		}
		if e := apply(puts(7, put(path, values.good, 7))); e.Value == nil || e.Err != nil || len(v.Quarantined()) > 0 {
			t.Errorf("%s is mended: %+v", path, e)
		}
		apply(puts(8, put(path, values.bad, 8)))
		if e := apply(deletes(9, path)); e.Value != nil || e.Err != nil || len(v.Quarantined()) > 0 {
			t.Errorf("%s is deleted: %+v", path, e)
		}
		if e := apply(puts(10, put(path, values.bad, 10))); e.Value != nil || e.Err == nil {
			t.Errorf("%s is bad from its beginning: %+v", path, e)
		}
	}
}

// TestOfAnUnusableValueIsToldWhatCanBeRead looks at the fields that are readable by
// themselves.
func TestOfAnUnusableValueIsToldWhatCanBeRead(t *testing.T) {
	read := func(path, value string) (model.Resource, []string) {
		t.Helper()
		v := store.New(store.Options{})
		v.Apply(snapshot(5, put(path, value, 3)))
		q := v.Quarantined()
		if len(q) != 1 {
			t.Fatalf("%s %s: quarantined are %v", path, value, q)
		}
		return q[0].Value, q[0].Unreadable
	}
	r, unreadable := read(policyPath, `{"order":"first","selector":"role == 'web'","inbound_rules":[{"action":"allow","src_nets":["here"]}],"types":["ingress"]}`)
	if p, ok := r.(*model.Policy); !ok || p.Selector != "role == 'web'" || len(p.InboundRules) > 0 || p.Order != nil || !slices.Equal(p.Types, []string{"ingress"}) {
		t.Errorf("of the policy: %+v", r)
	}
	if !slices.Equal(unreadable, []string{"inbound_rules", "order"}) {
		t.Errorf("of the policy cannot be read: %v", unreadable)
	}
	r, unreadable = read("/calico/v1/netset/blocklist", `{"nets":["10.0.0.0/8","here"],"labels":{"bad":"yes"}}`)
	if s, ok := r.(*model.NetworkSet); !ok || len(s.Nets) > 0 || s.Labels["bad"] != "yes" || !slices.Equal(unreadable, []string{"nets"}) {
		t.Errorf("of the network set: %+v, not %v", r, unreadable)
	}
	r, unreadable = read(tagsPath, `["good",5]`)
	if p, ok := r.(*model.Profile); !ok || p.Tags != nil || !slices.Equal(unreadable, []string{"tags"}) {
		t.Errorf("of the profile: %+v, not %v", r, unreadable)
	}
	for _, value := range []string{``, `{"order":`, `[]`} {
		if r, unreadable = read(policyPath, value); r != nil || len(unreadable) > 0 {
			t.Errorf("of %q: %+v, not %v", value, r, unreadable)
		}
	}
	// A value that is read, but not valid, is told whole.
	r, unreadable = read("/calico/v1/host/n/workload/o/w/endpoint/e", `{"state":"sleeping","name":"cali1"}`)
	if e, ok := r.(*model.WorkloadEndpoint); !ok || e.State != "sleeping" || len(unreadable) > 0 {
		t.Errorf("of the endpoint: %+v, not %v", r, unreadable)
	}
}

// TestWhatCanBeReadOfAnUnusableValueIsToldAnewWhenItChanges edits a value whose fault stays,
// in a field that can be read: what stands in for it must follow. When an older version is
// in force it changes nothing, and nothing is told.
func TestWhatCanBeReadOfAnUnusableValueIsToldAnewWhenItChanges(t *testing.T) {
	const path, fault = "/calico/v1/policy/tier/guard/policy/a", `"inbound_rules":[{"action":"allow","src_net":"here"}]}`
	v := store.New(store.Options{KeepLastGood: true})
	v.Apply(snapshot(5, put(path, `{"selector":"role == 'web'",`+fault, 3)))
	for i, value := range []string{`{"selector":"role == 'db'",`, `{"selector":"role == 'db'","order":"x",`, `{"selector":7,"order":"x",`} {
		rev := int64(6 + i)
		if events := v.Apply(puts(rev, put(path, value+fault, rev))); len(events) != 1 || events[0].Value != nil || events[0].Err == nil || events[0].Revision != rev {
			t.Errorf("%s: events are %+v", value, events)
		}
		if events := v.Apply(puts(rev, put(path, value+fault, rev))); len(events) != 0 {
			t.Errorf("%s once more: events are %+v", value, events)
		}
	}
	v.Apply(puts(20, put(path, goodPolicy, 20)))
	v.Apply(puts(21, put(path, `{"selector":"role == 'web'",`+fault, 21)))
	if events := v.Apply(puts(22, put(path, `{"selector":"role == 'db'",`+fault, 22))); len(events) != 0 {
		t.Errorf("the last good version is in force: events are %+v", events)
	}
}
