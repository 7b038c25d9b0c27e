package wholefile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"calico.internal/libcalico/wholefile"
)

// names lists what is in a folder.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

// TestAReaderFindsAWholeFile has a file replaced all the time by two, and read.
func TestAReaderFindsAWholeFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	texts := []string{strings.Repeat("a", 100_000), strings.Repeat("b", 200_000)}
	if err := wholefile.Write(path, 0o644, []byte(texts[0])); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for _, text := range texts {
		writers.Go(func() {
			for range 30 {
				if err := wholefile.Write(path, 0o644, []byte(text)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		writers.Wait()
		close(done)
	}()
	for {
		got, err := os.ReadFile(path)
		if err != nil || string(got) != texts[0] && string(got) != texts[1] {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		select {
		case <-done:
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if list := names(t, filepath.Dir(path)); list != "f" {
				t.Errorf("left are %s", list)
			}
			return
		default:
		}
	}
}

// TestWhatCannotBeReplacedStays has a folder where the file would be, and no folder at all.
func TestWhatCannotBeReplacedStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	taken := filepath.Join(dir, "f")
	if err := os.MkdirAll(filepath.Join(taken, "inside"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := wholefile.Write(taken, 0o600, nil); err == nil || !strings.Contains(err.Error(), taken) {
		t.Errorf("got %v", err)
	}
	if list := names(t, dir); list != "f" {
		t.Errorf("left are %s", list)
	}
	if err := wholefile.Write(filepath.Join(dir, "none", "f"), 0o600, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestCleanRemovesWhatKilledWritersLeft, and nothing else.
func TestCleanRemovesWhatKilledWritersLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"f", ".f-123", ".g-123", "f-123"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := wholefile.Clean(filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
	if list := names(t, dir); list != ".g-123 f f-123" {
		t.Errorf("left are %s", list)
	}
}
