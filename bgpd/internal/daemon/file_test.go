package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestFollowFile: the directory may come later than bgpd, and files are renamed into
// place.
func TestFollowFile(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	dir := filepath.Join(t.TempDir(), "config")
	path := filepath.Join(dir, "bgpd.toml")
	seen := make(chan string, 100)
	done := make(chan error, 1)
	go func() {
		done <- followFile(ctx, path, slog.New(slog.DiscardHandler), func(context.Context) {
			text, err := os.ReadFile(path)
			if err == nil {
				seen <- string(text)
			}
		})
	}()
	await := func(want string) {
		t.Helper()
		timer := time.NewTimer(10 * time.Second)
		defer timer.Stop()
		for {
			select {
			case got := <-seen:
				if got == want {
					return
				}
			case <-timer.C:
				t.Fatalf("%q was not seen", want)
			}
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write("bgpd.toml", "one")
	await("one")
	write(".bgpd.toml123", "two")
	if err := os.Rename(filepath.Join(dir, ".bgpd.toml123"), path); err != nil {
		t.Fatal(err)
	}
	await("two")
	write("bgpd.toml", "three")
	await("three")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
