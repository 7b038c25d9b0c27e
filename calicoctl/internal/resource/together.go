package resource

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// Arrival is a resource that is to be written as it is, as an import does, and not as a
// document says.
type Arrival struct {
	Key   model.Key
	Value model.Resource
	// New says that nothing is stored; else it takes the place of Old, which is nil when it
	// cannot be read.
	New bool
	Old model.Resource
}

// Together is what is to be said of resources that arrive together.
type Together struct {
	// Refused are those that must not be beside what else arrives or is stored, with the
	// reasons. They are those that a create or an apply would refuse.
	Refused map[model.Key]string

	steps map[model.Key]step
	rests rests
}

// Together looks for arrivals that must not be beside each other, beside blocks that arrive
// with them, or beside what stays in the store. It warns as a write would.
func (s *Store) Together(ctx context.Context, arrivals []Arrival, blocks []netip.Prefix) (Together, error) {
	t := Together{Refused: map[model.Key]string{}, steps: map[model.Key]step{}}
	steps := make([]step, 0, len(arrivals)+len(blocks))
	for _, a := range arrivals {
		st, err := a.step()
		if err != nil {
			return t, err
		}
		steps = append(steps, st)
		t.steps[a.Key] = st
	}
	slices.SortStableFunc(steps, func(a, b step) int { return CompareKeys(a.object.Key, b.object.Key) })
	for _, cidr := range blocks {
		steps = append(steps, step{object: manifest.Object{Key: model.BlockKey{CIDR: cidr}, Kind: &dialect.Kind{}}})
	}
	var faults []error
	t.rests, faults = s.check(ctx, steps)
	for _, fault := range faults {
		c, ok := errors.AsType[*clash](fault)
		if !ok {
			return t, fault
		}
		if t.Refused[c.key] == "" {
			t.Refused[c.key] = c.text
		}
	}
	return t, nil
}

// Commit calls commit with the conditions under which what was said of some arrivals still
// holds, which it must make part of the transaction that writes them. It returns the
// transaction's revision.
func (t *Together) Commit(keys []model.Key, commit func(conditions []etcdstore.Write) (int64, error)) error {
	var steps []step
	for _, k := range keys {
		if st, ok := t.steps[k]; ok {
			steps = append(steps, st)
		}
	}
	return t.rests.while(steps, commit)
}

// step is an arrival as a write of the dialect that it was made in.
func (a Arrival) step() (st step, err error) {
	st = step{object: manifest.Object{Key: a.Key, Value: a.Value, Kind: madeIn(a.Key, a.Value)}, old: a.Old, did: Configured}
	var w etcdstore.Write
	if a.New {
		st.did = Created
		w, err = etcdstore.CreateWrite(a.Key, a.Value)
	} else {
		w, err = etcdstore.PutWrite(a.Key, a.Value)
	}
	st.writes = []etcdstore.Write{w}
	return st, err
}

// v3Kinds are those of the dialect in which names are not keys.
var v3Kinds = sync.OnceValue(func() *manifest.Registry {
	g := manifest.NewRegistry()
	_ = g.Prefer("v3") // it is one of its own
	return g
})

// madeIn is the kind that decides which names a resource must not share: that of v3 if it was
// given a name there, and for policies in any case; else one without names.
func madeIn(k model.Key, v model.Resource) *dialect.Kind {
	meta := model.MetadataOf(v)
	if k.Kind() == model.KindPolicy || meta != nil && meta.V3Name != "" {
		if kind, ok := v3Kinds().ByKey(k); ok {
			return kind
		}
	}
	return &dialect.Kind{Model: k.Kind()}
}

// clash is why a resource must not be beside what else there is, or is to be.
type clash struct {
	key  model.Key
	text string
}

func (c *clash) Error() string { return c.text }

func clashOf(k model.Key, format string, args ...any) error {
	return &clash{k, fmt.Sprintf(format, args...)}
}
