package services

import (
	"fmt"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// Watch tells of changes: the name of a service comes whenever runsv has written its status.
// It wakes nobody while nothing happens.
type Watch struct {
	Changed <-chan string

	events *fsnotify.Watcher
}

// Watch begins to watch services that have been laid out.
func (d Dir) Watch(names []string) (*Watch, error) {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch services: %w", err)
	}
	of := map[string]string{}
	for _, name := range names {
		dir := d.file(name, "supervise")
		if err := events.Add(dir); err != nil {
			_ = events.Close()
			return nil, fmt.Errorf("watch service %s: %w", name, err)
		}
		of[dir] = name
	}
	changed := make(chan string)
	w := &Watch{Changed: changed, events: events}
	go w.pass(of, changed)
	return w, nil
}

// pass hands on what concerns a status file. runsv writes status.new and renames it. The
// queue of the kernel may overflow only if nobody has listened for 16,384 events
// (inotify(7)); then all services are named.
func (w *Watch) pass(of map[string]string, changed chan<- string) {
	defer close(changed)
	for {
		select {
		case e, ok := <-w.events.Events:
			if !ok {
				return
			}
			if e.Op.Has(fsnotify.Create) && filepath.Base(e.Name) == "status" {
				changed <- of[filepath.Dir(e.Name)]
			}
		case _, ok := <-w.events.Errors:
			if !ok {
				return
			}
			for _, name := range of {
				changed <- name
			}
		}
	}
}

// Close ends it. The receiver must go on until Changed is closed.
func (w *Watch) Close() { _ = w.events.Close() }
