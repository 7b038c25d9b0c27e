package calc

import (
	"maps"
	"slices"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
)

// subscription is a selector whose matches the index keeps.
type subscription struct {
	id      string
	sel     *selector.Selector
	need    *requirement        // by which it is indexed; nil if it has none
	names   map[string]struct{} // labels that the selector looks at
	matches map[*item]struct{}
	set     *addrSet                     // the set that it feeds, in the global index
	users   map[model.PolicyKey]struct{} // the policies that have it, in the local index
	seen    uint64
}

// looksAt reports whether the selector looks at one of the labels; nil means any.
func (s *subscription) looksAt(labels map[string]struct{}) bool {
	if labels == nil {
		return true
	}
	for l := range labels {
		if _, ok := s.names[l]; ok {
			return true
		}
	}
	return false
}

// index keeps which of its items each of its subscribed selectors matches, and updates
// that relation as items, parents and subscriptions change. It finds the selectors that
// an item may match, and the items that a selector may match, by the labels that the
// selector requires, so that no change looks at all pairs.
type index struct {
	items   map[model.Key]*item
	parents map[string]*parent
	subs    map[string]*subscription

	itemsBy   postings[*item]
	parentsBy postings[*parent]
	subsBy    postings[*subscription]    // subscriptions by the label that they require
	subsAny   map[*subscription]struct{} // those that require none
	looked    map[string]int             // subscriptions that look at a label

	generation uint64

	// started and stopped are told of each match that begins or ends.
	started, stopped func(*subscription, *item)
}

func newIndex(started, stopped func(*subscription, *item)) *index {
	return &index{
		items: map[model.Key]*item{}, parents: map[string]*parent{}, subs: map[string]*subscription{},
		itemsBy: postings[*item]{}, parentsBy: postings[*parent]{}, subsBy: postings[*subscription]{},
		subsAny: map[*subscription]struct{}{}, looked: map[string]int{}, started: started, stopped: stopped,
	}
}

// setItem adds an item or gives it a new value. Of an item whose value changes, the
// caller has dealt with what its present matches make of that.
func (x *index) setItem(key model.Key, res model.Resource) {
	it := x.items[key]
	if it == nil {
		it = &item{key: key}
		x.items[key] = it
	} else if sameLabels(it.res, res) {
		it.res = res
		return
	}
	x.unlink(it)
	it.res = res
	for l, v := range labelsOf(res) {
		x.itemsBy.add(l, v, it)
	}
	for _, name := range profilesOf(res) {
		p := x.parent(name)
		if _, dup := p.items[it]; dup {
			continue
		}
		p.items[it] = struct{}{}
		it.parents = append(it.parents, p)
	}
	x.match(it, nil)
}

// deleteItem ends all matches of an item and forgets it.
func (x *index) deleteItem(key model.Key) {
	it := x.items[key]
	if it == nil {
		return
	}
	for _, s := range slices.Clone(it.matched) {
		x.stop(s, it)
	}
	x.unlink(it)
	delete(x.items, key)
}

// unlink takes an item out of all that finds it by labels.
func (x *index) unlink(it *item) {
	for l, v := range labelsOf(it.res) {
		x.itemsBy.remove(l, v, it)
	}
	for _, p := range it.parents {
		delete(p.items, it)
		x.forgetIdle(p)
	}
	it.parents = nil
}

// setParent gives a profile's labels and tags.
func (x *index) setParent(name string, labels map[string]string, tags []string) {
	tagSet := make(map[string]struct{}, len(tags))
	for _, t := range tags {
		tagSet[t] = struct{}{}
	}
	x.updateParent(name, labels, tagSet, true)
}

// deleteParent takes a profile's labels and tags away.
func (x *index) deleteParent(name string) {
	if _, ok := x.parents[name]; ok {
		x.updateParent(name, nil, nil, false)
	}
}

func (x *index) updateParent(name string, labels map[string]string, tags map[string]struct{}, stored bool) {
	p := x.parent(name)
	changed := changedNames(p, labels, tags)
	maps.DeleteFunc(changed, func(l string, _ struct{}) bool { return x.looked[l] == 0 })
	for l, v := range p.pairs() {
		x.parentsBy.remove(l, v, p)
	}
	p.labels, p.tags, p.stored = labels, tags, stored
	for l, v := range p.pairs() {
		x.parentsBy.add(l, v, p)
	}
	if len(changed) > 0 {
		for it := range p.items {
			x.match(it, changed)
		}
	}
	x.forgetIdle(p)
}

func (x *index) parent(name string) *parent {
	p := x.parents[name]
	if p == nil {
		p = &parent{name: name, items: map[*item]struct{}{}}
		x.parents[name] = p
	}
	return p
}

func (x *index) forgetIdle(p *parent) {
	if !p.stored && len(p.items) == 0 {
		delete(x.parents, p.name)
	}
}

// changedNames lists the labels whose value in the parent changes.
func changedNames(p *parent, labels map[string]string, tags map[string]struct{}) map[string]struct{} {
	changed := map[string]struct{}{}
	for l, v := range p.labels {
		if w, ok := labels[l]; !ok || v != w {
			changed[l] = struct{}{}
		}
	}
	for l := range labels {
		if _, ok := p.labels[l]; !ok {
			changed[l] = struct{}{}
		}
	}
	for t := range p.tags {
		if _, ok := tags[t]; !ok {
			changed[t] = struct{}{}
		}
	}
	for t := range tags {
		if _, ok := p.tags[t]; !ok {
			changed[t] = struct{}{}
		}
	}
	return changed
}

// subscribe begins to keep the matches of a selector. fill is called before the first
// match is told, so that the caller can say what the subscription is for.
func (x *index) subscribe(sel *selector.Selector, fill func(*subscription)) *subscription {
	s := x.subs[sel.ID()]
	if s != nil {
		fill(s)
		return s
	}
	s = &subscription{id: sel.ID(), sel: sel, matches: map[*item]struct{}{}}
	s.names, s.need = analyse(sel)
	fill(s)
	x.subs[s.id] = s
	for l := range s.names {
		x.looked[l]++
	}
	if need := s.need; need == nil {
		x.subsAny[s] = struct{}{}
	} else {
		need.each(func(l, v string) { x.subsBy.add(l, v, s) }, func(l string) { x.subsBy.addName(l, s) })
	}
	x.candidates(s, func(it *item) {
		if sel.Match(it) {
			x.start(s, it)
		}
	})
	return s
}

// unsubscribe forgets a selector and its matches; stopped is not told of them.
func (x *index) unsubscribe(s *subscription) {
	for it := range s.matches {
		it.unmatch(s)
	}
	for l := range s.names {
		if x.looked[l]--; x.looked[l] == 0 {
			delete(x.looked, l)
		}
	}
	if need := s.need; need == nil {
		delete(x.subsAny, s)
	} else {
		need.each(func(l, v string) { x.subsBy.remove(l, v, s) }, func(l string) { x.subsBy.removeName(l, s) })
	}
	delete(x.subs, s.id)
}

// match brings the matches of an item up to date, looking only at selectors that look at
// one of the changed labels (nil: at all).
func (x *index) match(it *item, changed map[string]struct{}) {
	x.generation++
	for _, s := range slices.Clone(it.matched) {
		s.seen = x.generation
		if s.looksAt(changed) && !s.sel.Match(it) {
			x.stop(s, it)
		}
	}
	try := func(s *subscription) {
		if s.seen == x.generation {
			return
		}
		s.seen = x.generation
		if s.looksAt(changed) && s.sel.Match(it) {
			x.start(s, it)
		}
	}
	for l, v := range labelsOf(it.res) {
		x.subsBy.visit(l, v, try)
	}
	for _, p := range it.parents {
		for l, v := range p.pairs() {
			x.subsBy.visit(l, v, try)
		}
	}
	for s := range x.subsAny {
		try(s)
	}
}

// candidates calls f once with each item that a selector may match.
func (x *index) candidates(s *subscription, f func(*item)) {
	need := s.need
	if need == nil {
		for _, it := range x.items {
			f(it)
		}
		return
	}
	done := map[*item]struct{}{}
	once := func(it *item) {
		if _, ok := done[it]; !ok {
			done[it] = struct{}{}
			f(it)
		}
	}
	ofParent := func(p *parent) {
		for it := range p.items {
			once(it)
		}
	}
	need.each(
		func(l, v string) {
			x.itemsBy.visitValue(l, v, once)
			x.parentsBy.visitValue(l, v, ofParent)
		},
		func(l string) {
			x.itemsBy.visitName(l, once)
			x.parentsBy.visitName(l, ofParent)
		})
}

func (x *index) start(s *subscription, it *item) {
	s.matches[it] = struct{}{}
	it.matched = append(it.matched, s)
	x.started(s, it)
}

func (x *index) stop(s *subscription, it *item) {
	delete(s.matches, it)
	it.unmatch(s)
	x.stopped(s, it)
}

// unmatch takes a subscription out of the item's list.
func (it *item) unmatch(s *subscription) {
	i, last := slices.Index(it.matched, s), len(it.matched)-1
	it.matched[i] = it.matched[last]
	it.matched[last] = nil
	it.matched = it.matched[:last]
}

// sameLabels reports whether two values of an item look the same to every selector.
func sameLabels(a, b model.Resource) bool {
	return maps.Equal(labelsOf(a), labelsOf(b)) && slices.Equal(profilesOf(a), profilesOf(b))
}
