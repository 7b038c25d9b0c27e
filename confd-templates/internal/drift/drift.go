// Package drift notices when somebody else changes or removes files that are ours.
package drift

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// Watch signals on the channel that it returns when one of the files is changed, moved or removed, until ctx ends.
// Their folders are what is watched, as a watch on a file ends when the file is replaced; a folder that is removed is
// no longer watched, and a periodic look at the files has to find what happens there.
func Watch(ctx context.Context, logger *slog.Logger, files []string) (<-chan struct{}, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	ours := map[string]bool{}
	for _, file := range files {
		ours[filepath.Clean(file)] = true
		if err := watcher.Add(filepath.Dir(file)); err != nil {
			_ = watcher.Close()
			return nil, fmt.Errorf("watch files: %s: %w", filepath.Dir(file), err)
		}
	}
	changed := make(chan struct{}, 1)
	go func() {
		defer watcher.Close() //nolint:errcheck // nothing is lost with it
		for {
			select {
			case <-ctx.Done():
				return
			case event := <-watcher.Events:
				if ours[event.Name] {
					signal(changed)
				}
			case err := <-watcher.Errors:
				// Events may have been lost; look at the files.
				logger.Warn("watch on files lost events", "err", err)
				signal(changed)
			}
		}
	}()
	return changed, nil
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
