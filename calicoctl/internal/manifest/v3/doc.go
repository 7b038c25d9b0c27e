// Package v3 is the dialect projectcalico.org/v3: the resources of today's Calico as
// far as they mean something for Docker, over the same model as the dialect v1.
//
// A field that only Kubernetes uses, or that nothing here acts on, is refused with the
// reason rather than stored. What the dialect has no word for, such as the tags of a
// profile, is named when a resource is printed and kept when it is replaced.
package v3
