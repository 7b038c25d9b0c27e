// Package resource carries out what manifests ask for: it creates, replaces, reads
// and deletes resources in the datastore. It is the edge between manifests and etcd.
//
// A call looks at everything first and writes nothing when any of its objects cannot
// be done. Then it writes in transactions of many objects, those that others refer to
// first, each on the condition that what was decided from what was seen still holds. A
// deletion goes the other way round.
//
//	write.go       objects → plan → transactions
//	decide.go      what is to be done for one object, by the mode and by what is stored
//	check.go       what several objects must not be together; places.go, tiers.go, names.go
//	together.go    the same for what comes from elsewhere, as in an import
//	rests.go       lists that a plan rests on, as conditions of its transactions
//	delete.go      objects → who uses them (inuse.go) → transactions; node.go, pool.go
//	read.go        what is stored; watch.go, what is changed
//	settings.go    kinds that are made of raw settings; config.go, the raw settings
//	lock.go        the lock, and transactions that respect it
package resource

import (
	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
)

// Store is the datastore as commands use it.
type Store struct {
	etcd *etcdstore.Client
	ipam *ipam.Client
	// warn takes what is worth saying about a write that is carried out all the same.
	warn   func(string)
	warned map[string]bool
	tally  tally
	having *having

	machine    Machine
	allowTaken bool
	allowLoss  bool
}

// New returns the store behind a client. The client stays the caller's to close.
func New(c *etcdstore.Client) *Store {
	return &Store{etcd: c, ipam: ipam.New(c, "")}
}

// Etcd is the client of the store.
func (s *Store) Etcd() *etcdstore.Client { return s.etcd }

// IPAM is the address management of the store.
func (s *Store) IPAM() *ipam.Client { return s.ipam }

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
	// At is where the object stands among those of the call.
	At int
}
