package netsync

import (
	"bufio"
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/wholefile"
)

// removals are the ids of networks that users had this host's engine remove, and of which etcd
// does not know that yet. They are kept on disk: the program may end before it does.
type removals struct {
	file string

	mu  sync.Mutex
	ids map[string]bool
}

// openRemovals reads what is kept. What cannot be read is not known: such networks are made
// again.
func openRemovals(file string, log *slog.Logger) *removals {
	r := &removals{file: file, ids: make(map[string]bool)}
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Warn("removals of networks are not remembered", logattr.Err, err)
	}
	for scan := bufio.NewScanner(bytes.NewReader(text)); scan.Scan(); {
		if id := strings.TrimSpace(scan.Text()); id != "" {
			r.ids[id] = true
		}
	}
	return r
}

func (r *removals) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[id]
}

func (r *removals) add(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids[id] {
		return nil
	}
	r.ids[id] = true
	return r.write()
}

// keepOnly forgets those of which no record tells any more.
func (r *removals) keepOnly(records map[string]*model.DockerNetwork) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := make(map[string]bool)
	for _, n := range records {
		for _, id := range n.IDs {
			known[id] = true
		}
	}
	before := len(r.ids)
	maps.DeleteFunc(r.ids, func(id string, _ bool) bool { return !known[id] })
	if len(r.ids) == before {
		return nil
	}
	return r.write()
}

func (r *removals) write() error {
	if err := os.MkdirAll(filepath.Dir(r.file), 0o700); err != nil {
		return err
	}
	return wholefile.Write(r.file, 0o600, []byte(strings.Join(slices.Sorted(maps.Keys(r.ids)), "\n")+"\n"))
}
