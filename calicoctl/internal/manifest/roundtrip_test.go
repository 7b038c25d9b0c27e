package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/settings"
	v3 "calico.internal/calicoctl/internal/manifest/v3"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
)

var registry = NewRegistry()

// roundTrips is how many random resources the test takes of each kind and dialect.
const roundTrips = 150

// TestRoundTrip is FuzzRoundTrip with a fixed course.
func TestRoundTrip(t *testing.T) {
	outcomes := map[string]map[outcome]int{}
	for which := range resources {
		random := rand.NewChaCha8([32]byte{byte(which)})
		for range roundTrips * 2 {
			course := make([]byte, 400)
			_, _ = random.Read(course) // never fails
			kind, o := roundTrip(t, append([]byte{byte(which)}, course...))
			if outcomes[kind] == nil {
				outcomes[kind] = map[outcome]int{}
			}
			outcomes[kind][o]++
			if t.Failed() {
				t.Fatalf("by the course %v", course)
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(outcomes)) {
		o := outcomes[kind]
		t.Log(kind, o)
		if kind != "" && o[edited] < roundTrips/10 {
			t.Errorf("%s was edited only %d times", kind, o[edited])
		}
	}
}

// FuzzRoundTrip: a resource is printed in a dialect, the document changed in one place or
// two, and stored. What was not changed must be as before.
func FuzzRoundTrip(f *testing.F) {
	for which := range resources {
		course := make([]byte, 200)
		_, _ = rand.NewChaCha8([32]byte{100, byte(which)}).Read(course) // never fails
		f.Add(append([]byte{byte(which)}, course...))
	}
	f.Fuzz(func(t *testing.T, course []byte) { roundTrip(t, course) })
}

// outcome is what a course came to.
type outcome string

const (
	invalid outcome = "not valid" // nobody could have stored it
	refused outcome = "refused"   // the edited document has faults
	unclear outcome = "unclear"   // what belongs to a rule has lost its place
	edited  outcome = "edited"
)

func roundTrip(t *testing.T, course []byte) (string, outcome) {
	t.Helper()
	d := &dice{course}
	make := resources[d.n(len(resources))]
	key, old := make(d)
	kinds := writable(key)
	kind := kinds[d.n(len(kinds))]
	name := kind.APIVersion + " " + kind.Name
	if isSet(old) {
		_, old = key, dialect.Copy(old)
	} else if old = stored(t, key, old); old == nil {
		return name, invalid
	}
	c := &journey{t: t, kind: kind, key: key, old: old}
	c.untouched()
	doc := c.tree(old)
	var what []string
	for range 1 + d.n(2) {
		_, other := make(d)
		what = append(what, edit(d, doc, c.tree(other)))
	}
	return name, c.apply(doc, strings.Join(what, ", then "))
}

func isSet(v model.Resource) bool { _, ok := v.(*settings.Settings); return ok }

// writable lists the kinds that can print and write a resource.
func writable(key model.Key) []*dialect.Kind {
	var out []*dialect.Kind
	for i := range registry.kinds {
		if k := &registry.kinds[i]; k.Model == key.Kind() && k.OwnedBy(key) && k.ReadOnly == "" {
			out = append(out, k)
		}
	}
	return out
}

// stored is a resource as it comes out of the store, or nil.
func stored(t *testing.T, key model.Key, v model.Resource) model.Resource {
	t.Helper()
	parts, err := model.Encode(key, v)
	if err != nil {
		t.Fatal(err)
	}
	if v, err = model.Decode(key, parts); err != nil {
		t.Fatal(err)
	}
	if model.Validate(key, v) != nil {
		return nil
	}
	return v
}

// settled is a resource without what no write leaves: the mode of an IPIP that is off.
func settled(v model.Resource) model.Resource {
	v = dialect.Copy(v)
	if p, ok := v.(*model.IPPool); ok && p.IPIPDevice == "" {
		p.IPIPMode = ""
	}
	return v
}

// journey is the way of one resource.
type journey struct {
	t    *testing.T
	kind *dialect.Kind
	key  model.Key
	old  model.Resource
}

func (c *journey) text(v model.Resource) []byte {
	c.t.Helper()
	doc, _ := c.kind.Encode(c.key, v)
	text, err := json.Marshal(doc)
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

func (c *journey) tree(v model.Resource) any {
	c.t.Helper()
	var out any
	if err := json.Unmarshal(c.text(v), &out); err != nil {
		c.t.Fatal(err)
	}
	return out
}

// read is what the document says, nil if it has faults.
func (c *journey) read(text []byte) model.Resource {
	set := NewSet(registry, false)
	set.Read("f.json", text)
	if len(set.Faults) > 0 || len(set.Objects) != 1 || set.Objects[0].Key != c.key {
		return nil
	}
	return set.Objects[0].Value
}

// untouched: what was printed and is stored again changes nothing, byte for byte.
func (c *journey) untouched() {
	c.t.Helper()
	next := c.read(c.text(c.old))
	if next == nil { // an odd value that the dialect shows and does not read
		return
	}
	value, lost, err := c.kind.Carry(c.key, c.old, next)
	if err != nil || len(lost) > 0 {
		c.t.Fatalf("%s unchanged: lost %v, error %v\n%s", c.kind.Name, lost, err, c.text(c.old))
	}
	if diff := cmp.Diff(bytesOf(c.t, c.key, settled(c.old)), bytesOf(c.t, c.key, value)); diff != "" {
		c.t.Fatalf("%s %s unchanged (-old +stored):\n%s", c.kind.APIVersion, c.kind.Name, diff)
	}
}

// bytesOf is a resource as the store has it.
func bytesOf(t *testing.T, key model.Key, v model.Resource) map[string]string {
	t.Helper()
	if s, ok := v.(*settings.Settings); ok {
		meta, _ := json.Marshal(s.Meta)
		out := map[string]string{"metadata": string(meta)}
		maps.Copy(out, s.Values)
		return out
	}
	parts, err := model.Encode(key, v)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for path, value := range parts {
		out[path] = string(value)
	}
	return out
}

func (c *journey) apply(doc any, what string) outcome {
	c.t.Helper()
	text, err := json.Marshal(doc)
	if err != nil {
		c.t.Fatal(err)
	}
	next, base := c.read(text), c.again()
	if next == nil || base == nil {
		return refused
	}
	before, pristine := bytesOf(c.t, c.key, c.old), bytesOf(c.t, c.key, next)
	value, lost, err := c.kind.Carry(c.key, c.old, next)
	if err != nil && strings.Contains(err.Error(), scalar.Hidden) && *c.kind.Secret(c.old) == "" {
		return refused
	}
	if err != nil {
		c.t.Fatal(err)
	}
	if len(lost) > 0 {
		c.mayLose(what, base, next, lost)
		return unclear
	}
	if !maps.Equal(before, bytesOf(c.t, c.key, c.old)) || !maps.Equal(pristine, bytesOf(c.t, c.key, next)) {
		c.t.Fatal("what was given has changed")
	}
	// What the document says is what is shown afterwards, or reads the same.
	said := dialect.Copy(next)
	*model.MetadataOf(said) = withIdentity(*model.MetadataOf(said), *model.MetadataOf(c.old))
	if want, got := c.text(said), c.text(value); !bytes.Equal(want, got) && !reflect.DeepEqual(c.read(want), c.read(got)) {
		c.t.Fatalf("%s: the document says (-) and then it is shown (+):\n%s", what, cmp.Diff(string(want), string(got)))
	}
	if bytes.Equal(c.text(c.old), c.text(said)) && c.sameSecret(said) {
		// It leaves out what goes without saying.
		if diff := cmp.Diff(bytesOf(c.t, c.key, settled(c.old)), bytesOf(c.t, c.key, value)); diff != "" {
			c.t.Fatalf("%s changes nothing, and yet (-old +stored):\n%s", what, diff)
		}
		return edited
	}
	c.compare(what, base, said, value)
	return edited
}

func (c *journey) sameSecret(next model.Resource) bool {
	if c.kind.Secret == nil {
		return true
	}
	is := *c.kind.Secret(next)
	return is == scalar.Hidden || is == *c.kind.Secret(c.old)
}

// again is the old resource as the dialect reads it from its own document, faults or not.
func (c *journey) again() model.Resource {
	next := c.read(c.text(c.old))
	if next == nil {
		return nil
	}
	*model.MetadataOf(next) = withIdentity(*model.MetadataOf(next), *model.MetadataOf(c.old))
	return next
}

func withIdentity(m, of model.Meta) model.Meta {
	m.UID, m.CreationTimestamp = of.UID, of.CreationTimestamp
	return m
}

// mayLose: only what the dialect cannot say is lost, and only where rules look alike or
// several are new and old at once.
func (c *journey) mayLose(what string, base, next model.Resource, lost []string) {
	c.t.Helper()
	lost = slices.DeleteFunc(lost, func(l string) bool { return strings.Contains(l, v3.BothApart) })
	for list, base := range rulesIn(base) {
		next := rulesIn(next)[list]
		at := []string{"spec.ingress", "spec.egress"}[list]
		if !slices.ContainsFunc(lost, func(l string) bool { return strings.HasPrefix(l, at) }) {
			continue
		}
		i := 0
		for i < min(len(base), len(next)) && reflect.DeepEqual(base[i], next[i]) {
			i++
		}
		if i == len(base) || i > len(next) {
			continue
		}
		gone, made := slices.Equal(texts(base[i+1:]), texts(next[i:])), i < len(next) && slices.Equal(texts(base[i+1:]), texts(next[i+1:]))
		if _, alone := onlyIn(base, base[i]); alone && (gone || made && !slices.Contains(texts(base), texts(next)[i])) {
			c.t.Fatalf("%s: lost %q, and rule %d is clearly meant", what, lost, i)
		}
	}
	_, said := c.kind.Encode(c.key, c.old)
	for _, l := range lost {
		if !slices.Contains(said, l) && !strings.HasSuffix(l, " fields of a newer version") {
			c.t.Fatalf("lost %q, and only %q cannot be shown", l, said)
		}
	}
}

// compare holds what is stored against what was, field by field: base is what the document
// said before the edit, next what it says after.
func (c *journey) compare(what string, base, next, value model.Resource) {
	c.t.Helper()
	c.rules(what, base, next, value)
	was, said, says, is := leavesOf(c.old), leavesOf(base), leavesOf(next), leavesOf(value)
	for _, m := range []map[string]any{was, said, says, is} {
		for path := range m {
			want := says[path]
			if reflect.DeepEqual(said[path], says[path]) {
				want = was[path]
			}
			if _, ok := want.([]model.EndpointPort); ok {
				c.newer(what, path, was[path], is[path])
			}
			if !reflect.DeepEqual(known(want), known(is[path])) && !c.follows(path, is, says) {
				c.t.Fatalf("%s %s, %s: %s was %v, the document said %v and says %v, stored is %v",
					c.kind.APIVersion, c.kind.Name, what, path, was[path], said[path], says[path], is[path])
			}
		}
	}
}

// newer: after an edit of the ports what a newer program wrote is in those that stayed or
// were edited, and in no copy of another.
func (c *journey) newer(what, path string, was, is any) {
	c.t.Helper()
	old, _ := was.([]model.EndpointPort)
	got, _ := is.([]model.EndpointPort)
	var olds, gots []versioned
	for i := range old {
		olds = append(olds, versioned{fmt.Sprint(known(old[i : i+1])), old[i].Unknown})
	}
	for i := range got {
		gots = append(gots, versioned{fmt.Sprint(known(got[i : i+1])), got[i].Unknown})
	}
	if fault := strays(olds, gots); fault != "" {
		c.t.Fatalf("%s: %s: %s", what, path, fault)
	}
}

// versioned is an item of a list: what the dialect says of it, and what a newer program
// wrote there.
type versioned struct {
	says    string
	unknown model.Unknown
}

// strays tells which of the items of a list has what a newer program wrote in another: one
// that says what an old item does has what one of those has, and none is there more often
// than it was.
func strays(old, is []versioned) string {
	left := map[model.Unknown]int{}
	for _, it := range old {
		left[it.unknown]++
	}
	for i, it := range is {
		alike := false
		for _, o := range old {
			alike = alike || o.says == it.says
		}
		if it.unknown == "" {
			continue
		}
		if left[it.unknown]--; left[it.unknown] < 0 || alike && !slices.Contains(old, it) {
			return fmt.Sprintf("item %d, %s, has %s from another", i, it.says, it.unknown)
		}
	}
	return ""
}

// known is a value without what a newer program wrote in the items of a list.
func known(v any) any {
	ports, ok := v.([]model.EndpointPort)
	if !ok {
		return v
	}
	ports = slices.Clone(ports)
	for i := range ports {
		ports[i].Unknown = ""
	}
	return ports
}

// follows tells the fields that go with others: they may be as the document says.
func (c *journey) follows(path string, is, says map[string]any) bool {
	switch path {
	case "ApplyOnForward", "Types": // what is stored can mean other things beside another preDNAT or doNotTrack
		return reflect.DeepEqual(is[path], says[path])
	case "IPIPMode":
		return is["IPIPDevice"] == nil && is[path] == nil
	case "VXLANMode": // a pool has IPIP or VXLAN
		return c.kind.APIVersion == "v1" && says["IPIPDevice"] != nil && is[path] == nil
	}
	return false
}

// leavesOf is all fields of a resource but its rules, by path; those that are empty are
// not in it.
func leavesOf(v model.Resource) map[string]any {
	out := map[string]any{}
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		switch {
		case v.Type() == reflect.TypeFor[[]model.Rule]() || v.IsZero():
		case v.Type() == reflect.TypeFor[model.Meta]():
			for i := range v.NumField() {
				walk(path+"Meta."+v.Type().Field(i).Name, v.Field(i))
			}
		case v.Kind() == reflect.Map:
			for _, k := range v.MapKeys() {
				out[fmt.Sprintf("%s[%v]", path, k)] = v.MapIndex(k).Interface()
			}
		case v.Kind() == reflect.Slice && v.Len() == 0:
		case v.Kind() == reflect.Pointer:
			out[path] = v.Elem().Interface()
		default:
			out[path] = v.Interface()
		}
	}
	all := reflect.ValueOf(v).Elem()
	for i := range all.NumField() {
		if all.Type().Field(i).Name != "Revisions" {
			walk(all.Type().Field(i).Name, all.Field(i))
		}
	}
	return out
}

// rules: a rule that says what one rule said is that rule, and every rule means what the
// document says.
func (c *journey) rules(what string, base, next, value model.Resource) {
	c.t.Helper()
	old, before, after, is := rulesIn(c.old), rulesIn(base), rulesIn(next), rulesIn(value)
	for list := range old {
		if len(is[list]) != len(after[list]) {
			c.t.Fatalf("%s: %d rules of %d", what, len(is[list]), len(after[list]))
		}
		for j, r := range after[list] {
			if want, got := c.meaning(r), c.meaning(is[list][j]); want != got {
				c.t.Fatalf("%s: rule %d means (-document +stored)\n%s", what, j, cmp.Diff(want, got))
			}
			i, alone := onlyIn(before[list], r)
			if _, single := onlyIn(after[list], r); !alone || !single {
				continue
			}
			if diff := cmp.Diff(old[list][i], is[list][j], cmpopts.EquateComparable(nets...), cmpopts.EquateEmpty()); diff != "" {
				c.t.Fatalf("%s: rule %d is the stored rule %d (-old +stored)\n%s", what, j, i, diff)
			}
		}
		if fault := strays(versions(before[list], old[list]), versions(after[list], is[list])); fault != "" {
			c.t.Fatalf("%s: rules: %s", what, fault)
		}
		c.editedRule(what, old[list], before[list], after[list], is[list])
	}
}

var nets = []any{prefix("10.0.0.0/8"), address("10.0.0.1")}

func versions(says, stored []model.Rule) []versioned {
	out := make([]versioned, len(says))
	for i, text := range texts(says) {
		out[i] = versioned{text, stored[i].Unknown}
	}
	return out
}

// editedRule: where one rule was edited in its place it keeps what the dialect cannot say
// of it, and the others are as before.
func (c *journey) editedRule(what string, old, before, after, is []model.Rule) {
	c.t.Helper()
	if len(before) != len(after) {
		return
	}
	at := -1
	for i := range before {
		if !reflect.DeepEqual(before[i], after[i]) {
			if at >= 0 {
				return
			}
			at = i
		}
	}
	if at < 0 {
		return
	}
	for i := range old {
		if i != at && !reflect.DeepEqual(old[i], is[i]) {
			c.t.Fatalf("%s: rule %d, which was not edited, was\n%+v\nand is\n%+v", what, i, old[i], is[i])
		}
	}
	kept := old[at].LogPrefix == is[at].LogPrefix && old[at].Unknown == is[at].Unknown
	if c.kind.APIVersion == "v1" {
		kept = kept && maps.Equal(old[at].Annotations, is[at].Annotations)
	}
	if !kept {
		c.t.Fatalf("%s: rule %d was\n%+v\nand is\n%+v", what, at, old[at], is[at])
	}
}

func texts(rules []model.Rule) []string {
	out := make([]string, len(rules))
	for i, r := range rules {
		text, _ := json.Marshal(r)
		out[i] = string(text)
	}
	return out
}

func rulesIn(v model.Resource) [][]model.Rule {
	switch v := v.(type) {
	case *model.Policy:
		return [][]model.Rule{v.InboundRules, v.OutboundRules}
	case *model.Profile:
		return [][]model.Rule{v.InboundRules, v.OutboundRules}
	}
	return nil
}

// onlyIn finds a rule that is once in a list.
func onlyIn(list []model.Rule, r model.Rule) (at int, alone bool) {
	at = -1
	for i := range list {
		if reflect.DeepEqual(list[i], r) {
			if at >= 0 {
				return at, false
			}
			at = i
		}
	}
	return at, at >= 0
}

// meaning is a rule as felix takes it: a tag chooses what has a label of that name.
func (c *journey) meaning(r model.Rule) string {
	c.t.Helper()
	r.Annotations, r.LogPrefix, r.Unknown = nil, "", ""
	for _, m := range []*model.Match{&r.Source, &r.Destination} {
		m.Selector, m.Tag = c.chosen(m.Selector, m.Tag, "&&"), ""
		m.NotSelector, m.NotTag = c.chosen(m.NotSelector, m.NotTag, "||"), ""
	}
	text, err := json.Marshal(r)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

func (c *journey) chosen(sel, tag, operator string) string {
	c.t.Helper()
	switch {
	case tag == "" && sel == "":
		return ""
	case tag == "":
	case sel == "":
		sel = "has(" + tag + ")"
	default:
		sel = "(" + sel + ")" + operator + "has(" + tag + ")"
	}
	s, err := selector.Parse(sel)
	if err != nil {
		c.t.Fatal(err)
	}
	return s.String()
}

// identity is what an edit leaves alone: it would make another object.
var identity = []string{
	"kind", "apiVersion", "metadata.name", "metadata.namespace", "metadata.uid", "metadata.creationTimestamp", "metadata.node",
	"metadata.cidr", "metadata.peerIP", "metadata.scope", "metadata.workload", "metadata.orchestrator",
	"spec.node", "spec.cidr", "spec.peerIP", "spec.tier", "spec.workload", "spec.orchestrator", "spec.endpoint",
}

// edit changes a document in one place: it takes something out, or puts in what another
// document of the kind has there.
func edit(d *dice, doc, donor any) (what string) {
	type place struct {
		path string
		edit func() string
	}
	var places []place
	var walk func(path string, at, from any, set func(any))
	walk = func(path string, at, from any, set func(any)) {
		if slices.Contains(identity, path) {
			return
		}
		if path != "" && path != "spec" && path != "metadata" {
			places = append(places, place{path, func() string { set(nil); return "without" }})
			if from != nil {
				places = append(places, place{path, func() string { set(from); return "with another" }})
			}
		}
		switch at := at.(type) {
		case map[string]any:
			fields, _ := from.(map[string]any)
			names := maps.Clone(at)
			maps.Copy(names, fields)
			for _, name := range slices.Sorted(maps.Keys(names)) {
				walk(strings.TrimPrefix(path+"."+name, "."), at[name], fields[name], func(v any) {
					if at[name] = v; v == nil {
						delete(at, name)
					}
				})
			}
		case []any:
			items, _ := from.([]any)
			for i := range at {
				var item any
				if len(items) > 0 {
					item = items[i%len(items)]
				}
				walk(fmt.Sprintf("%s[%d]", path, i), at[i], item, func(v any) {
					if at[i] = v; v == nil {
						set(slices.Delete(slices.Clone(at), i, i+1))
					}
				})
				places = append(places, place{path, func() string { set(slices.Insert(slices.Clone(at), d.n(len(at)+1), at[i])); return "twice" }})
				places = append(places, place{path, func() string { j := d.n(len(at)); at[i], at[j] = at[j], at[i]; return "swapped" }})
				if item != nil {
					places = append(places, place{path, func() string { set(slices.Insert(slices.Clone(at), i, item)); return "with more" }})
					places = append(places, place{path, func() string {
						rest := slices.Delete(slices.Clone(at), i, i+1)
						set(slices.Insert(rest, d.n(len(rest)+1), item))
						return "with one less and one more"
					}})
				}
			}
		}
	}
	walk("", doc, donor, nil)
	if len(places) == 0 {
		return "nothing"
	}
	p := places[(d.n(256)*256+d.n(256))%len(places)]
	how := p.edit()
	return p.path + " " + how
}
