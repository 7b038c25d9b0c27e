// Package faultlist reads the table of test/faults/README.md: what may go wrong, the test
// that lets it go wrong, and what is measured then. It is pure; test/cmd/faults runs what
// it lists, and a test sees to it that each test in it exists.
package faultlist

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Row is a row of the table.
type Row struct {
	// ID is the row's number or name, as `make test-faults ROW=…` takes it.
	ID string
	// What goes wrong.
	What  string
	Tests []Test
	// Measured is what the tests look at.
	Measured string
}

// Test is a test function, with the names of its subtests where the row is only those.
type Test struct {
	// Package is the import path without the modules' common prefix.
	Package string
	// Name is as go test -run takes it: TestX or TestX/sub.
	Name string
}

// Function is the name of the test function.
func (t Test) Function() string {
	name, _, _ := strings.Cut(t.Name, "/")
	return name
}

// tests finds `package` TestX, and further tests of the same package behind commas.
var tests = regexp.MustCompile("`([a-z0-9/-]+)` ((?:Test[A-Za-z0-9_/]+(?:, )?)+)")

// Parse reads the rows of all tables of a text whose header begins with "| row |".
func Parse(text string) ([]Row, error) {
	var rows []Row
	inTable := false
	for number, line := range slices.Collect(strings.Lines(text)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "| row |"):
			inTable = true
			continue
		case !strings.HasPrefix(line, "|"):
			inTable = false
		}
		if !inTable || strings.HasPrefix(line, "|---") {
			continue
		}
		row, err := parseRow(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number+1, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func parseRow(line string) (Row, error) {
	cells := strings.Split(strings.Trim(line, "|"), "|")
	const columns = 4
	if len(cells) != columns {
		return Row{}, fmt.Errorf("%d cells, want %d: row, what goes wrong, tests, measured", len(cells), columns)
	}
	row := Row{ID: strings.TrimSpace(cells[0]), What: strings.TrimSpace(cells[1]), Measured: strings.TrimSpace(cells[3])}
	for _, m := range tests.FindAllStringSubmatch(cells[2], -1) {
		for name := range strings.SplitSeq(m[2], ", ") {
			if name != "" {
				row.Tests = append(row.Tests, Test{Package: m[1], Name: name})
			}
		}
	}
	if len(row.Tests) == 0 {
		return Row{}, fmt.Errorf("row %s names no test: write `package` TestName", row.ID)
	}
	return row, nil
}
