package printer

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/dialect"
)

// Event is a document to which something happened.
type Event struct {
	// Type is what happened, in one word.
	Type string
	Doc  any
	// Kind is the kind of the document.
	Kind *dialect.Kind
}

// Stream prints documents as they change, one after the other: as rows of one table,
// as one JSON object a line, as items of one YAML list, or by a template for each.
type Stream struct {
	w      io.Writer
	format string
	p      Printer
	kind   *dialect.Kind
	// widths are those of the table's columns, set by the first events.
	widths []int
}

// NewStream starts a stream of documents of one kind in a format that [Parse] knows.
func NewStream(w io.Writer, format string, k *dialect.Kind) (*Stream, error) {
	p, err := Parse(format)
	if err != nil {
		return nil, err
	}
	return &Stream{w: w, format: format, p: p, kind: k}, p.Check(k)
}

// Print writes events; the first call, also one without events, the headings.
func (s *Stream) Print(events []Event, c dialect.Cluster) error {
	if t, ok := s.p.(table); ok {
		return s.rows(t, events, c)
	}
	for _, e := range events {
		if err := s.one(e, c); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stream) one(e Event, c dialect.Cluster) error {
	item := struct {
		Type   string `json:"type"`
		Object any    `json:"object"`
	}{e.Type, e.Doc}
	switch s.format {
	case "json":
		enc := json.NewEncoder(s.w)
		enc.SetEscapeHTML(false)
		return enc.Encode(item)
	case "yaml":
		return manifest.WriteYAML(s.w, []any{item})
	}
	return s.p.Print(s.w, []Group{{Kind: e.Kind, Docs: []any{e.Doc}}}, c)
}

// gap is the space between columns.
const gap = 3

func (s *Stream) rows(t table, events []Event, c dialect.Cluster) error {
	columns, err := pick(s.kind, t.columns(s.kind))
	if err != nil {
		return err
	}
	var rows [][]string
	if s.widths == nil {
		heading := []string{"EVENT"}
		for _, col := range columns {
			heading = append(heading, col.Heading)
		}
		rows = append(rows, heading)
	}
	for _, e := range events {
		row := []string{e.Type}
		for _, col := range columns {
			row = append(row, s.cell(col, e, c))
		}
		rows = append(rows, row)
	}
	if s.widths == nil {
		s.measure(rows)
	}
	for _, row := range rows {
		if err := s.row(row); err != nil {
			return err
		}
	}
	return nil
}

// cell is what a document has in a column of the stream's kind; one of another kind has
// the column under the same heading, or none.
func (s *Stream) cell(col dialect.Column, e Event, c dialect.Cluster) string {
	if e.Kind.APIVersion == s.kind.APIVersion {
		return col.Show(e.Doc, c)
	}
	own, err := pick(e.Kind, []string{col.Heading})
	if err != nil {
		return ""
	}
	return own[0].Show(e.Doc, c)
}

// measure makes the columns wide enough for rows. What comes later and is wider
// pushes the rest of its row to the right.
func (s *Stream) measure(rows [][]string) {
	s.widths = make([]int, len(rows[0]))
	s.widths[0] = len("modified")
	for _, row := range rows {
		for i, cell := range row {
			s.widths[i] = max(s.widths[i], utf8.RuneCountInString(cell))
		}
	}
}

func (s *Stream) row(cells []string) error {
	var b strings.Builder
	for i, cell := range cells {
		fmt.Fprintf(&b, "%-*s", s.widths[i], cell)
		b.WriteString(strings.Repeat(" ", gap))
	}
	_, err := io.WriteString(s.w, strings.TrimRight(b.String(), " ")+"\n")
	return err
}
