// Package faults lets go wrong what may go wrong, on hosts that are network namespaces
// with all programs, and looks at the packets. README.md has the table of all faults, also
// of those whose test stands beside the code.
package faults

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"calico.internal/test/internal/faultlist"
)

// TestTheTable: each test that the table names is there, so that no row is without one.
func TestTheTable(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := faultlist.Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 {
		t.Fatal("the table has no rows")
	}
	seen := map[string]bool{}
	for _, r := range rows {
		if seen[r.ID] {
			t.Errorf("row %s is there twice", r.ID)
		}
		seen[r.ID] = true
		for _, test := range r.Tests {
			source, err := exec.Command("grep", "-rhE", `^func `+test.Function()+`\(`, "--include=*_test.go", "../../"+test.Package).Output()
			if err != nil || !strings.Contains(string(source), test.Function()) {
				t.Errorf("row %s: no test %s in %s", r.ID, test.Function(), test.Package)
			}
		}
	}
}
