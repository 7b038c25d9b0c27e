// Package manifest reads and writes resources as users do: YAML and JSON documents in
// one of the dialects that the packages below it describe. It is pure.
//
// A [Set] takes any number of files and keeps every object and every fault of all of
// them, so that a command can refuse the whole with all reasons at once.
package manifest

import (
	"slices"
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	v1 "calico.internal/calicoctl/internal/manifest/v1"
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

// Registry is the kinds of all dialects. The first dialect that has a kind is the one
// in which it is printed by default.
type Registry struct {
	kinds []dialect.Kind
}

// NewRegistry returns the registry of all dialects.
func NewRegistry() *Registry {
	return &Registry{kinds: v1.Kinds()}
}

// ByAlias finds a kind by a name that a command was given.
func (g *Registry) ByAlias(name string) (*dialect.Kind, bool) {
	lower := strings.ToLower(name)
	for i := range g.kinds {
		if slices.Contains(g.kinds[i].Aliases, lower) {
			return &g.kinds[i], true
		}
	}
	return nil, false
}

// ByModel finds the kind that prints resources of a kind of the model.
func (g *Registry) ByModel(kind model.Kind) (*dialect.Kind, bool) {
	for i := range g.kinds {
		if g.kinds[i].Model == kind {
			return &g.kinds[i], true
		}
	}
	return nil, false
}

// Kinds lists the kinds that commands can name.
func (g *Registry) Kinds() []dialect.Kind { return g.kinds }

// Aliases lists all names that commands take for kinds.
func (g *Registry) Aliases() []string {
	var out []string
	for _, k := range g.kinds {
		out = append(out, k.Aliases...)
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
