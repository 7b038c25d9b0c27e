package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

const (
	policyPath  = "/calico/v1/policy/tier/default/policy/web"
	rulesPath   = "/calico/v1/policy/profile/net1/rules"
	tagsPath    = "/calico/v1/policy/profile/net1/tags"
	metaPath    = "/calico/v1/host/node00/metadata"
	addrPath    = "/calico/bgp/v1/host/node00/ip_addr_v4"
	asPath      = "/calico/bgp/v1/host/node00/as_num"
	settingPath = "/calico/v1/config/LogSeverityScreen"
	poolPath    = "/calico/v1/ipam/v4/pool/10.0.0.0-16"

	goodPolicy = `{"selector":"role == 'web'","inbound_rules":[{"action":"allow"}],"outbound_rules":[]}`
	goodPool   = `{"cidr":"10.0.0.0/16","ipip":"","ipip_mode":"","masquerade":true,"ipam":true,"disabled":false}`
)

// line is an event as one line of text, which is what the tests compare.
func line(e store.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v@%d", e.Key, e.Revision)
	switch r := e.Value.(type) {
	case nil:
		b.WriteString(" gone")
	case *model.Node:
		fmt.Fprintf(&b, " %v", r.IPv4)
		if r.ASNumber != nil {
			fmt.Fprintf(&b, " AS %v", *r.ASNumber)
		}
	case *model.Profile:
		fmt.Fprintf(&b, " rules %d tags %v", len(r.InboundRules)+len(r.OutboundRules), r.Tags)
	case *model.Policy:
		fmt.Fprintf(&b, " %s", r.Selector)
	case *model.Setting:
		fmt.Fprintf(&b, " %s", r.Value)
	case *model.IPPool:
		fmt.Fprintf(&b, " %v", r.CIDR)
	default:
		fmt.Fprintf(&b, " %T", r)
	}
	if e.Err != nil {
		b.WriteString(" bad")
	}
	return b.String()
}

// step is a batch and the events that it must give.
type step struct {
	batch store.Batch
	want  []string
}

func put(path, value string, rev int64) store.KV {
	return store.KV{Path: path, Value: []byte(value), ModRevision: rev}
}

func snapshot(rev int64, puts ...store.KV) store.Batch {
	return store.Batch{Snapshot: true, Revision: rev, Puts: puts}
}

func puts(rev int64, kvs ...store.KV) store.Batch { return store.Batch{Revision: rev, Puts: kvs} }

func deletes(rev int64, paths ...string) store.Batch {
	return store.Batch{Revision: rev, Deletes: paths}
}

func TestApply(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		opts  store.Options
		steps []step
	}{
		{"a snapshot, a change and a delete", store.Options{}, []step{
			{snapshot(5, put(settingPath, "info", 3)), []string{"felixConfig(name=LogSeverityScreen)@3 info"}},
			{puts(6, put(settingPath, "debug", 6)), []string{"felixConfig(name=LogSeverityScreen)@6 debug"}},
			{deletes(7, settingPath), []string{"felixConfig(name=LogSeverityScreen)@7 gone"}},
			{deletes(8, settingPath), nil},
		}},
		{"a composite resource comes as one", store.Options{}, []step{
			{snapshot(5, put(addrPath, "10.0.0.1", 3), put(metaPath, "{}", 2), put(asPath, "64513", 4)), []string{"node(name=node00)@4 10.0.0.1 AS 64513"}},
			{puts(6, put(addrPath, "10.0.0.2", 6)), []string{"node(name=node00)@6 10.0.0.2 AS 64513"}},
			{store.Batch{Revision: 7, Puts: []store.KV{put(metaPath, "{}", 7)}, Deletes: []string{asPath}}, []string{"node(name=node00)@7 10.0.0.2"}},
			{deletes(8, metaPath), nil},
			{deletes(9, addrPath), []string{"node(name=node00)@9 gone"}},
		}},
		{"an unchanged value gives no event", store.Options{}, []step{
			{snapshot(5, put(rulesPath, `{"inbound_rules":[]}`, 3), put(tagsPath, `["a"]`, 3)), []string{"profile(name=net1)@3 rules 0 tags [a]"}},
			{puts(6, put(tagsPath, `["a"]`, 6)), nil},
			{puts(7, put(tagsPath, ` [ "a" ]`, 7)), nil},
			{puts(8, put(rulesPath, `{"inbound_rules":null}`, 8)), nil},
			{puts(9, put(rulesPath, `{"inbound_rules":null,"x":1}`, 9)), []string{"profile(name=net1)@9 rules 0 tags [a]"}}, // a newer program's field
		}},
		{"a snapshot is a difference", store.Options{}, []step{
			{
				snapshot(5, put(settingPath, "info", 3), put(policyPath, goodPolicy, 4), put(poolPath, goodPool, 2)),
				[]string{"felixConfig(name=LogSeverityScreen)@3 info", "policy(name=web)@4 role == 'web'", "ipPool(cidr=10.0.0.0/16)@2 10.0.0.0/16"},
			},
			{snapshot(9, put(settingPath, "debug", 8), put(policyPath, goodPolicy, 4)), []string{"felixConfig(name=LogSeverityScreen)@8 debug", "ipPool(cidr=10.0.0.0/16)@9 gone"}},
			{snapshot(10, put(settingPath, "debug", 8), put(policyPath, goodPolicy, 4)), nil},
			{snapshot(11), []string{"felixConfig(name=LogSeverityScreen)@11 gone", "policy(name=web)@11 gone"}},
		}},
		{"a restored backup is older", store.Options{}, []step{
			{snapshot(50, put(settingPath, "debug", 40), put(asPath, "1", 30)), []string{"felixConfig(name=LogSeverityScreen)@40 debug", "node(name=node00)@30 invalid IP AS 1"}},
			{snapshot(20, put(settingPath, "info", 10)), []string{"felixConfig(name=LogSeverityScreen)@10 info", "node(name=node00)@20 gone"}},
			{puts(21, put(settingPath, "warning", 21)), []string{"felixConfig(name=LogSeverityScreen)@21 warning"}},
		}},
		{"a part lost in a snapshot changes the resource", store.Options{}, []step{
			{snapshot(5, put(metaPath, "{}", 2), put(addrPath, "10.0.0.1", 3)), []string{"node(name=node00)@3 10.0.0.1"}},
			{snapshot(6, put(metaPath, "{}", 2)), []string{"node(name=node00)@2 invalid IP"}},
		}},
		{"a bad policy without a good one before", store.Options{KeepLastGood: true}, []step{
			{snapshot(5, put(policyPath, `{`, 3)), []string{"policy(name=web)@3 gone bad"}},
			{puts(6, put(policyPath, goodPolicy, 6)), []string{"policy(name=web)@6 role == 'web'"}},
		}},
		{"a bad policy keeps the last good one", store.Options{KeepLastGood: true}, []step{
			{snapshot(5, put(policyPath, goodPolicy, 3)), []string{"policy(name=web)@3 role == 'web'"}},
			{puts(6, put(policyPath, `{"selector":"role = "}`, 6)), []string{"policy(name=web)@6 role == 'web' bad"}},
			{puts(7, put(policyPath, `{"selector":"role = "}`, 7)), nil},
			{puts(8, put(policyPath, `{"selector":"other = "}`, 8)), []string{"policy(name=web)@8 role == 'web' bad"}},
			{snapshot(9, put(policyPath, `{"selector":"other = "}`, 8)), nil},
			{puts(10, put(policyPath, goodPolicy, 10)), []string{"policy(name=web)@10 role == 'web'"}},
			{puts(11, put(policyPath, `x`, 11)), []string{"policy(name=web)@11 role == 'web' bad"}},
			{deletes(12, policyPath), []string{"policy(name=web)@12 gone"}},
			{puts(13, put(policyPath, `x`, 13)), []string{"policy(name=web)@13 gone bad"}},
			{deletes(14, policyPath), []string{"policy(name=web)@14 gone"}},
		}},
		{"a bad profile part keeps the whole last good profile", store.Options{KeepLastGood: true}, []step{
			{snapshot(5, put(rulesPath, `{"inbound_rules":[{"action":"allow"}]}`, 3), put(tagsPath, `["a"]`, 3)), []string{"profile(name=net1)@3 rules 1 tags [a]"}},
			{puts(6, put(rulesPath, `{"inbound_rules":[]}`, 6), put(tagsPath, `["a b"]`, 6)), []string{"profile(name=net1)@6 rules 1 tags [a] bad"}},
			{puts(7, put(tagsPath, `["b"]`, 7)), []string{"profile(name=net1)@7 rules 0 tags [b]"}},
		}},
		{"without KeepLastGood a bad policy is gone", store.Options{}, []step{
			{snapshot(5, put(policyPath, goodPolicy, 3)), []string{"policy(name=web)@3 role == 'web'"}},
			{puts(6, put(policyPath, `x`, 6)), []string{"policy(name=web)@6 gone bad"}},
		}},
		{"a bad pool keeps the last good one", store.Options{KeepLastGood: true}, []step{
			{snapshot(5, put(poolPath, goodPool, 3)), []string{"ipPool(cidr=10.0.0.0/16)@3 10.0.0.0/16"}},
			{puts(6, put(poolPath, strings.Replace(goodPool, "10.0.0.0/16", "10.0.0.0/8", 1), 6)), []string{"ipPool(cidr=10.0.0.0/16)@6 10.0.0.0/16 bad"}},
		}},
		{"kinds that policy does not read are gone when they turn bad", store.Options{KeepLastGood: true}, []step{
			{snapshot(5, put("/calico/v1/ipreservations/r", `{"reserved_cidrs":["10.0.0.0/30"]}`, 3)), []string{"ipReservation(name=r)@3 *model.IPReservation"}},
			{puts(6, put("/calico/v1/ipreservations/r", `{"reserved_cidrs":["here"]}`, 6)), []string{"ipReservation(name=r)@6 gone bad"}},
		}},
		{"what does not belong to the tree is passed over", store.Options{}, []step{
			{snapshot(5, put("/other", "x", 1), put("/calico/bgp/v1/global/custom_filters/v4/x", "x", 1), put("/calico/v1/ipam/v4/pool/x", "x", 2)), nil},
			{deletes(6, "/other", "/calico/v1/ipam/v4/pool/x"), nil},
		}},
		{
			"a filter chooses",
			store.Options{Filter: func(k model.Key) bool { return k.Kind() == model.KindPolicy }},
			[]step{
				{snapshot(5, put(policyPath, goodPolicy, 3), put(settingPath, "info", 3), put(poolPath, "broken", 3)), []string{"policy(name=web)@3 role == 'web'"}},
				{deletes(6, settingPath, policyPath), []string{"policy(name=web)@6 gone"}},
			},
		},
		{"a loss changes nothing", store.Options{}, []step{
			{snapshot(5, put(settingPath, "info", 3)), []string{"felixConfig(name=LogSeverityScreen)@3 info"}},
			{store.Batch{Err: errors.New("lost")}, nil},
			{puts(5), nil},
		}},
		{"events are sorted by kind and path", store.Options{}, []step{
			{
				puts(5, put("/calico/v1/host/b/endpoint/e", `{"name":"e"}`, 1), put("/calico/v1/host/a/endpoint/e", `{"name":"e"}`, 2), put(settingPath, "info", 3), put(policyPath, goodPolicy, 4)),
				[]string{
					"felixConfig(name=LogSeverityScreen)@3 info", "policy(name=web)@4 role == 'web'",
					"hostEndpoint(node=a, name=e)@2 *model.HostEndpoint", "hostEndpoint(node=b, name=e)@1 *model.HostEndpoint",
				},
			},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := store.New(tt.opts)
			for i, s := range tt.steps {
				var got []string
				for _, e := range v.Apply(s.batch) {
					got = append(got, line(e))
					checkGet(t, v, e)
				}
				if diff := cmp.Diff(s.want, got); diff != "" {
					t.Errorf("step %d: events (-want +got):\n%s", i+1, diff)
				}
			}
		})
	}
}

func checkGet(t *testing.T, v *store.View, e store.Event) {
	t.Helper()
	r, ok := v.Get(e.Key)
	if ok != (e.Value != nil) || r != e.Value {
		t.Errorf("after %s, Get gives %v, %v", line(e), r, ok)
	}
}

func TestStateOfAView(t *testing.T) {
	t.Parallel()
	v := store.New(store.Options{})
	state := func() string { return fmt.Sprint(v.InSync(), v.Connected(), v.Revision()) }
	for _, s := range []struct {
		batch store.Batch
		want  string
	}{
		{store.Batch{Err: errors.New("not yet")}, "false false 0"},
		{snapshot(7), "true true 7"},
		{puts(9), "true true 9"},
		{store.Batch{Err: errors.New("lost")}, "true false 9"},
		{snapshot(3), "true true 3"},
	} {
		v.Apply(s.batch)
		if got := state(); got != s.want {
			t.Errorf("state %s, want %s", got, s.want)
		}
	}
}

func TestQuarantined(t *testing.T) {
	t.Parallel()
	v := store.New(store.Options{})
	list := func() []string {
		var lines []string
		for _, q := range v.Quarantined() {
			lines = append(lines, fmt.Sprintf("%v %s %v", q.Key, q.Path, q.Value != nil))
			if q.Err == nil {
				t.Errorf("%s without a reason", q.Path)
			}
		}
		return lines
	}
	v.Apply(snapshot(5, put(policyPath, `{"selector":"("}`, 1), put(asPath, "x", 2), put(metaPath, "{}", 2), put("/calico/v1/ipam/v4/pool/x", "x", 3), put(settingPath, "info", 4)))
	want := []string{
		"node(name=node00) /calico/bgp/v1/host/node00/as_num false",
		"<nil> /calico/v1/ipam/v4/pool/x false",
		"policy(name=web) /calico/v1/policy/tier/default/policy/web true",
	}
	if diff := cmp.Diff(want, list()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	v.Apply(store.Batch{Revision: 6, Puts: []store.KV{put(asPath, "64512", 6)}, Deletes: []string{policyPath}})
	if diff := cmp.Diff([]string{"<nil> /calico/v1/ipam/v4/pool/x false"}, list()); diff != "" {
		t.Errorf("after repair (-want +got):\n%s", diff)
	}
	v.Apply(snapshot(7, put(settingPath, "info", 4)))
	if got := list(); got != nil {
		t.Errorf("after all is gone: %v", got)
	}
}

// Each hostile value is set aside alone; what stands beside it is used.
func TestHostileValues(t *testing.T) {
	t.Parallel()
	labels := make([]string, 100_000)
	for i := range labels {
		labels[i] = fmt.Sprintf("%q:%q", fmt.Sprint("l", i), "x")
	}
	for name, kv := range map[string]store.KV{
		"10 MB":                  put(policyPath, strings.Repeat("x", 10<<20), 1),
		"invalid JSON":           put(policyPath, `{"selector":`, 1),
		"NUL in a name":          put("/calico/v1/policy/tier/default/policy/a\x00b", goodPolicy, 1),
		"rule in a name":         put("/calico/v1/policy/tier/default/policy/a\n-j ACCEPT", goodPolicy, 1),
		"path climbing":          put("/calico/v1/policy/tier/default/policy/..%2F..%2Fx y", goodPolicy, 1),
		"100,000 labels":         put("/calico/v1/host/n/endpoint/e", `{"name":"e","labels":{`+strings.Join(labels, ",")+`}}`, 1),
		"deep selector":          put(policyPath, `{"selector":"`+strings.Repeat("(", 10_000)+"all()"+strings.Repeat(")", 10_000)+`"}`, 1),
		"pool of everything":     put("/calico/v1/ipam/v4/pool/0.0.0.0-0", strings.Replace(goodPool, "10.0.0.0/16", "0.0.0.0/0", 1), 1),
		"IPv4-mapped IPv6":       put("/calico/v1/netset/s", `{"nets":["::ffff:10.0.0.0/104"]}`, 1),
		"port 70000":             put(policyPath, `{"inbound_rules":[{"action":"allow","protocol":"tcp","dst_ports":[70000]}]}`, 1),
		"interface with a slash": put("/calico/v1/host/n/endpoint/e", `{"name":"../../x"}`, 1),
		"interface of 200":       put("/calico/v1/host/n/endpoint/e", `{"name":"`+strings.Repeat("x", 200)+`"}`, 1),
		"deep JSON":              put(policyPath, `{"x":`+strings.Repeat("[", 100_000), 1),
		"block without end":      put("/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26", `{"cidr":"10.0.0.0/26","allocations":[99]}`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := store.New(store.Options{})
			events := v.Apply(snapshot(5, kv, put(settingPath, "info", 1)))
			good := slices.ContainsFunc(events, func(e store.Event) bool { return e.Key.Kind() == model.KindFelixConfig && e.Err == nil })
			bad := slices.ContainsFunc(events, func(e store.Event) bool {
				return e.Key.Kind() != model.KindFelixConfig && e.Err != nil && e.Value == nil
			})
			if !good || !bad || len(events) != 2 {
				t.Errorf("events: %q", lines(events))
			}
			if got := v.Quarantined(); len(got) != 1 {
				t.Errorf("%d values in quarantine", len(got))
			}
		})
	}
}

func lines(events []store.Event) []string {
	var list []string
	for _, e := range events {
		list = append(list, line(e))
	}
	return list
}

// The order in which values arrive, and how they are cut into batches, does not matter
// for what the view holds in the end.
func TestAnyOrderGivesTheSameView(t *testing.T) {
	t.Parallel()
	var all []store.KV
	for i := range 20 {
		node := fmt.Sprint("node", i)
		all = append(all,
			put("/calico/v1/host/"+node+"/metadata", "{}", int64(i)),
			put("/calico/bgp/v1/host/"+node+"/ip_addr_v4", netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}).String(), int64(i)),
			put("/calico/v1/policy/profile/"+node+"/tags", `["a"]`, int64(i)),
			put("/calico/v1/policy/profile/"+node+"/rules", `{}`, int64(i)),
			put("/calico/v1/policy/tier/default/policy/"+node, goodPolicy, int64(i)))
	}
	want := store.New(store.Options{})
	wantEvents := lines(want.Apply(snapshot(100, all...)))
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		v := store.New(store.Options{})
		for rest := all; len(rest) > 0; {
			n := 1 + r.IntN(len(rest))
			v.Apply(puts(50, rest[:n]...))
			rest = rest[n:]
		}
		if got := v.Apply(snapshot(100, all...)); len(got) > 0 {
			t.Errorf("seed %d: the final snapshot changes %q", seed, lines(got))
		}
		shuffled := store.New(store.Options{})
		if diff := cmp.Diff(wantEvents, lines(shuffled.Apply(snapshot(100, all...)))); diff != "" {
			t.Errorf("seed %d: events depend on the order of the values (-want +got):\n%s", seed, diff)
		}
	}
}

func BenchmarkSnapshotUnchanged(b *testing.B) {
	all := make([]store.KV, 10_000)
	for i := range all {
		all[i] = put(fmt.Sprintf("/calico/v1/host/n/workload/o/w/endpoint/e%05d", i),
			fmt.Sprintf(`{"state":"active","name":"cali%05d","active_instance_id":"","profile_ids":["net1"],"ipv4_nets":["10.0.%d.%d/32"],"ipv6_nets":[]}`, i, i/256, i%256), 1)
	}
	v := store.New(store.Options{})
	if got := len(v.Apply(snapshot(1, all...))); got != len(all) {
		b.Fatalf("%d events", got)
	}
	for b.Loop() {
		v.Apply(snapshot(2, all...))
	}
}

// TestResourcesOfASnapshotShare reads more endpoints than are read one by one, and then
// changes one: each must have its own values, and equal labels be in memory once.
func TestResourcesOfASnapshotShare(t *testing.T) {
	t.Parallel()
	const count = 1000
	v := store.New(store.Options{})
	key := func(i int) model.Key {
		return model.WorkloadEndpointKey{Node: "n", Orchestrator: "o", Workload: "w", Name: fmt.Sprint(i)}
	}
	endpoint := func(i int, role string) *model.WorkloadEndpoint {
		return &model.WorkloadEndpoint{
			State: "active", Interface: fmt.Sprintf("cali%d", i), Profiles: []string{"p" + fmt.Sprint(i%3), "q"},
			Labels:   map[string]string{"role": role, "tier": fmt.Sprint(i % 2)},
			IPv4Nets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i / 256), byte(i)}), 32)},
		}
	}
	stored := func(i int, role string, revision int64) store.KV {
		parts, err := model.Encode(key(i), endpoint(i, role))
		if err != nil {
			t.Fatal(err)
		}
		for path, value := range parts {
			return store.KV{Path: path, Value: value, ModRevision: revision}
		}
		return store.KV{}
	}
	var puts []store.KV
	for i := range count {
		puts = append(puts, stored(i, fmt.Sprint(i%5), 1))
	}
	if events := v.Apply(store.Batch{Snapshot: true, Revision: 1, Puts: puts}); len(events) != count {
		t.Fatalf("%d events, want %d", len(events), count)
	}
	v.Apply(store.Batch{Revision: 2, Puts: []store.KV{stored(7, "other", 2)}})
	for i := range count {
		role := fmt.Sprint(i % 5)
		if i == 7 {
			role = "other"
		}
		got, _ := v.Get(key(i))
		if want := model.Resource(endpoint(i, role)); !reflect.DeepEqual(got, want) {
			t.Fatalf("endpoint %d is %+v, want %+v", i, got, want)
		}
	}
	labels := func(i int) uintptr {
		r, _ := v.Get(key(i))
		return reflect.ValueOf(r.(*model.WorkloadEndpoint).Labels).Pointer()
	}
	if labels(10) != labels(20) || labels(10) == labels(15) {
		t.Error("equal labels are not shared, or others are")
	}
	// The same values once more, as after a lost watch, are no news.
	puts[7] = stored(7, "other", 2)
	if events := v.Apply(store.Batch{Snapshot: true, Revision: 3, Puts: puts}); len(events) != 0 {
		t.Errorf("%d events of the same values", len(events))
	}
}

// A datastore that is held takes nothing away, and what follows is applied as a difference.
func TestAHeldDatastoreTakesNothingAway(t *testing.T) {
	v := store.New(store.Options{})
	v.Apply(store.Batch{Snapshot: true, Revision: 5, Puts: []store.KV{put(settingPath, "info", 3), put(poolPath, goodPool, 4)}})
	why := errors.New("it was emptied")
	for _, b := range []store.Batch{{Held: why}, {Err: errors.New("away")}, {Held: why}} {
		if events := v.Apply(b); len(events) > 0 || v.Revision() != 5 || !v.InSync() {
			t.Errorf("%v gives %v, at revision %d", b, events, v.Revision())
		}
		if !errors.Is(v.Held(), why) || v.Connected() != (b.Err == nil) {
			t.Errorf("%v: held %v, connected %t", b, v.Held(), v.Connected())
		}
	}
	events := v.Apply(store.Batch{Snapshot: true, Revision: 2, Puts: []store.KV{put(settingPath, "info", 1)}})
	if len(events) != 1 || events[0].Value != nil || v.Held() != nil || v.Revision() != 2 {
		t.Errorf("then came %v, held %v", events, v.Held())
	}
}
