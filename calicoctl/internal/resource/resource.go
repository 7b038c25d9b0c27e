// Package resource carries out what manifests ask for: it creates, replaces, reads
// and deletes resources in the datastore. It is the edge between manifests and etcd.
//
// A call looks at everything first and writes nothing when any of its objects cannot
// be done. Then it writes in transactions of many objects, in the order in which they
// came, so that after a failure the first so many are done and the rest is not.
package resource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// Did says what became of an object.
type Did string

// What can become of an object.
const (
	Created    Did = "created"
	Configured Did = "configured"
	Unchanged  Did = "unchanged"
	Deleted    Did = "deleted"
	Skipped    Did = "skipped"
)

// Outcome is an object with what became of it.
type Outcome struct {
	manifest.Object

	Did Did
}

// Mode says which objects a write is for.
type Mode int

// The modes of a write.
const (
	// Create is for objects that do not exist yet.
	Create Mode = iota
	// CreateMissing is like Create, but leaves alone what exists.
	CreateMissing
	// Apply is for all objects.
	Apply
	// Replace is for objects that exist.
	Replace
	// overwrite is for objects that exist and are given with all that they have.
	overwrite
)

// Store is the datastore as commands use it.
type Store struct {
	etcd *etcdstore.Client
	ipam *ipam.Client
	// warn takes what is worth saying about a write that is carried out all the same.
	warn   func(string)
	warned map[string]bool

	machine    Machine
	allowTaken bool
}

// New returns the store behind a client. The client stays the caller's to close.
func New(c *etcdstore.Client) *Store {
	return &Store{etcd: c, ipam: ipam.New(c, "")}
}

// Etcd is the client of the store.
func (s *Store) Etcd() *etcdstore.Client { return s.etcd }

// IPAM is the address management of the store.
func (s *Store) IPAM() *ipam.Client { return s.ipam }

// maxRetries is how often a write is planned anew because someone else wrote in
// between, without any progress.
const maxRetries = 5

// Write stores objects. It returns the outcomes of those that were done, also when it
// fails.
func (s *Store) Write(ctx context.Context, mode Mode, objects []manifest.Object) ([]Outcome, error) {
	var done []Outcome
	for retries := 0; len(done) < len(objects); retries++ {
		steps, err := s.plan(ctx, mode, objects[len(done):])
		if err != nil {
			return done, err
		}
		s.review(ctx, steps)
		n, err := s.commit(ctx, steps)
		for _, st := range steps[:n] {
			done = append(done, Outcome{st.object, st.did})
		}
		if n > 0 {
			retries = 0
		}
		if err != nil && (!errors.Is(err, etcdstore.ErrConflict) || retries >= maxRetries) {
			return done, err
		}
	}
	return done, nil
}

// step is what is to be done for one object.
type step struct {
	object manifest.Object
	did    Did
	// old is what is stored; nil when that is nothing, or cannot be read.
	old model.Resource
	// writes is empty when nothing is to be written.
	writes []etcdstore.Write
	// ops and size are what the writes add to a transaction.
	ops, size int
	// warnings are about what is stored as it was, to no effect.
	warnings []string
}

// plan compares objects with what is stored and decides what to do, or says all that
// stands against it.
func (s *Store) plan(ctx context.Context, mode Mode, objects []manifest.Object) ([]step, error) {
	found, err := s.read(ctx, objects)
	if err != nil {
		return nil, err
	}
	return s.compare(ctx, mode, objects, found)
}

func (s *Store) compare(ctx context.Context, mode Mode, objects []manifest.Object, found map[model.Key]stored) ([]step, error) {
	var faults []error
	steps := make([]step, 0, len(objects))
	for _, o := range objects {
		old, exists := found[o.Key]
		st, err := decide(mode, o, old, exists)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		steps = append(steps, st)
	}
	faults = append(faults, s.check(ctx, steps)...)
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return steps, nil
}

func decide(mode Mode, o manifest.Object, old stored, exists bool) (step, error) {
	st := step{object: o, old: old.value}
	switch {
	case exists && mode == CreateMissing:
		st.did = Skipped
		return st, nil
	case exists && mode == Create:
		return st, Exists(o.Shown())
	case !exists && (mode == Replace || mode == overwrite):
		return st, Missing(o.Shown())
	case !exists && len(o.IfNew) > 0:
		return st, o.IfNew
	}
	if old.value != nil && mode != overwrite {
		if err := fixed(o, old.value); err != nil {
			return st, err
		}
		o.Kind.Carry(old.value, o.Value)
	}
	warnings, err := unserved(o, old.value)
	if err != nil {
		return st, err
	}
	st.warnings = warnings
	if !exists {
		stamp(o.Value, time.Now())
	}
	st.did = Created
	if exists {
		st.did = Configured
	}
	if isSettings(o.Key.Kind()) {
		return decideSettings(st, o, old, exists)
	}
	parts, err := model.Encode(o.Key, o.Value)
	if err != nil {
		return st, err
	}
	if old.value != nil {
		before, err := model.Encode(o.Key, old.value)
		if err == nil && maps.EqualFunc(before, parts, bytes.Equal) {
			st.did = Unchanged
			return st, nil
		}
	}
	if exists && o.Revision != 0 && old.revision != 0 && o.Revision != old.revision {
		return st, outdated(o, old)
	}
	for path, value := range parts {
		st.size += len(path) + len(value)
	}
	st.ops = len(model.Paths(o.Key))
	w, err := write(o, old, exists)
	st.writes = []etcdstore.Write{w}
	return st, err
}

// unserved refuses what nothing acts on yet, but where it is stored already: then it
// stays, and there is a warning.
func unserved(o manifest.Object, old model.Resource) (warnings []string, err error) {
	stored := manifest.UnservedBy(old)
	var faults []error
	for _, u := range manifest.UnservedBy(o.Value) {
		if slices.Contains(stored, u) {
			warnings = append(warnings, fmt.Sprintf("%s: %s (it is stored so already, and stays)", o.Shown(), u))
		} else {
			faults = append(faults, fmt.Errorf("%s: %s", o.Shown(), u))
		}
	}
	return warnings, errors.Join(faults...)
}

// outdated is the error about an object whose author saw another revision than is
// stored.
func outdated(o manifest.Object, old stored) error {
	return fmt.Errorf("update conflict: %s has changed since revision %d; it is at %d: get it anew, or leave out resourceVersion",
		o.Shown(), o.Revision, old.revision)
}

func write(o manifest.Object, old stored, exists bool) (etcdstore.Write, error) {
	switch {
	case !exists:
		return etcdstore.CreateWrite(o.Key, o.Value)
	case old.revision == 0:
		return etcdstore.PutWrite(o.Key, o.Value)
	}
	return etcdstore.UpdateWrite(o.Key, o.Value, old.revision)
}

// The limits of a transaction, below those of etcd (128 operations, 1.5 MiB).
const (
	maxOps  = 100
	maxSize = 1 << 20
)

// commit carries out steps in as few transactions as etcd's limits allow, and returns
// how many of them were done.
func (s *Store) commit(ctx context.Context, steps []step) (int, error) {
	done := 0
	for done < len(steps) {
		batch := batch(steps[done:])
		if err := s.write(ctx, writesOf(batch)...); err != nil {
			return done, err
		}
		done += len(batch)
	}
	return done, nil
}

// batch is the first of the steps, with as many after it as fit into one transaction.
func batch(steps []step) []step {
	ops, size := 0, 0
	for n, st := range steps {
		ops, size = ops+st.ops, size+st.size
		if n > 0 && (ops > maxOps || size > maxSize) {
			return steps[:n]
		}
	}
	return steps
}

// writesOf is the writes of steps.
func writesOf(steps []step) []etcdstore.Write {
	var writes []etcdstore.Write
	for _, st := range steps {
		writes = append(writes, st.writes...)
	}
	return writes
}
