package config

import (
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong, or odd, in a document.
type Fault struct {
	// Line counts from 1; 0 means the document as a whole.
	Line int
	// Field is the path of the key, such as "peer[1].as_number".
	Field string
	Text  string
}

// String is the fault as a message: "line 12: peer[1].as_number: …".
func (f Fault) String() string {
	var b strings.Builder
	if f.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", f.Line)
	}
	if f.Field != "" {
		b.WriteString(f.Field + ": ")
	}
	b.WriteString(f.Text)
	return b.String()
}

// InvalidError is a document that cannot be used, with all that is wrong in it.
type InvalidError struct {
	Faults []Fault
}

// Error joins the faults, one on a line.
func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

func sortFaults(fs []Fault) {
	slices.SortStableFunc(fs, func(a, b Fault) int { return a.Line - b.Line })
}
