package printer

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"calico.internal/calicoctl/internal/manifest/dialect"
)

// table prints one table for each group.
type table struct {
	columns func(*dialect.Kind) []string
}

// Check makes sure that a kind has the columns.
func (t table) Check(k *dialect.Kind) error {
	_, err := pick(k, t.columns(k))
	return err
}

// Print writes the tables, each followed by a blank line.
func (t table) Print(w io.Writer, groups []Group, c dialect.Cluster) error {
	for _, g := range groups {
		columns, err := pick(g.Kind, t.columns(g.Kind))
		if err != nil {
			return err
		}
		rows := [][]string{{}}
		for _, col := range columns {
			rows[0] = append(rows[0], col.Heading)
		}
		for _, d := range g.sorted() {
			var row []string
			for _, col := range columns {
				row = append(row, col.Show(d, c))
			}
			rows = append(rows, row)
		}
		if err := WriteTable(w, rows); err != nil {
			return err
		}
		if _, err := io.WriteString(w, "\n"); err != nil {
			return err
		}
	}
	return nil
}

func pick(k *dialect.Kind, headings []string) ([]dialect.Column, error) {
	byHeading, all := map[string]dialect.Column{}, make([]string, len(k.Columns))
	for i, c := range k.Columns {
		byHeading[c.Heading], all[i] = c, c.Heading
	}
	out := make([]dialect.Column, len(headings))
	for i, h := range headings {
		c, ok := byHeading[strings.ToUpper(strings.TrimSpace(h))]
		if !ok {
			return nil, fmt.Errorf("unknown heading %s, valid values are: %s", h, strings.Join(all, ", "))
		}
		out[i] = c
	}
	return out, nil
}

// WriteTable writes rows in columns, the first row being the headings.
func WriteTable(w io.Writer, rows [][]string) error {
	var out bytes.Buffer
	tw := tabwriter.NewWriter(&out, 5, 1, 3, ' ', 0)
	for _, row := range rows {
		if _, err := fmt.Fprintln(tw, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for line := range bytes.Lines(out.Bytes()) {
		if _, err := w.Write(append(bytes.TrimRight(line, " \n"), '\n')); err != nil {
			return err
		}
	}
	return nil
}

// WriteBox writes rows in a frame, the first row being the headings. Columns from
// the given one on are numbers and stand to the right.
func WriteBox(w io.Writer, rows [][]string, numbersFrom int) error {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len(cell))
		}
	}
	var b strings.Builder
	dashes := make([]string, len(widths))
	for i, width := range widths {
		dashes[i] = strings.Repeat("-", width+2)
	}
	rule := "+" + strings.Join(dashes, "+") + "+"
	b.WriteString(rule + "\n")
	for n, row := range rows {
		for i, cell := range row {
			width := -widths[i]
			if n > 0 && i >= numbersFrom {
				width = widths[i]
			}
			fmt.Fprintf(&b, "| %*s ", width, cell)
		}
		b.WriteString("|\n")
		if n == 0 || n == len(rows)-1 {
			b.WriteString(rule + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
