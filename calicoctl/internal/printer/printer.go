// Package printer writes documents of resources in the output formats of calicoctl:
// yaml, json, tables and Go templates. It is pure but for the writer that it is given.
package printer

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
)

// Group is documents of one kind.
type Group struct {
	Kind *dialect.Kind
	Docs []any
	// Revision is the newest of the documents' resources.
	Revision int64
	// Single is set when one resource was asked for by its name, which dialects with
	// lists of their own print without a list.
	Single bool
}

// Printer writes groups of documents.
type Printer interface {
	// Check says whether resources of a kind can be printed so.
	Check(k *dialect.Kind) error
	Print(w io.Writer, groups []Group, c dialect.Cluster) error
}

// formats is what --output takes.
var formats = []string{"yaml", "json", "ps", "wide", "custom-columns=", "go-template=", "go-template-file="}

// Formats lists the output formats, for help and completion.
func Formats() []string { return formats }

// Parse makes the printer for a value of --output.
func Parse(output string) (Printer, error) {
	name, arg, hasArg := strings.Cut(output, "=")
	switch {
	case output == "yaml":
		return documents{manifest.WriteYAML, manifest.WriteYAMLDocument, manifest.WriteYAMLList}, nil
	case output == "json":
		return documents{manifest.WriteJSON, manifest.WriteJSONDocument, manifest.WriteJSONList}, nil
	case output == "ps" || output == "":
		return table{columns: func(k *dialect.Kind) []string { return k.Short }}, nil
	case output == "wide":
		return table{columns: func(k *dialect.Kind) []string { return k.Wide }}, nil
	case name == "custom-columns" && arg != "":
		return table{columns: func(*dialect.Kind) []string { return strings.Split(arg, ",") }}, nil
	case name == "go-template" && arg != "":
		return newTemplate(arg)
	case name == "go-template-file" && arg != "":
		text, err := os.ReadFile(arg)
		if err != nil {
			return nil, fmt.Errorf("read template: %w", err)
		}
		return newTemplate(string(text))
	case hasArg || name == "custom-columns" || name == "go-template" || name == "go-template-file":
		return nil, fmt.Errorf("output format %q needs a value, as in -o %s", name, example(name))
	}
	return nil, fmt.Errorf("unrecognized output format %q: expected %s%s",
		output, tree.OneOf(formats), tree.DidYouMean(output, formats))
}

func example(name string) string {
	switch name {
	case "custom-columns":
		return "custom-columns=NAME,NODE"
	case "go-template-file":
		return "go-template-file=FILE"
	}
	return "go-template='{{range .}}{{range .Items}}{{.Metadata.Name}} {{end}}{{end}}'"
}

// ShowsAll reports whether a printer writes documents whole, so that what the
// dialect cannot say matters.
func ShowsAll(p Printer) bool {
	_, ok := p.(documents)
	return ok
}

// IsTable reports whether a printer writes a table, in which nothing looks like less
// than it is.
func IsTable(p Printer) bool {
	_, ok := p.(table)
	return ok
}

// documents prints documents as they are.
type documents struct {
	plain func(io.Writer, []any) error
	one   func(io.Writer, any) error
	list  func(w io.Writer, docs []any, wrap func([]any) any) error
}

// Check accepts every kind.
func (documents) Check(*dialect.Kind) error { return nil }

// Print writes the documents of all groups as one list: a plain one, or the list of
// their dialect if they are all of one that has its own.
func (d documents) Print(w io.Writer, groups []Group, _ dialect.Cluster) error {
	var all []any
	var revision int64
	plain := len(groups) == 0
	for i, g := range groups {
		all, revision = append(all, groups[i].sorted()...), max(revision, g.Revision)
		plain = plain || g.Kind.Wrap == nil
	}
	switch {
	case plain:
		return d.plain(w, all)
	case len(groups) == 1 && groups[0].Single && len(all) == 1:
		return d.one(w, all[0])
	}
	return d.list(w, all, func(docs []any) any { return groups[0].Kind.Wrap(docs, len(groups) == 1, revision) })
}

// sorted is the documents in the order of their kind.
func (g *Group) sorted() []any {
	if g.Kind.Compare != nil {
		slices.SortStableFunc(g.Docs, g.Kind.Compare)
	}
	return g.Docs
}
