package networks

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
)

// Deed is what a host does at its engine.
type Deed int

// The deeds.
const (
	// Nothing is to be done.
	Nothing Deed = iota
	// Make makes a copy of the record's network.
	Make
	// Remove removes the network with the step's id. If containers use it, what
	// [StillUsed] makes of the record is stored.
	Remove
	// Ask finds out whether any host has an endpoint of the network, which a user removed
	// here; what [Gone] makes of the record is stored.
	Ask
)

// View is what a host knows when it decides.
type View struct {
	// Node is the host's name.
	Node string
	// Spread says that the networks of all hosts are to be the same. It is off where
	// engines do that by themselves, and where the operator does not want it.
	Spread bool
	// UserRemoved says that a user was seen to remove the network with an id at this engine.
	// What is not there without that was lost.
	UserRemoved func(id string) bool
	// NewUID makes the UID of a record.
	NewUID func() string
	Now    time.Time
}

// MarkLife is how long the mark of a removal outlives the network: a copy of which the making
// had begun before must find it. An engine is given 20 seconds to make one.
const MarkLife = 25 * time.Second

// Local is what the engine has under a name.
type Local struct {
	// Ours are the networks of our driver.
	Ours []dockerapi.Network
	// Other is the driver of a network that is not ours; empty if there is none.
	Other string
}

// Step is what a host does about one name: it stores the record, if it is another one than
// before, and then does the deed. After a deed all is looked at again.
type Step struct {
	// Record is what is to be stored; nil stands for none.
	Record *model.DockerNetwork
	Deed   Deed
	// ID is the engine's id of the network to be removed.
	ID string
}

// Decide says what is to be done about the network of a record's key. The record is nil if
// there is none. It is not changed.
func Decide(record *model.DockerNetwork, local Local, v View) Step {
	if !v.Spread {
		return Step{Record: v.alone(record, local)}
	}
	n, others := pick(local.Ours, record, v.Node)
	if len(others) > 0 { // two networks of one name, which engines up to 20.10 may come to have
		return Step{Record: record, Deed: Remove, ID: others[0].ID}
	}
	switch {
	case n == nil && record == nil:
		return Step{}
	case n == nil:
		return v.lacking(record, local.Other)
	case record == nil:
		return Step{Record: v.found(*n)}
	case record.Removed:
		return v.removed(record, *n)
	}
	return v.having(record, *n)
}

// alone keeps record of a host's networks where nobody copies them.
func (v View) alone(record *model.DockerNetwork, local Local) *model.DockerNetwork {
	if len(local.Ours) == 0 {
		if record == nil || record.IDs[v.Node] == "" {
			return record
		}
		return without(record, record.IDs[v.Node])
	}
	seen := Record(local.Ours[0], v.Node)
	if record == nil {
		return seen
	}
	return v.joined(record, seen, "")
}

// pick finds the network that counts: the user's before a copy. The copies beside it are
// too many.
func pick(ours []dockerapi.Network, record *model.DockerNetwork, node string) (n *dockerapi.Network, copies []dockerapi.Network) {
	rank := func(n dockerapi.Network) int {
		switch uid := n.Labels[CopyLabel]; {
		case uid == "" && record != nil && record.IDs[node] == n.ID:
			return 0
		case uid == "":
			return 1
		case record != nil && uid == record.UID:
			return 2
		}
		return 3
	}
	for i := range ours {
		if n == nil || rank(ours[i]) < rank(*n) || rank(ours[i]) == rank(*n) && ours[i].ID < n.ID {
			n = &ours[i]
		}
	}
	for _, other := range ours {
		if other.ID != n.ID && other.Labels[CopyLabel] != "" {
			copies = append(copies, other)
		}
	}
	return n, copies
}

// lacking decides about a network that the engine does not have.
func (v View) lacking(record *model.DockerNetwork, other string) Step {
	id := record.IDs[v.Node]
	switch {
	case record.Removed && id != "":
		return Step{Record: kept(record, v.Node)}
	case record.Removed && len(record.IDs) == 0 && v.Now.Sub(record.RemovedAt) > MarkLife:
		return Step{}
	case record.Removed:
		return Step{Record: record}
	case id != "" && v.UserRemoved(id):
		return Step{Record: record, Deed: Ask}
	case id != "":
		return Step{Record: kept(record, v.Node)}
	case record.UID == "":
		return Step{Record: record}
	case other != "":
		return Step{Record: Troubled(record, v.Node, fmt.Sprintf("there is another network of this name, of the driver %s", other))}
	}
	return Step{Record: record, Deed: Make}
}

// found is the record of a network that has none.
func (v View) found(n dockerapi.Network) *model.DockerNetwork {
	r := Record(n, v.Node)
	if r.UID = n.Labels[CopyLabel]; r.UID == "" {
		r.UID = v.NewUID()
	}
	return r
}

// removed decides about a network that is here, and was removed.
func (v View) removed(record *model.DockerNetwork, n dockerapi.Network) Step {
	uid := n.Labels[CopyLabel]
	if uid == "" && record.IDs[v.Node] != n.ID {
		return Step{Record: v.found(n)} // a new one of the name, or one that was never this
	}
	if uid == record.UID && record.IDs[v.Node] != n.ID {
		return Step{Record: v.joined(record, Record(n, v.Node), "")} // made, and not noted yet
	}
	return Step{Record: record, Deed: Remove, ID: n.ID}
}

// having decides about a network that is here and in the store.
func (v View) having(record *model.DockerNetwork, n dockerapi.Network) Step {
	uid, seen := n.Labels[CopyLabel], Record(n, v.Node)
	id := record.IDs[v.Node]
	switch {
	case uid != "" && record.UID != "" && uid != record.UID:
		return Step{Record: record, Deed: Remove, ID: n.ID}
	case uid == "" && id != "" && id != n.ID && v.UserRemoved(id):
		// The user removed it and made it anew: first the one, then the other.
		return Step{Record: record, Deed: Ask}
	}
	if d := Differences(record, seen); d != "" && len(record.IDs) > 0 && !only(record.IDs, v.Node) {
		// It is not this network, whose record says nothing of its id: what becomes of the one
		// must not happen to the other.
		return Step{Record: Troubled(kept(record, v.Node), v.Node, fmt.Sprintf("there is another network of this name: it differs in %s", d))}
	}
	joined := v.joined(record, seen, "")
	if joined.UID == "" {
		if joined.UID = uid; uid == "" {
			joined.UID = v.NewUID()
		}
	}
	return Step{Record: joined}
}

// Gone is the record of a network that a user removed on this host. Where any host uses it
// it stays, and is made again here; else it is to be removed everywhere.
func Gone(record *model.DockerNetwork, node string, inUse bool, now time.Time) *model.DockerNetwork {
	rest := kept(record, node)
	if !inUse {
		rest.Removed, rest.RemovedAt, rest.Problems = true, now, nil
	}
	return rest
}

// StillUsed is the record of a network that this host's engine does not remove, since
// containers use it.
func StillUsed(record *model.DockerNetwork, id, node string) *model.DockerNetwork {
	if record == nil {
		return nil
	}
	if record.Removed && record.IDs[node] == id {
		back := *record
		back.Removed, back.RemovedAt = false, time.Time{}
		return &back
	}
	return Troubled(record, node, "containers still use a former network of this name")
}

// Troubled is the record with what keeps this host from having the network; with an empty
// text nothing does.
func Troubled(record *model.DockerNetwork, node, problem string) *model.DockerNetwork {
	if record.Problems[node] == problem {
		return record
	}
	changed := *record
	changed.Problems = maps.Clone(record.Problems)
	if problem == "" {
		delete(changed.Problems, node)
		return &changed
	}
	if changed.Problems == nil {
		changed.Problems = make(map[string]string)
	}
	changed.Problems[node] = problem
	return &changed
}

// joined adds what a node's engine says to what is stored. While other nodes have the
// network too, their word on everything but this node's id stands.
func (v View) joined(record, seen *model.DockerNetwork, problem string) *model.DockerNetwork {
	merged := *record
	if only(record.IDs, v.Node) || record.IPAM == nil && problem == "" {
		merged = *seen
		merged.Meta, merged.Problems, merged.Removed, merged.RemovedAt = record.Meta, record.Problems, record.Removed, record.RemovedAt
	}
	merged.IDs = maps.Clone(record.IDs)
	if merged.IDs == nil {
		merged.IDs = make(map[string]string)
	}
	merged.IDs[v.Node] = seen.IDs[v.Node]
	return Troubled(&merged, v.Node, problem)
}

// kept is the record without a node's id, also when nobody else has the network.
func kept(record *model.DockerNetwork, node string) *model.DockerNetwork {
	rest := *record
	rest.IDs = maps.Clone(record.IDs)
	delete(rest.IDs, node)
	return &rest
}

// only reports whether no other node has the network.
func only(ids map[string]string, node string) bool {
	return len(ids) == 0 || len(ids) == 1 && ids[node] != ""
}

// without takes an id out of a record, on all nodes: an engine's id names one network,
// and nodes share it only where the engines share the network. What is left of the record
// is nil when nobody has the network.
func without(record *model.DockerNetwork, id string) *model.DockerNetwork {
	rest := *record
	rest.IDs = maps.Clone(record.IDs)
	maps.DeleteFunc(rest.IDs, func(_, other string) bool { return other == id })
	if len(rest.IDs) == 0 {
		return nil
	}
	return &rest
}

// Names lists the keys of all networks of records and engine.
func Names(records map[string]*model.DockerNetwork, locals map[string]Local) []string {
	all := make(map[string]bool)
	for key := range records {
		all[key] = true
	}
	for key, l := range locals {
		if len(l.Ours) > 0 {
			all[key] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}
