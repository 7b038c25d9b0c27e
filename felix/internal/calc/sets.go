package calc

import (
	"maps"
	"slices"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
)

// addrSet is an address set that rules use, or one with a fixed id.
type addrSet struct {
	id   desired.SetID
	kind desired.SetKind
	refs int // rules that use it
	sub  *subscription
	port namedPort
	// members counts for each member the items that give it: two endpoints may have one
	// address while it changes hands.
	members map[desired.Member]int
	// pending says of members that differ from the last flush whether they were added.
	pending map[desired.Member]bool
	// given is true once the set was part of a flush.
	given bool
}

func (s *addrSet) add(m desired.Member) {
	s.members[m]++
	if s.members[m] == 1 {
		s.note(m, true)
	}
}

func (s *addrSet) remove(m desired.Member) {
	s.members[m]--
	if s.members[m] == 0 {
		delete(s.members, m)
		s.note(m, false)
	}
}

// note remembers a change of a member for the next flush.
func (s *addrSet) note(m desired.Member, added bool) {
	if !s.given {
		return
	}
	if was, ok := s.pending[m]; ok && was != added {
		delete(s.pending, m)
		return
	}
	s.pending[m] = added
}

// delta takes the changes since the last flush.
func (s *addrSet) delta() (d desired.SetDelta) {
	d.ID = s.id
	for m, added := range s.pending {
		if added {
			d.Added = append(d.Added, m)
		} else {
			d.Removed = append(d.Removed, m)
		}
	}
	clear(s.pending)
	slices.SortFunc(d.Added, desired.Member.Compare)
	slices.SortFunc(d.Removed, desired.Member.Compare)
	return d
}

// whole takes the set as it is.
func (s *addrSet) whole() desired.IPSet {
	s.given = true
	return s.with(slices.AppendSeq(make([]desired.Member, 0, len(s.members)), maps.Keys(s.members)))
}

// before is the set as the last flush left it.
func (s *addrSet) before() desired.IPSet {
	var members []desired.Member
	for m := range s.members {
		if !s.pending[m] {
			members = append(members, m)
		}
	}
	for m, added := range s.pending {
		if !added {
			members = append(members, m)
		}
	}
	return s.with(members)
}

func (s *addrSet) with(members []desired.Member) desired.IPSet {
	slices.SortFunc(members, desired.Member.Compare)
	return desired.IPSet{ID: s.id, Kind: s.kind, Members: members}
}

// sets holds all address sets and the items whose addresses fill them.
type sets struct {
	index *index
	all   map[desired.SetID]*addrSet
	ports map[namedPort]*addrSet
	// touched are the sets that the next flush has to look at.
	touched map[*addrSet]struct{}
}

func newSets() *sets {
	s := &sets{
		all: map[desired.SetID]*addrSet{}, ports: map[namedPort]*addrSet{},
		touched: map[*addrSet]struct{}{},
	}
	s.index = newIndex(
		func(sub *subscription, it *item) { s.addItem(sub.set, it.res) },
		func(sub *subscription, it *item) { s.removeItem(sub.set, it.res) },
	)
	for _, id := range []desired.SetID{desired.SetAllPools, desired.SetMasqPools} {
		s.newSet(id, desired.SetNetworks).refs = 1
	}
	return s
}

func (s *sets) newSet(id desired.SetID, kind desired.SetKind) *addrSet {
	set := &addrSet{id: id, kind: kind, members: map[desired.Member]int{}, pending: map[desired.Member]bool{}}
	s.all[id] = set
	s.touched[set] = struct{}{}
	return set
}

// setItem adds an endpoint or network set, or gives it a new value.
func (s *sets) setItem(key model.Key, res model.Resource) {
	var old model.Resource
	if it := s.index.items[key]; it != nil {
		old = it.res
		if !sameMembers(old, res) {
			for _, sub := range it.matched {
				s.addItem(sub.set, res)
				s.removeItem(sub.set, old)
			}
		}
	}
	s.changePorts(old, res)
	s.index.setItem(key, res)
}

// deleteItem takes an endpoint or network set out of all sets.
func (s *sets) deleteItem(key model.Key) {
	if it := s.index.items[key]; it != nil {
		s.changePorts(it.res, nil)
		s.index.deleteItem(key)
	}
}

func (s *sets) addItem(set *addrSet, res model.Resource) {
	s.touched[set] = struct{}{}
	for n := range netsOf(res) {
		set.add(desired.Member{Net: n})
	}
}

func (s *sets) removeItem(set *addrSet, res model.Resource) {
	s.touched[set] = struct{}{}
	for n := range netsOf(res) {
		set.remove(desired.Member{Net: n})
	}
}

// changePorts brings the sets of named ports from an item's old value to its new one.
func (s *sets) changePorts(old, res model.Resource) {
	if len(s.ports) == 0 {
		return
	}
	for p, m := range namedPortsOf(res) {
		if set := s.ports[p]; set != nil {
			set.add(m)
			s.touched[set] = struct{}{}
		}
	}
	for p, m := range namedPortsOf(old) {
		if set := s.ports[p]; set != nil {
			set.remove(m)
			s.touched[set] = struct{}{}
		}
	}
}

// useSelector says that one more rule uses the set of a selector.
func (s *sets) useSelector(sel *selector.Selector) desired.SetID {
	id := desired.SetID(sel.ID())
	set := s.all[id]
	if set == nil {
		set = s.newSet(id, desired.SetNetworks)
		set.sub = s.index.subscribe(sel, func(sub *subscription) { sub.set = set })
	}
	set.refs++
	return id
}

// usePort says that one more rule uses the set of a named port.
func (s *sets) usePort(p namedPort) desired.SetID {
	id := desired.SetID("n:" + p.protocol.String() + ":" + p.name)
	set := s.all[id]
	if set == nil {
		set = s.newSet(id, desired.SetAddressPorts)
		set.port = p
		s.ports[p] = set
		for _, it := range s.index.items {
			for q, m := range namedPortsOf(it.res) {
				if p == q {
					set.add(m)
				}
			}
		}
	}
	set.refs++
	return id
}

// release says that a rule uses a set no longer. The set lives on until the next flush,
// so that one that is used again until then costs nothing.
func (s *sets) release(id desired.SetID) {
	set := s.all[id]
	set.refs--
	if set.refs == 0 {
		s.touched[set] = struct{}{}
	}
}

// addFixed puts a network into a set with a fixed id.
func (s *sets) addFixed(id desired.SetID, m desired.Member) {
	s.touched[s.all[id]] = struct{}{}
	s.all[id].add(m)
}

// removeFixed takes a network out of a set with a fixed id.
func (s *sets) removeFixed(id desired.SetID, m desired.Member) {
	s.touched[s.all[id]] = struct{}{}
	s.all[id].remove(m)
}

// flush adds what became of the sets to the changes and forgets those without use.
func (s *sets) flush(c *desired.Changes) {
	for set := range s.touched {
		switch {
		case set.refs == 0:
			s.drop(set)
			if set.given {
				c.SetsDeleted = append(c.SetsDeleted, set.before())
			}
		case !set.given:
			c.SetsAdded = append(c.SetsAdded, set.whole())
		case len(set.pending) > 0:
			c.SetsChanged = append(c.SetsChanged, set.delta())
		}
	}
	clear(s.touched)
}

// drop forgets a set that no rule uses.
func (s *sets) drop(set *addrSet) {
	delete(s.all, set.id)
	if set.sub != nil {
		s.index.unsubscribe(set.sub)
	} else {
		delete(s.ports, set.port)
	}
}

func sameMembers(a, b model.Resource) bool {
	return slices.Equal(slices.Collect(netsOf(a)), slices.Collect(netsOf(b)))
}
