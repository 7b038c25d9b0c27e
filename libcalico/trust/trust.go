// Package trust judges whether what a store holds is the truth of the cluster that this
// host belongs to. A store that was emptied, or that is another cluster's, is not: what it
// lacks must not be taken away from running containers. It is pure.
//
//	what is stored of three keys ──Judge.Look──► Verdict (follow it, or hold what is in force)
package trust

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// What the store says about itself.
var (
	readyPath    = model.Paths(model.ReadyKey{})[0]
	guidPath     = model.Paths(model.FelixConfigKey{Name: model.ClusterGUID})[0]
	acceptedPath = model.Paths(model.AcceptedGUIDKey{})[0]
)

// Paths are the keys that a judge has to see.
func Paths() []string { return []string{readyPath, guidPath, acceptedPath} }

// Stored is what stands at [Paths].
type Stored struct {
	// HasReady says that the flag is there, and Ready what it says. One that cannot be
	// read says that the store is not ready.
	HasReady, Ready bool
	// GUID is the cluster's, and Accepted what somebody has said is right ([Acceptance]).
	GUID, Accepted string
}

// Acceptance says that hosts that know one cluster's GUID may follow the store of another; all
// hosts may, when known is empty or the same. It stays stored and does not expire: since it
// names both, no host of a third cluster that comes to the store by mistake follows it, and a
// store whose GUID changes once more is held again.
func Acceptance(guid, known string) string {
	if known == "" || known == guid {
		return guid
	}
	return guid + " " + known
}

// accepts reports whether a host that knows a GUID, or none, may follow the store.
func (s Stored) accepts(known string) bool {
	return s.Accepted == s.GUID || known != "" && s.Accepted == Acceptance(s.GUID, known) || known == "" && strings.HasPrefix(s.Accepted, s.GUID+" ")
}

// Apply takes over what a batch says about [Paths], and reports whether it says anything.
func (s *Stored) Apply(b store.Batch) (changed bool) {
	if b.Snapshot {
		*s, changed = Stored{}, true
	}
	for _, path := range Paths() {
		if _, gone := slices.BinarySearch(b.Deletes, path); gone {
			s.set(path, false, nil)
			changed = true
		}
		i, put := slices.BinarySearchFunc(b.Puts, path, func(kv store.KV, path string) int { return strings.Compare(kv.Path, path) })
		if put {
			s.set(path, true, b.Puts[i].Value)
			changed = true
		}
	}
	return changed
}

// set is what stands at a path now, if anything does.
func (s *Stored) set(path string, there bool, value []byte) {
	text := strings.TrimSpace(string(value))
	switch path {
	case readyPath:
		s.HasReady, s.Ready = there, text == "true"
	case guidPath:
		s.GUID = text
	case acceptedPath:
		s.Accepted = text
	}
}

// State is how far a store is followed.
type State int

// The states of a verdict.
const (
	// Unknown is the state before the first look.
	Unknown State = iota
	// Trusted: the store is followed.
	Trusted
	// Locked: the store is the right one, but somebody has closed it for a while.
	Locked
	// Held: the store is not the truth. Nothing of it is followed.
	Held
)

// Verdict is what a look came to.
type Verdict struct {
	State State
	// Why says what is the matter and what to do; empty when the store is trusted.
	Why string
}

// Judge remembers whether it has trusted the store, and which cluster this host belongs to.
type Judge struct {
	// where is how sentences call the store.
	where string
	// known is the GUID of this host's cluster; empty until one is known.
	known string
	// trusted says that the latest look found the right store, and followed that one ever did.
	trusted, followed bool
}

// NewJudge makes a judge of the store at some place. known is the GUID of the cluster that
// this host has been part of before, or empty.
func NewJudge(where, known string) *Judge { return &Judge{where: where, known: known} }

// Known is the GUID of the cluster that this host belongs to; empty while none is known.
func (j *Judge) Known() string { return j.known }

// stays is what every sentence about a held store says: who has never followed one since it
// started does not know how to repair what is in force.
func (j *Judge) stays() string {
	if j.followed {
		return "what is in force stays and is repaired"
	}
	return "what is in force is kept"
}

// Look judges what is stored. A store that is trusted stays so while it has its Ready flag
// and its GUID; one that is not must also be open, because half of a restored cluster is no
// truth either.
func (j *Judge) Look(s Stored) Verdict {
	why := j.objection(s)
	switch {
	case why != "":
		j.trusted = false
		return Verdict{Held, why}
	case s.Ready:
		j.trusted, j.followed = true, true
		if s.GUID != "" {
			j.known = s.GUID
		}
		return Verdict{State: Trusted}
	}
	why = fmt.Sprintf("etcd at %s is locked (/calico/v1/Ready is not true): %s, and changes wait for calicoctl datastore unlock", j.where, j.stays())
	if j.trusted {
		return Verdict{Locked, why}
	}
	return Verdict{Held, why}
}

// objection says why a store cannot be this host's cluster; empty when it can.
func (j *Judge) objection(s Stored) string {
	const right = "or say that this store is right: calicoctl datastore unlock"
	switch {
	case !s.HasReady:
		return fmt.Sprintf("etcd at %s holds no data of a cluster (there is no /calico/v1/Ready): %s. Restore or import the data, %s", j.where, j.stays(), right)
	case s.GUID == j.known, j.known == "" && (j.trusted || !j.followed):
		return ""
	case s.GUID == "":
		return fmt.Sprintf("etcd at %s does not say which cluster it belongs to (there is no /calico/v1/config/ClusterGUID, this host's is %s): %s. Restore the data, %s", j.where, j.known, j.stays(), right)
	case s.accepts(j.known):
		return ""
	}
	return fmt.Sprintf("etcd at %s belongs to another cluster (its GUID is %s, this host's is %s): %s. Connect this host to its own etcd, restore its data, %s --accept", j.where, s.GUID, cmp.Or(j.known, "none"), j.stays(), right)
}
