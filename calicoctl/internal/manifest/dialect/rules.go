package dialect

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// Rules is how a dialect writes rules.
type Rules struct {
	// Show is a rule as the dialect writes it.
	Show func(model.Rule) any
	// Lost names what the dialect cannot say of a rule.
	Lost func(model.Rule) []string
	// Blurred names what the dialect says of a stored rule, and a rule made of that text
	// means otherwise. It is nil where there is no such thing.
	Blurred func(stored, made model.Rule) []string
}

// LostOf names what the dialect cannot say of the rules at a path.
func (rs Rules) LostOf(path string, rules []model.Rule) []string {
	var out []string
	for i, r := range rules {
		for _, what := range rs.lost(r) {
			out = append(out, tree.Index(path, i)+" "+what)
		}
	}
	return out
}

// lost adds what no dialect can say.
func (rs Rules) lost(r model.Rule) []string {
	lost := rs.Lost(r)
	if r.Unknown != "" {
		lost = append(lost, "fields of a newer version")
	}
	return lost
}

// rulePaths is where documents have the fields with rules.
var rulePaths = map[string]string{"InboundRules": "spec.ingress", "OutboundRules": "spec.egress"}

// carryRules does for the rules of a resource what [Kind.Carry] does for the rest.
func carryRules(rs Rules, old, base, next reflect.Value) (lost []string) {
	var lists []*ruleList
	var fields []reflect.Value
	for i := range next.NumField() {
		if next.Field(i).Type() != rulesType {
			continue
		}
		fields = append(fields, next.Field(i))
		lists = append(lists, &ruleList{
			rs: rs, path: rulePaths[next.Type().Field(i).Name],
			old: rulesOf(old.Field(i)), base: rulesOf(base.Field(i)), next: slices.Clone(rulesOf(next.Field(i))),
		})
	}
	lost = carryLists(lists)
	for i, l := range lists {
		fields[i].Set(reflect.ValueOf(l.next))
	}
	return lost
}

// carryLists finds for each rule of the document the stored one that it is. A rule that says
// what a stored one does is that one, wherever it stands, also in another list. Of the rest,
// one that stands in a stored one's place is that one, edited.
func carryLists(lists []*ruleList) (lost []string) {
	lists, lost = readable(lists)
	for _, l := range lists {
		l.unedited()
	}
	for _, l := range lists {
		for _, other := range lists {
			if other != l {
				l.moveTo(other)
			}
		}
	}
	for _, l := range lists {
		l.edited(lists)
	}
	for _, l := range lists {
		l.strayed(lists)
	}
	for _, l := range lists {
		for j, i := range l.pairs {
			l.merge(i, j)
		}
	}
	for _, l := range lists {
		lost = append(lost, l.lost(lists)...)
	}
	return lost
}

// readable leaves out the lists of which it is not known how the dialect reads them.
func readable(lists []*ruleList) (out []*ruleList, lost []string) {
	for _, l := range lists {
		if len(l.old) == len(l.base) {
			out = append(out, l)
		} else {
			lost = append(lost, l.rs.LostOf(l.path, l.old)...)
		}
	}
	return out, lost
}

func rulesOf(v reflect.Value) []model.Rule {
	rules, _ := v.Interface().([]model.Rule)
	return rules
}

// ruleList is a list of rules as it is stored, as the dialect reads that again, and as a
// document has it.
type ruleList struct {
	rs              Rules
	path            string
	old, base, next []model.Rule

	// was and is are the texts of base and of next. from is the stored rule that each of the
	// document says the same as, or none, or moved; gone are the stored rules that have no
	// counterpart; orphans those of which it is not clear whether they have.
	was, is []string
	from    []int
	gone    []int
	orphans []int
	// made are those of the document that say the same as none and are no copies, and pairs
	// the stored ones of which some of them were made.
	made  []int
	pairs map[int]int
}

const (
	// none says that a rule of the document has no stored one, or not one that says the same.
	none = -1
	// moved says that the stored one is in another list.
	moved = -2
)

// lost names what has lost its place.
func (l *ruleList) lost(all []*ruleList) (lost []string) {
	for _, other := range all {
		lost = append(lost, l.blurred(other)...)
	}
	slices.Sort(lost)
	lost = slices.Compact(lost)
	slices.Sort(l.orphans)
	for _, i := range slices.Compact(l.orphans) {
		for _, what := range l.rs.lost(l.old[i]) {
			lost = append(lost, tree.Index(l.path, i)+" "+what)
		}
	}
	return lost
}

// blurred names what new and edited rules mean otherwise than the stored ones of a list
// whose text they have.
func (l *ruleList) blurred(of *ruleList) (lost []string) {
	for j, made := range l.next {
		if l.rs.Blurred == nil || l.from[j] != none {
			continue
		}
		for i, stored := range of.old {
			for _, what := range l.rs.Blurred(stored, made) {
				lost = append(lost, tree.Index(of.path, i)+" "+what)
			}
		}
	}
	return lost
}

// unedited pairs rules that say the same: from the start as long as they do, so from the
// end, the rest in order. Where fewer of those that look alike are left than were stored
// and not all were the same, it is not clear which are.
func (l *ruleList) unedited() {
	l.was, l.is = ruleTexts(l.base), ruleTexts(l.next)
	was, is := l.was, l.is
	from := slices.Repeat([]int{none}, len(is))
	start, end := 0, 0
	for ; start < min(len(was), len(is)) && was[start] == is[start]; start++ {
		from[start] = start
	}
	for ; end < min(len(was), len(is))-start && was[len(was)-1-end] == is[len(is)-1-end]; end++ {
		from[len(is)-1-end] = len(was) - 1 - end
	}
	stored, left := map[string][]int{}, map[string][]int{}
	for i, text := range was {
		stored[text] = append(stored[text], i)
		if i >= start && i < len(was)-end {
			left[text] = append(left[text], i)
		}
	}
	for j := start; j < len(is)-end; j++ {
		if list := left[is[j]]; len(list) > 0 {
			from[j], left[is[j]] = list[0], list[1:]
		}
	}
	for text, list := range stored {
		if n := len(left[text]); n > 0 && n < len(list) && !l.interchangeable(list) {
			l.orphans = append(l.orphans, list...)
		}
	}
	l.from = from
	for j, i := range from {
		if i != none {
			l.next[j] = l.old[i]
		}
	}
	for i := range l.old {
		if !slices.Contains(from, i) {
			l.gone = append(l.gone, i)
		}
	}
}

// moveTo pairs the rules that are gone from a list with those that are new in another and say
// the same. Where of several not all have gone there, and they were not all the same, it is
// not clear which have.
func (l *ruleList) moveTo(other *ruleList) {
	gone, made := map[string][]int{}, map[string][]int{}
	for _, i := range l.gone {
		gone[l.was[i]] = append(gone[l.was[i]], i)
	}
	for j, i := range other.from {
		if i == none {
			made[other.is[j]] = append(made[other.is[j]], j)
		}
	}
	for text, list := range gone {
		to := made[text]
		if n := len(to); n > 0 && n < len(list) && !l.interchangeable(list) {
			l.orphans = append(l.orphans, list...)
		}
		for n := range min(len(list), len(to)) {
			other.next[to[n]], other.from[to[n]] = l.old[list[n]], moved
			l.gone = slices.DeleteFunc(l.gone, func(i int) bool { return i == list[n] })
		}
	}
}

func (l *ruleList) interchangeable(list []int) bool {
	for _, i := range list[1:] {
		if !reflect.DeepEqual(l.old[i], l.old[list[0]]) {
			return false
		}
	}
	return true
}

// edited pairs the rules that are left: those between rules that stayed in order, if there
// are as many as there were, and one that is gone with one that is new elsewhere, if they say
// mostly the same. Rules that are gone without others in their place were deleted. One that
// says what another stored rule does is a copy of that one.
func (l *ruleList) edited(all []*ruleList) {
	pairs, orphans := l.pair()
	for j, i := range pairs {
		if isCopy(all, l.is[j]) {
			delete(pairs, j)
			orphans = append(orphans, i)
		}
	}
	l.orphans = append(l.orphans, orphans...)
	l.pairs = pairs
	for _, i := range pairs {
		l.gone = slices.DeleteFunc(l.gone, func(gone int) bool { return gone == i })
	}
	for j, i := range l.from {
		if i == none && !isCopy(all, l.is[j]) {
			l.made = append(l.made, j)
		}
	}
}

// isCopy says whether a text is that of a stored rule.
func isCopy(all []*ruleList, text string) bool {
	return slices.ContainsFunc(all, func(l *ruleList) bool { return slices.Contains(l.was, text) })
}

// strayed finds stored rules that were taken for deleted, or for the one in their place, while
// there is another that was not there before and is more like them, and mostly the same: it
// may be that one, moved and edited.
func (l *ruleList) strayed(all []*ruleList) {
	own := map[int]int{} // how like the one is that each was paired with
	for _, i := range l.gone {
		own[i] = 0
	}
	for j, i := range l.pairs {
		own[i] = max(0, likeness(said(l.base[i]), said(l.next[j])))
	}
	for i, like := range own {
		if len(l.rs.lost(l.old[i])) == 0 {
			continue // nothing to lose
		}
		was := said(l.base[i])
		if slices.ContainsFunc(all, func(other *ruleList) bool { return other.hasLike(was, like) }) {
			l.orphans = append(l.orphans, i)
			maps.DeleteFunc(l.pairs, func(_, paired int) bool { return paired == i })
		}
	}
}

// hasLike says whether a rule that is new or edited is more like one that says something than
// another is. It is none that was paired with one that it is as like.
func (l *ruleList) hasLike(was map[string]json.RawMessage, another int) bool {
	return slices.ContainsFunc(l.made, func(j int) bool {
		is := said(l.next[j])
		like := likeness(was, is)
		i, paired := l.pairs[j]
		return like > another && (!paired || like > likeness(said(l.base[i]), is))
	})
}

func (l *ruleList) pair() (pairs map[int]int, orphans []int) {
	inOrder, last := true, none
	for _, i := range l.from {
		if i >= 0 {
			inOrder, last = inOrder && i > last, i
		}
	}
	kept := make([]int, len(l.old)) // like from, for the stored rules
	for i := range kept {
		kept[i] = moved
	}
	for _, i := range l.gone {
		kept[i] = none
	}
	for j, i := range l.from {
		if i >= 0 {
			kept[i] = j
		}
	}
	gone, made := gaps(kept), gaps(l.from)
	single := len(gone) == 1 && len(made) == 1
	switch {
	case len(gone) == 0 || len(made) == 0:
		return nil, nil
	case single && l.mostlySame(gone[0].index, made[0].index):
		return map[int]int{made[0].index: gone[0].index}, nil
	case !inOrder, single && gone[0].gap != made[0].gap:
		return nil, indices(gone)
	}
	return l.inPlace(gone, made)
}

// inPlace pairs rules that stand between the same ones of those that stayed.
func (l *ruleList) inPlace(gone, made []place) (pairs map[int]int, orphans []int) {
	pairs = map[int]int{}
	for gap := range len(l.old) + 1 {
		was, is := within(gap, gone), within(gap, made)
		switch {
		case len(is) == len(was):
			orphans = append(orphans, l.nearest(was, is, pairs)...)
		case len(is) > 0:
			orphans = append(orphans, was...)
		}
	}
	return pairs, orphans
}

// nearest pairs as many stored rules as there are of the document, each with the one that is
// most like it, and of those that are equally so with the one in its place. Where two are most
// like the same it is not clear which is that one. What the document says all of stays where
// it is: there is nothing to lose.
func (l *ruleList) nearest(was, is []int, pairs map[int]int) (orphans []int) {
	whole := func(i int) bool { return reflect.DeepEqual(l.old[i], l.base[i]) }
	if len(was) == 1 || !slices.ContainsFunc(was, func(i int) bool { return !whole(i) }) {
		for n, j := range is {
			pairs[j] = was[n]
		}
		return nil
	}
	old, made := saying(l.base, was), saying(l.next, is)
	for n, i := range was {
		m := mostAlike(n, len(is), func(m int) int { return likeness(old[n], made[m]) })
		if mostAlike(m, len(was), func(n int) int { return likeness(old[n], made[m]) }) == n {
			pairs[is[m]] = i
		} else {
			orphans = append(orphans, i)
		}
	}
	return orphans
}

// saying is what some of the rules say.
func saying(rules []model.Rule, which []int) []map[string]json.RawMessage {
	out := make([]map[string]json.RawMessage, len(which))
	for n, i := range which {
		out[n] = said(rules[i])
	}
	return out
}

// mostAlike is the one of n to which something is most alike, place if no other is more so.
func mostAlike(place, n int, like func(int) int) int {
	best, most := place, like(place)
	for m := range n {
		if l := like(m); l > most {
			best, most = m, l
		}
	}
	return best
}

// likeness is in how many more fields two rules agree than they differ in.
func likeness(a, b map[string]json.RawMessage) int {
	both := 0
	for name, value := range a {
		if bytes.Equal(value, b[name]) {
			both++
		}
	}
	return 3*both - len(a) - len(b)
}

// mostlySame says whether a stored rule and one of the document agree in more than they
// differ in.
func (l *ruleList) mostlySame(i, j int) bool {
	return likeness(said(l.base[i]), said(l.next[j])) > 0
}

// said is what a rule says, field by field.
func said(r model.Rule) (fields map[string]json.RawMessage) {
	_ = json.Unmarshal([]byte(ruleTexts([]model.Rule{r})[0]), &fields) // what cannot be read is like nothing
	return fields
}

// place is a rule that has no counterpart, with how many before it have one.
type place struct{ index, gap int }

// gaps are the places of those that have none; what has moved was never there.
func gaps(counterparts []int) (out []place) {
	gap := 0
	for i, other := range counterparts {
		switch {
		case other >= 0:
			gap++
		case other == none:
			out = append(out, place{i, gap})
		}
	}
	return out
}

// within is the rules of a gap, which stand together.
func within(gap int, places []place) []int {
	start, _ := slices.BinarySearchFunc(places, gap, func(p place, gap int) int { return cmp.Compare(p.gap, gap) })
	end, _ := slices.BinarySearchFunc(places, gap+1, func(p place, gap int) int { return cmp.Compare(p.gap, gap) })
	return indices(places[start:end])
}

func indices(places []place) []int {
	out := make([]int, len(places))
	for i, p := range places {
		out[i] = p.index
	}
	return out
}

// merge makes a rule of the document out of the stored one that it was.
func (l *ruleList) merge(i, j int) {
	r := l.next[j]
	shown := l.rs.Show(r)
	restore(changes(reflect.ValueOf(l.old[i]), reflect.ValueOf(l.base[i]), reflect.ValueOf(&r).Elem()),
		func() bool { return alike(shown, l.rs.Show(r)) })
	l.next[j] = r
}

func ruleTexts(rules []model.Rule) []string {
	out := make([]string, len(rules))
	for i, r := range rules {
		text, err := json.Marshal(r)
		if err != nil {
			text = fmt.Appendf(nil, "%+v", r)
		}
		out[i] = string(text)
	}
	return out
}
