package desired

import (
	"calico.internal/libcalico/model"
)

// Changes is the difference between two desired states. Every list is sorted. What is
// in it, and how large it is, depends on what really differs: an object that was changed
// and changed back between two flushes is not listed.
//
// References point to objects that exist in the state that results: an endpoint's
// policies and profiles, and a rule's sets. A dataplane sets in the order of the fields
// (sets, policies, profiles, endpoints) and deletes in the opposite one.
type Changes struct {
	// SetsAdded are new sets, complete.
	SetsAdded []IPSet
	// SetsChanged are the changes of sets that existed before.
	SetsChanged []SetDelta
	// Policies, Profiles and Endpoints are new or changed objects, complete.
	Policies  []*Policy
	Profiles  []*Profile
	Endpoints []*Endpoint

	EndpointsDeleted []model.Key
	ProfilesDeleted  []string
	PoliciesDeleted  []model.PolicyKey
	// SetsDeleted are sets with the members that they had, so that a dataplane need not
	// remember those.
	SetsDeleted []IPSet
}

// IsEmpty reports whether nothing changed.
func (c *Changes) IsEmpty() bool {
	return len(c.SetsAdded)+len(c.SetsChanged)+len(c.Policies)+len(c.Profiles)+len(c.Endpoints)+
		len(c.EndpointsDeleted)+len(c.ProfilesDeleted)+len(c.PoliciesDeleted)+len(c.SetsDeleted) == 0
}

// Problem is an object of the store that is not, or not as written, in force.
type Problem struct {
	// Key is the object.
	Key model.Key
	// Reason says what is wrong and what felix does instead.
	Reason string
}
