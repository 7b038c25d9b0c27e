// Package manifest reads and writes resources as users do: YAML and JSON documents in
// one of the dialects that the packages below it describe. It is pure.
//
// A [Set] takes any number of files and keeps every object and every fault of all of
// them, so that a command can refuse the whole with all reasons at once.
package manifest

import (
	"fmt"
	"slices"
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	v1 "calico.internal/calicoctl/internal/manifest/v1"
	v3 "calico.internal/calicoctl/internal/manifest/v3"
	"calico.internal/libcalico/model"
)

// Object is one resource of a manifest.
type Object struct {
	// Kind is the kind as the document's dialect has it.
	Kind *dialect.Kind
	Key  model.Key
	// Value is nil in a set that only identifies.
	Value model.Resource
	// Revision is the one at which the document's author saw the resource; 0 when the
	// document does not say.
	Revision int64
	// IfNew is what is wrong with the object if it does not exist yet.
	IfNew tree.Faults
	// File and Pos say where the object stood.
	File string
	Pos  tree.Pos
}

// Shown is the object's key as messages show it.
func (o Object) Shown() model.Key {
	if o.Kind == nil || o.Kind.NameOf == nil || o.Value == nil {
		return o.Key
	}
	namespace, name := o.Kind.NameOf(o.Key, o.Value)
	return dialect.NameKey{Of: o.Kind, Namespace: namespace, Name: name}
}

// Registry is the kinds of all dialects. The first dialect that has a kind is the one
// in which it is printed by default.
type Registry struct {
	kinds []dialect.Kind
	// preferred is the apiVersion of the dialect that is looked in first.
	preferred string
}

// NewRegistry returns the registry of all dialects.
func NewRegistry() *Registry {
	return &Registry{kinds: slices.Concat(v1.Kinds(), v3.Kinds())}
}

// Prefer makes a dialect the one that kinds are looked up in first.
func (g *Registry) Prefer(apiVersion string) error {
	if apiVersion == "v3" {
		apiVersion = v3.APIVersion
	}
	known := []string{v1.APIVersion, v3.APIVersion}
	if !slices.Contains(known, apiVersion) {
		return fmt.Errorf("unknown API version %q: expected %s%s", apiVersion, tree.OneOf(known), tree.DidYouMean(apiVersion, known))
	}
	g.preferred = apiVersion
	return nil
}

// find is the first kind that is wanted, of the preferred dialect if that has one.
func (g *Registry) find(wanted func(*dialect.Kind) bool) (*dialect.Kind, bool) {
	var first *dialect.Kind
	for i := range g.kinds {
		k := &g.kinds[i]
		switch {
		case !wanted(k):
		case k.APIVersion == g.preferred:
			return k, true
		case first == nil:
			first = k
		}
	}
	return first, first != nil
}

// ByAlias finds a kind by a name that a command was given.
func (g *Registry) ByAlias(name string) (*dialect.Kind, bool) {
	lower := strings.ToLower(name)
	return g.find(func(k *dialect.Kind) bool { return slices.Contains(k.Aliases, lower) })
}

// ByKey finds the kind that prints a resource.
func (g *Registry) ByKey(key model.Key) (*dialect.Kind, bool) {
	return g.find(func(k *dialect.Kind) bool { return k.Model == key.Kind() && k.OwnedBy(key) })
}

// ByModel finds the kind that prints resources of a kind of the model.
func (g *Registry) ByModel(kind model.Kind) (*dialect.Kind, bool) {
	return g.find(func(k *dialect.Kind) bool { return k.Model == kind })
}

// Kinds lists the kinds that commands can name.
func (g *Registry) Kinds() []dialect.Kind { return g.kinds }

// Aliases lists all names that commands take for kinds.
func (g *Registry) Aliases() []string {
	var out []string
	for _, k := range g.kinds {
		for _, a := range k.Aliases {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// byType finds the kind of a document, or says why there is none.
func (g *Registry) byType(apiVersion, kind string) (*dialect.Kind, string) {
	var versions, names []string
	for i := range g.kinds {
		k := &g.kinds[i]
		if k.APIVersion == apiVersion && k.Name == kind {
			return k, ""
		}
		if !slices.Contains(versions, k.APIVersion) {
			versions = append(versions, k.APIVersion)
		}
		if k.APIVersion == apiVersion {
			names = append(names, k.Name)
		}
	}
	msg := "unknown resource type (" + kind + ") and/or version (" + apiVersion + ")"
	if len(names) == 0 {
		return nil, msg + ": expected apiVersion " + tree.OneOf(versions)
	}
	if hint := tree.DidYouMean(kind, names); hint != "" {
		return nil, msg + hint
	}
	return nil, msg + ": expected kind " + tree.OneOf(names)
}
