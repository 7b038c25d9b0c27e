package tree

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong in a file.
type Fault struct {
	File string
	Pos  Pos
	// Path says which value of the document is meant; empty for the document itself.
	Path string
	Msg  string
	// field is the path within the object.
	field string
}

// Error is the fault as one line: file:line:column: path: message.
func (f *Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Pos.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Pos.Line, f.Pos.Column)
	}
	b.WriteString(": ")
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Msg)
	return b.String()
}

// Faults is every fault of a set of files.
type Faults []*Fault

// Error lists the faults, one a line.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Sorted returns the faults by position, file by file in the order in which the
// files came.
func (fs Faults) Sorted() Faults {
	files := map[string]int{}
	for _, f := range fs {
		if _, seen := files[f.File]; !seen {
			files[f.File] = len(files)
		}
	}
	out := slices.Clone(fs)
	slices.SortStableFunc(out, func(a, b *Fault) int {
		return cmp.Or(cmp.Compare(files[a.File], files[b.File]),
			cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column))
	})
	return out
}

// Condensed leaves of those that say the same of the same field in several objects the
// first, with how many there are.
func (fs Faults) Condensed() Faults {
	type about struct{ field, msg string }
	var out Faults
	count := map[about]int{}
	for _, f := range fs {
		k := about{f.field, f.Msg}
		if count[k]++; count[k] == 1 {
			first := *f
			out = append(out, &first)
		}
	}
	for _, f := range out {
		if n := count[about{f.field, f.Msg}]; n > 1 {
			f.Msg += fmt.Sprintf(" (and so in %d more)", n-1)
		}
	}
	return out
}

// About are those of one field of their objects, by its path there. It finds what
// [Report.AddIfNew] and [Report.Warn] added.
func (fs Faults) About(field string) Faults {
	var out Faults
	for _, f := range fs {
		if f.field == field {
			out = append(out, f)
		}
	}
	return out
}

// Report collects the faults of one document or part of one.
type Report struct {
	file   string
	root   *Node
	prefix string
	faults Faults
	// ifNew holds what is a fault only of an object that does not exist yet.
	ifNew Faults
	// warnings are about what is taken otherwise than its author may think.
	warnings Faults
	// broken holds the paths of values that could not be taken.
	broken []string
}

// NewReport starts a report about the value root of a file. prefix is the path of
// root in its document.
func NewReport(file string, root *Node, prefix string) *Report {
	return &Report{file: file, root: root, prefix: prefix}
}

// At adds a fault at a given place.
func (r *Report) At(pos Pos, path, format string, args ...any) {
	r.faults = append(r.faults, &Fault{
		File: r.file, Pos: pos, Path: r.full(path), Msg: fmt.Sprintf(format, args...),
	})
}

// Add adds a fault about the value at path, placed where that value stands, or else
// its nearest ancestor.
func (r *Report) Add(path, format string, args ...any) {
	r.At(r.root.Find(path), path, format, args...)
}

// AddIfNew adds what is a fault only if the object does not exist yet: one that does
// must stay changeable, by whatever name it was made.
func (r *Report) AddIfNew(path, format string, args ...any) {
	r.ifNew = append(r.ifNew, &Fault{File: r.file, Pos: r.root.Find(path), Path: r.full(path), Msg: fmt.Sprintf(format, args...), field: path})
}

// Warn adds a warning about the value at path.
func (r *Report) Warn(path, msg string) { r.warnAt(r.root.Find(path), path, msg) }

func (r *Report) warnAt(pos Pos, path, msg string) {
	r.warnings = append(r.warnings, &Fault{File: r.file, Pos: pos, Path: r.full(path), Msg: msg, field: path})
}

// Warnings returns what Warn added, and what binding found.
func (r *Report) Warnings() Faults { return r.warnings }

// IfNew returns what AddIfNew added.
func (r *Report) IfNew() Faults { return r.ifNew }

// Has reports whether there is a fault at path or inside the value there.
func (r *Report) Has(path string) bool {
	full := r.full(path)
	return slices.ContainsFunc(r.faults, func(f *Fault) bool {
		rest, ok := strings.CutPrefix(f.Path, full)
		return ok && (rest == "" || full == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// Doubts reports whether there is a fault at path, or the value there was not taken
// because it, or what it is part of, was of the wrong form: then what is missing or
// wrong there follows from that and is no news.
func (r *Report) Doubts(path string) bool {
	return r.hasAt(path) || slices.ContainsFunc(r.broken, func(b string) bool {
		rest, ok := strings.CutPrefix(path, b)
		return ok && (rest == "" || b == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// hasAt reports whether there is a fault at path itself.
func (r *Report) hasAt(path string) bool {
	full := r.full(path)
	return slices.ContainsFunc(r.faults, func(f *Fault) bool { return f.Path == full })
}

// Root is the value that the report is about.
func (r *Report) Root() *Node { return r.root }

// Faults returns what was found.
func (r *Report) Faults() Faults { return r.faults }

func (r *Report) full(path string) string {
	if r.prefix == "" || path == "" || path[0] == '[' {
		return r.prefix + path
	}
	return r.prefix + "." + path
}
