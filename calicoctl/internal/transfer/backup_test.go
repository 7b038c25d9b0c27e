package transfer

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// TestAFileThatIsWrittenAndNotSynced writes into a directory that cannot be opened, and into
// one that cannot be written to.
func TestAFileThatIsWrittenAndNotSynced(t *testing.T) {
	for _, tc := range []struct {
		mode    os.FileMode
		written bool
		text    string
	}{{0o300, true, "new"}, {0o500, false, "old"}} {
		dir := t.TempDir()
		path := filepath.Join(dir, "backup.json")
		if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, tc.mode); err != nil {
			t.Fatal(err)
		}
		err := asNobody(t, dir, func() error {
			return WriteFile(path, func(w io.Writer) error {
				_, err := io.WriteString(w, "new")
				return err
			})
		})
		if err == nil || errors.Is(err, ErrNotLasting) != tc.written {
			t.Errorf("mode %o: %v", tc.mode, err)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != tc.text {
			t.Errorf("mode %o: the file holds %q, %v", tc.mode, text, err)
		}
	}
}

// asNobody calls f as somebody whom permissions of a directory, which becomes theirs, bind.
func asNobody(t *testing.T, dir string, f func() error) error {
	t.Helper()
	if os.Geteuid() != 0 {
		return f()
	}
	const nobody = 65534
	if err := errors.Join(os.Chown(dir, nobody, nobody), os.Chmod(filepath.Dir(dir), 0o755)); err != nil { //nolint:gosec // the test's own
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.Setfsuid(nobody); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setfsuid(0) //nolint:errcheck // the thread goes back to what it was
	return f()
}
