package faults

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// top is the top of the repository.
const top = "../.."

func git(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("git", append([]string{"-C", top}, args...)...).Output()
	if err != nil {
		t.Fatalf("git %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// TestSupplyChain: what the programs are built from is what was pinned, nothing is built
// that has no source here, and no version floats.
func TestSupplyChain(t *testing.T) {
	for file := range strings.FieldsSeq(git(t, "ls-files", "*go.mod")) {
		dir := filepath.Join(top, filepath.Dir(file))
		if !strings.Contains(file, "shim") {
			if _, err := exec.Command("test", "-s", filepath.Join(dir, "go.sum")).Output(); err != nil {
				t.Errorf("%s has no go.sum", file)
			}
		}
		cmd := exec.Command("go", "mod", "verify")
		cmd.Dir, cmd.Env = dir, append(cmd.Environ(), "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: go mod verify: %v\n%s", file, err, out)
		}
	}
	for line := range strings.Lines(git(t, "diff", "--numstat", "4b825dc642cb6eb9a060e54bf8d69288fbee4904", "HEAD")) {
		if strings.HasPrefix(line, "-\t-\t") { // git counts no lines in what is binary
			t.Errorf("a binary file is in the tree: %s", line[4:])
		}
	}
	if vendored := git(t, "ls-files", "*/vendor/*", "vendor/*"); vendored != "" {
		t.Errorf("sources of others are in the tree:\n%s", vendored)
	}
}
