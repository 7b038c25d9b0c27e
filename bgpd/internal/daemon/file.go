package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"calico.internal/libcalico/logattr"
	"github.com/fsnotify/fsnotify"
)

const (
	// fileAudit is how often the file is read without being told; waitAudit is the same
	// as long as its directory is missing.
	fileAudit = 30 * time.Second
	waitAudit = time.Second
	// settle lets a writer finish.
	settle = 10 * time.Millisecond
)

// followFile calls changed at once and whenever the file may have changed: it is
// renamed into place, so that its directory is what is watched. A reload command is thus
// only a way to be quicker, and one that failed does no harm.
func followFile(ctx context.Context, path string, log *slog.Logger, changed func(context.Context)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	defer func() { _ = w.Close() }()
	dir := filepath.Dir(path)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		log.Info("waiting for the configuration file", logattr.File, path)
	}
	for ctx.Err() == nil {
		wait := fileAudit
		if err := w.Add(dir); err != nil {
			wait = waitAudit
		}
		changed(ctx)
		awaitChange(ctx, w, path, wait)
	}
	return nil
}

// awaitChange returns when the file may have changed, or after a while.
func awaitChange(ctx context.Context, w *fsnotify.Watcher, path string, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-w.Errors:
			return // events were lost: read
		case e, ok := <-w.Events:
			if !ok {
				return
			}
			if filepath.Clean(e.Name) == filepath.Clean(path) && !e.Has(fsnotify.Chmod) {
				timer.Reset(settle)
			}
		}
	}
}
