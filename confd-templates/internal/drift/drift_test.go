package drift

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	file, other := filepath.Join(dir, "ours"), filepath.Join(dir, "other")
	write := func(name, text string) func() error {
		return func() error { return os.WriteFile(name, []byte(text), 0o644) }
	}
	changed, err := Watch(t.Context(), slog.New(slog.DiscardHandler), []string{file})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"made", write(file, "a")},
		{"written", write(file, "b")},
		{"replaced", func() error { return os.Rename(other, file) }},
		{"another mode", func() error { return os.Chmod(file, 0o600) }},
		{"removed", func() error { return os.Remove(file) }},
		{"made again", write(file, "c")},
	} {
		if err := write(other, "other")(); err != nil {
			t.Fatal(err)
		}
		drain(changed)
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: no signal within 5 s", c.name)
		}
	}
}

// drain takes signals of what was done before; one may still be on its way, and is not told from the next.
func drain(c <-chan struct{}) {
	select {
	case <-c:
	default:
	}
}

func TestOtherFilesAreNoneOfOurs(t *testing.T) {
	dir := t.TempDir()
	file, other := filepath.Join(dir, "ours"), filepath.Join(dir, ".ours.staged")
	changed, err := Watch(t.Context(), slog.New(slog.DiscardHandler), []string{file})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
		t.Error("a signal for a file that is not ours")
	case <-time.After(200 * time.Millisecond):
	}
}

func TestMissingFolder(t *testing.T) {
	if _, err := Watch(t.Context(), slog.New(slog.DiscardHandler), []string{filepath.Join(t.TempDir(), "no", "file")}); err == nil {
		t.Error("Watch of a missing folder = nil, want an error")
	}
}
