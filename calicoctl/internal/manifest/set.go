package manifest

import (
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// Set is what a number of files hold.
type Set struct {
	// Objects are those without a fault, in the order of the files.
	Objects []Object
	// Faults is everything that is wrong in the files.
	Faults tree.Faults
	// Warnings are about what is accepted, and dropped or of no effect.
	Warnings tree.Faults

	registry *Registry
	// identify is set when only the objects' keys matter.
	identify bool
	first    map[model.Key]Object
}

// NewSet starts a set of objects to be stored. With identify, only the objects' keys
// are read, and what else their documents say does not matter.
func NewSet(g *Registry, identify bool) *Set {
	return &Set{registry: g, identify: identify, first: map[model.Key]Object{}}
}

// Read adds the objects and faults of a file.
func (s *Set) Read(file string, data []byte) {
	for doc := range parsed(file, data) {
		s.Faults = append(s.Faults, doc.faults...)
		if len(doc.faults) > 0 {
			continue
		}
		for i, v := range doc.values {
			path := ""
			if len(doc.values) > 1 {
				path = tree.Index("", i)
			}
			s.value(file, v, path)
		}
	}
}

// parse is what a document holds.
type parse struct {
	values []*tree.Node
	faults tree.Faults
}

// parsedAhead is the number of documents that are parsed before they are taken.
const parsedAhead = 16

// parsed parses the documents of a file one after the other, while those before are worked on.
func parsed(file string, data []byte) <-chan parse {
	out := make(chan parse, parsedAhead)
	go func() {
		defer close(out)
		for doc := range tree.Documents(file, data) {
			values, faults := doc.Parse()
			out <- parse{values, faults}
		}
	}()
	return out
}

// value reads an object, a list of them, or an object that is a list.
func (s *Set) value(file string, n *tree.Node, path string) {
	switch {
	case n.Kind == tree.List:
		for i, item := range n.Items {
			s.value(file, item, tree.Index(path, i))
		}
	case n.Kind == tree.Map && isList(n):
		items := tree.Join(path, "items")
		for i, item := range n.Field("items").Items {
			s.value(file, item, tree.Index(items, i))
		}
	case n.Kind == tree.Map:
		s.object(tree.NewReport(file, n, path), file)
	case n.Kind == tree.Null && path == "":
	default:
		r := tree.NewReport(file, n, path)
		r.Add("", "expected a resource with apiVersion, kind, metadata and spec, not %s", n.Kind)
		s.Faults = append(s.Faults, r.Faults()...)
	}
}

// isList recognises "kind: List" and "kind: policyList" with their items.
func isList(n *tree.Node) bool {
	items := n.Field("items")
	return strings.HasSuffix(n.TextOf("kind"), "List") && items != nil && items.Kind == tree.List
}

func (s *Set) object(r *tree.Report, file string) {
	o := Object{File: file, Pos: r.Root().Pos}
	if s.typed(r, &o) {
		switch {
		case s.identify && o.Kind.NameOf != nil:
			namespace, name := o.Kind.IdentifyName(r)
			o.Key = dialect.NameKey{Of: o.Kind, Namespace: namespace, Name: name}
		case s.identify:
			o.Key = o.Kind.Identify(r)
		case o.Kind.ReadOnly != "":
			r.Add("kind", "%s", o.Kind.ReadOnly)
		default:
			o.Key, o.Value = o.Kind.Decode(r)
			if o.Kind.Revision != nil {
				o.Revision = o.Kind.Revision(r)
			}
		}
		s.once(r, o)
	}
	if faults := r.Faults(); len(faults) > 0 {
		s.Faults = append(s.Faults, faults...)
		return
	}
	o.IfNew = r.IfNew()
	if !s.identify {
		s.Warnings = append(s.Warnings, r.Warnings()...)
	}
	s.Objects = append(s.Objects, o)
}

// typed finds the kind of a document.
func (s *Set) typed(r *tree.Report, o *Object) bool {
	version, kind := r.Root().TextOf("apiVersion"), r.Root().TextOf("kind")
	if version == "" {
		r.Add("apiVersion", "missing; expected v1 or projectcalico.org/v3")
	}
	if kind == "" {
		r.Add("kind", "missing")
	}
	if version == "" || kind == "" {
		return false
	}
	found, why := s.registry.byType(version, kind)
	if found == nil {
		r.Add("kind", "%s", why)
		return false
	}
	o.Kind = found
	return true
}

// once refuses a second object with the same key.
func (s *Set) once(r *tree.Report, o Object) {
	if o.Key == nil || r.Has("metadata") {
		return
	}
	first, twice := s.first[o.Key]
	if twice {
		r.Add("metadata", "%s is there twice, first at %s:%d", o.Key, first.File, first.Pos.Line)
		return
	}
	s.first[o.Key] = o
}
