package dialect

import (
	"calico.internal/libcalico/model"
)

// NameKey stands for the key of a resource of which only the name is known that its
// dialect gives it. The store finds out the key.
type NameKey struct {
	Of *Kind
	// Namespace is empty for kinds without one.
	Namespace, Name string
}

// Kind is the kind of the resource.
func (k NameKey) Kind() model.Kind { return k.Of.Model }

// String is the key as messages show it.
func (k NameKey) String() string {
	if k.Namespace != "" {
		return k.Of.Name + "(" + k.Namespace + "/" + k.Name + ")"
	}
	return k.Of.Name + "(" + k.Name + ")"
}

// Revisioned is a document that shows the revision of its resource.
type Revisioned interface{ SetRevision(revision int64) }

// OwnedBy reports whether a resource of the model's kind is of this kind.
func (k *Kind) OwnedBy(key model.Key) bool { return k.Owns == nil || k.Owns(key) }
