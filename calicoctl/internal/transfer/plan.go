package transfer

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// State says how a resource of a source stands to the datastore that it is to go to.
type State string

// The states of a resource.
const (
	New       State = "new"
	Same      State = "same"
	Different State = "different"
	// Merged is a block of addresses some of which the datastore does not have in use: they
	// come into use beside those that are.
	Merged State = "merged"
	// Kept is a resource that the datastore has another value of, and knows better.
	Kept State = "kept"
)

// Count is how many resources of a kind are in which state.
type Count struct {
	Kind      model.Kind `json:"kind"`
	New       int        `json:"new"`
	Same      int        `json:"same"`
	Different int        `json:"different"`
	Merged    int        `json:"merged,omitempty"`
	Kept      int        `json:"kept,omitempty"`
}

// Plan is what would become of a source, or became of it.
type Plan struct {
	// Counts are by kind, in the order of their names.
	Counts []Count
	// Skipped is what has no place in the datastore, and Invalid what has one, but not with
	// its value.
	Skipped, Invalid []Problem
	// Refused are those that must not be beside others that come with them or stay.
	Refused []Problem
	// twofold are the endpoints that must not come beside another of the source.
	twofold map[model.Key]string
	// blocks are those of the source.
	blocks []netip.Prefix
	// Different are those that the datastore has with another value, Missing those that it
	// does not have all of.
	Different, Missing Keys
	// Needs is the version that whoever writes this must have; empty when any will do.
	Needs string
	// LeftOut is how many resources were not asked for.
	LeftOut int
	// stored are the endpoints of the source that the datastore has, and its blocks of which
	// it has the place; inUse are the addresses that both have in use by one.
	stored, inUse sighted
}

// Keys are the keys of resources: how many, and the first few of them.
type Keys struct {
	N     int
	First []model.Key
}

// maxKeys is how many keys are remembered.
const maxKeys = 20

func (k *Keys) add(key model.Key) {
	if k.N++; len(k.First) < maxKeys {
		k.First = append(k.First, key)
	}
}

func (p *Plan) count(key model.Key, s State) {
	kind := key.Kind()
	i, found := slices.BinarySearchFunc(p.Counts, kind, func(c Count, kind model.Kind) int { return strings.Compare(string(c.Kind), string(kind)) })
	if !found {
		p.Counts = slices.Insert(p.Counts, i, Count{Kind: kind})
	}
	c := &p.Counts[i]
	switch s {
	case New:
		c.New++
	case Same:
		c.Same++
	case Different:
		c.Different++
		p.Different.add(key)
	case Merged:
		c.Merged++
	case Kept:
		c.Kept++
	}
	if (s == New || s == Merged) && !slices.Contains(derived, kind) {
		p.Missing.add(key)
	}
}

// toWrite is how many resources are to be written.
func (p *Plan) toWrite() (n int) {
	for _, c := range p.Counts {
		n += c.New + c.Different + c.Merged
	}
	return n
}

// stateOf compares a resource with what is stored of it.
func stateOf(it item, stored etcdstore.Stored) State {
	if len(stored.Parts) == 0 {
		return New
	}
	if maps.EqualFunc(stored.Parts, it.parts, bytes.Equal) {
		return Same
	}
	if r, err := model.Decode(it.key, stored.Parts); err == nil {
		// A value that another version wrote may mean the same.
		if parts, err := model.Encode(it.key, r); err == nil && maps.EqualFunc(parts, it.parts, bytes.Equal) {
			return Same
		}
	}
	return Different
}
