package model_test

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/model"
)

// tables are members whose own members have names of the user's choice.
var tables = []string{"labels", "annotations", "v3_labels", "v3_inert", "secondary", "ids", "options", "block"}

// objects lists the objects of a JSON value whose members are fields.
func objects(v any) (out []map[string]any) {
	switch v := v.(type) {
	case map[string]any:
		out = append(out, v)
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if !slices.Contains(tables, name) {
				out = append(out, objects(v[name])...)
			}
		}
	case []any:
		for _, item := range v {
			out = append(out, objects(item)...)
		}
	}
	return out
}

// everything is values with more in them than those of stored, for this test.
var everything = []struct {
	key   model.Key
	value model.Resource
}{
	{model.NewPolicyKey("t", "p"), &model.Policy{
		Selector:      "all()",
		InboundRules:  []model.Rule{{Action: "allow", Source: model.Match{Ports: []model.Port{{Name: "http"}}}, Protocol: "tcp"}, {Action: "log"}},
		OutboundRules: []model.Rule{{Action: "deny", Protocol: "icmp", ICMP: &model.ICMP{Type: 8, Code: new(0)}, Annotations: map[string]string{"a": "b"}}},
	}},
	{model.BGPFilterKey{Name: "f"}, &model.BGPFilter{
		ExportV4: []model.BGPFilterRule{{Action: "Accept"}}, ImportV6: []model.BGPFilterRule{{Action: "Reject"}},
	}},
	{model.HostEndpointKey{Node: "n", Name: "e"}, &model.HostEndpoint{
		Meta:      model.Meta{V3Inert: map[string]json.RawMessage{"spec.x": json.RawMessage(`{"a":[1]}`)}},
		Interface: "eth0", Ports: []model.EndpointPort{{Name: "a", Protocol: "tcp", Port: 1}, {Name: "b", Protocol: "udp", Port: 2}},
	}},
}

// TestUnknownFieldsSurvive puts a field of a newer program into every object of a value of
// every kind, at once and each alone, and expects it there after reading and writing.
func TestUnknownFieldsSurvive(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	check := func(k model.Key, parts map[string][]byte, path string, doc any) {
		t.Helper()
		value, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		given := maps.Clone(parts)
		given[path] = value
		r, err := model.Decode(k, given)
		if err != nil {
			t.Fatalf("%s: %v", value, err)
		}
		if err := model.Validate(k, r); err != nil {
			t.Errorf("%s: %v", value, err)
		}
		written, err := model.Encode(k, r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(parse(t, value), parse(t, written[path])); diff != "" {
			t.Errorf("%v (-read +written):\n%s", k, diff)
		}
		back, err := model.Decode(k, written)
		if err != nil || !reflect.DeepEqual(r, back) {
			t.Errorf("%s: read again: %v, %v", written[path], back, err)
		}
		// A copy has it too, and another field makes it another resource.
		plain, err := model.Decode(k, parts)
		if err != nil || reflect.DeepEqual(plain, r) {
			t.Errorf("%v: with and without the field it is the same (%v)", k, err)
		}
	}
	each := func(k model.Key, r model.Resource) {
		parts, err := model.Encode(k, r)
		if err != nil {
			t.Fatal(err)
		}
		for path, value := range parts {
			if value == nil || !bytes.HasPrefix(value, []byte("{")) || strings.HasSuffix(path, "/labels") || k.Kind() == model.KindBGPConfig {
				continue
			}
			for i := range objects(parse(t, value)) {
				doc := parse(t, value)
				objects(doc)[i][fmt.Sprintf("new_%d", rnd.IntN(1000))] = random(rnd, 2)
				check(k, parts, path, doc)
			}
			doc := parse(t, value)
			for _, o := range objects(doc) {
				for range 1 + rnd.IntN(3) {
					o[fmt.Sprintf(`"<new> \%d`, rnd.IntN(1000))] = random(rnd, 3)
				}
			}
			check(k, parts, path, doc)
		}
	}
	for _, s := range stored {
		each(s.key, s.value)
	}
	for _, s := range everything {
		each(s.key, s.value)
	}
}

func parse(t *testing.T, value []byte) (v any) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%s: %v", value, err)
	}
	return v
}

// random is any JSON value; no float can hold its numbers.
func random(rnd *rand.Rand, depth int) any {
	switch n := rnd.IntN(6); {
	case n == 0 && depth > 0:
		return map[string]any{"a": random(rnd, depth-1), "labels": random(rnd, depth-1)}
	case n == 1 && depth > 0:
		return []any{random(rnd, depth-1), map[string]any{}, []any{}}
	case n == 2:
		return "} , \" \\ ] \u00e4<"
	case n == 3:
		return nil
	case n == 4:
		return true
	default:
		return json.Number("12345678901234567890.10")
	}
}

// TestEveryStructKeepsWhatIsUnknown looks at all structs that resources are made of.
func TestEveryStructKeepsWhatIsUnknown(t *testing.T) {
	t.Parallel()
	unknown, seen := reflect.TypeFor[model.Unknown](), map[reflect.Type]bool{}
	var look func(typ reflect.Type, why string)
	look = func(typ reflect.Type, why string) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		switch {
		case typ.Kind() == reflect.Map && typ.Elem().Kind() == reflect.Struct:
			t.Errorf("%s: a map of structs: nothing unknown in it is kept", why)
		case typ.Kind() != reflect.Struct, seen[typ]:
			return
		}
		seen[typ] = true
		if typ.Kind() != reflect.Struct || reflect.PointerTo(typ).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
			return
		}
		leaf := typ == reflect.TypeFor[model.Match]() || typ == reflect.TypeFor[model.ICMP]() || typ == reflect.TypeFor[model.Port]() ||
			typ == reflect.TypeFor[model.Setting]() // no JSON objects
		if f, ok := typ.FieldByName("Unknown"); !leaf && (!ok || f.Type != unknown) {
			t.Errorf("%s: %s has no field Unknown", why, typ)
		}
		for _, f := range reflect.VisibleFields(typ) {
			if f.IsExported() {
				look(f.Type, typ.Name()+"."+f.Name)
			}
		}
	}
	for _, s := range stored {
		look(reflect.TypeOf(s.value), s.name)
	}
	if len(seen) < 25 {
		t.Errorf("only %d types were looked at", len(seen))
	}
}

// What stands there twice is what was read last.
func TestUnknownOfWhatStandsThereTwice(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]*model.Lock{
		`{"by":"a","under":{"x":1},"under":null}`:             {By: "a"},
		`{"by":"a","under":null,"under":{"x":1}}`:             {By: "a", Under: &model.Lock{Unknown: `"x":1`}},
		`{"by":"a","Under":{"under":{"y":2}},"z":1,"z":"\""}`: {By: "a", Unknown: `"z":"\""`, Under: &model.Lock{Under: &model.Lock{Unknown: `"y":2`}}},
	} {
		k := model.LockKey{}
		got, err := model.Decode(k, map[string][]byte{model.Paths(k)[0]: []byte(value)})
		if diff := cmp.Diff(model.Resource(want), got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", value, err, diff)
		}
	}
	k := model.HostEndpointKey{Node: "n", Name: "e"}
	got, err := model.Decode(k, map[string][]byte{model.Paths(k)[0]: []byte(`{"ports":[{"x":1},{"name":"b","y":2}],"ports":[{"name":"a"}],"ports":null}`)})
	if err != nil || got.(*model.HostEndpoint).Ports != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

// The order in which others write, and the spaces, are no difference.
func TestUnknownIsCompared(t *testing.T) {
	t.Parallel()
	k := model.TierKey{Name: "t"}
	read := func(value string) *model.Tier {
		r, err := model.Decode(k, map[string][]byte{model.Paths(k)[0]: []byte(value)})
		if err != nil {
			t.Fatal(err)
		}
		return r.(*model.Tier)
	}
	a := read(`{"z": [1, 2], "order": 1, "a" : {"b": " c"}, "Order": 2, "\u0061": 3}`)
	if *a.Order != 2 || a.Unknown != `"\u0061":3,"z":[1,2]` {
		t.Errorf("read as order %v and %s", *a.Order, a.Unknown)
	}
	if b := read(`{"a":3,"z":[1,2],"order":2}`); b.Unknown != `"a":3,"z":[1,2]` {
		t.Errorf("read as %s", b.Unknown)
	}
}

// TestKeepUnknown follows items of lists when something is made anew: what is unknown goes
// with the item that it belongs to, and never to another.
func TestKeepUnknown(t *testing.T) {
	t.Parallel()
	// A word is a name, with what is unknown after it.
	endpoint := func(words []string) *model.HostEndpoint {
		e := &model.HostEndpoint{}
		for _, w := range words {
			e.Ports = append(e.Ports, model.EndpointPort{Name: w[:1], Unknown: model.Unknown(w[1:])})
		}
		return e
	}
	type w = []string
	for _, tt := range []struct {
		name            string
		old, next, want w
	}{
		{"the same", w{"a1", "b2", "c", "b3"}, w{"a", "b", "c", "b"}, w{"a1", "b2", "c", "b3"}},
		{"in another order", w{"a1", "b2", "c", "b3"}, w{"b", "c", "b", "a"}, w{"b2", "c", "b3", "a1"}},
		{"one taken away", w{"a1", "b2", "c"}, w{"b", "c"}, w{"b2", "c"}},
		{"one put before", w{"a1", "b2"}, w{"c", "a", "b"}, w{"c", "a1", "b2"}},
		{"one changed", w{"a1", "b2", "c"}, w{"x", "b", "c"}, w{"x1", "b2", "c"}},
		{"alike, of which one has it", w{"a", "a1"}, w{"a", "a"}, w{"a", "a1"}},
		{"one taken away, another put at the end", w{"a1", "b"}, w{"b", "c"}, w{"b", "c"}},
		{"one taken away, one put between", w{"a1", "b", "c"}, w{"b", "x", "c"}, w{"b", "x", "c"}},
		{"in its place a copy of another", w{"a1", "b"}, w{"b", "b"}, w{"b", "b"}},
		{"in its place a copy of another that has it", w{"a1", "b2"}, w{"b", "b"}, w{"b", "b2"}},
		{"none left", w{"a1"}, nil, nil},
	} {
		old, next := endpoint(tt.old), endpoint(tt.next)
		old.Unknown = `"p":1`
		model.KeepUnknown(old, next)
		if diff := cmp.Diff(endpoint(tt.want).Ports, next.Ports); diff != "" || next.Unknown != old.Unknown {
			t.Errorf("%s: unknown %s, ports (-want +got):\n%s", tt.name, next.Unknown, diff)
		}
	}
	policy := &model.Policy{InboundRules: []model.Rule{{Action: "deny", Unknown: `"x":1`}, {Action: "deny", Protocol: "udp"}}}
	next := &model.Policy{InboundRules: []model.Rule{{Action: "deny"}, {Action: "log"}}}
	if model.KeepUnknown(policy, next); next.InboundRules[0].Unknown != "" || next.InboundRules[1].Unknown != "" {
		t.Errorf("rules are left to who makes them: %+v", next.InboundRules)
	}
	model.KeepUnknown(policy, endpoint(nil)) // of another kind: nothing to keep
}

// TestReadableKeepsWhatIsUnknown is about a value of which one field cannot be read.
func TestReadableKeepsWhatIsUnknown(t *testing.T) {
	t.Parallel()
	k := model.TierKey{Name: "t"}
	r, bad := model.Readable(k, map[string][]byte{model.Paths(k)[0]: []byte(`{"order":"x","new":[1],"default_action":"Pass","even_newer":{}}`)})
	tier, ok := r.(*model.Tier)
	if !ok || len(bad) != 1 || tier.Unknown != `"even_newer":{},"new":[1]` || tier.DefaultAction != model.TierPass {
		t.Errorf("%+v, %v", r, bad)
	}
}

// FuzzUnknown checks that whatever is read of a policy is read as the same when it has
// been written.
func FuzzUnknown(f *testing.F) {
	f.Add([]byte(`{"inbound_rules":[{"new":1,"src_ports":[1]},null],"inbound_rules":[{"a":{"b":"\"}"}}],"x":[{}],"labels":{}}`))
	f.Add([]byte(` { "selector" : "a == 'b'" , "Selector" : "" , "order" : null , "outbound_rules":[{},{"x":-1.5e3}] , "\u006fther":"" } `))
	f.Fuzz(func(t *testing.T, value []byte) {
		k := model.NewPolicyKey("t", "p")
		path := model.Paths(k)[0]
		read, err := model.Decode(k, map[string][]byte{path: value})
		if err != nil {
			return
		}
		written, err := model.Encode(k, read)
		if err != nil {
			t.Fatalf("%s: %v", value, err)
		}
		back, err := model.Decode(k, written)
		if err != nil || !reflect.DeepEqual(read, back) {
			t.Errorf("%s, written as %s: %v\n%s", value, written[path], err, cmp.Diff(read, back, compareValues))
		}
	})
}

// benchmarkCodec measures reading and writing.
func benchmarkCodec(b *testing.B, k model.Key, r model.Resource) {
	parts, err := model.Encode(k, r)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := model.Decode(k, parts); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := model.Encode(k, r); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkBlock(b *testing.B) {
	block := &model.Block{CIDR: prefix("10.0.0.0/26"), Affinity: new("host:node00"), Unallocated: []int{}}
	for i := range 64 {
		block.Allocations = append(block.Allocations, new(i))
		block.Attributes = append(block.Attributes, model.BlockAttributes{
			HandleID:  new(fmt.Sprintf("%064d", i)),
			Secondary: map[string]string{"node": "node00", "timestamp": "2026-01-02T03:04:05Z", "container": "web"},
		})
	}
	benchmarkCodec(b, model.BlockKey{CIDR: prefix("10.0.0.0/26")}, block)
}

func BenchmarkEndpoint(b *testing.B) {
	benchmarkCodec(b, model.WorkloadEndpointKey{Node: "n", Orchestrator: "libnetwork", Workload: "libnetwork", Name: "e"}, &model.WorkloadEndpoint{
		Meta:  model.Meta{Annotations: map[string]string{"container": "web", "id": strings.Repeat("a", 64)}},
		State: "active", Interface: "cali01234567890", MAC: "ee:ee:ee:ee:ee:ee", Profiles: []string{"net1"},
		IPv4Nets: []netip.Prefix{prefix("10.0.0.1/32")}, Labels: map[string]string{"role": "web"}, IPv4Gateway: addr("169.254.1.1"),
	})
}
