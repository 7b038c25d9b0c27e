// Package backend is confd's view of etcd: the values below the watched keys.
//
// confd's own etcdv3 backend asks etcd for each file anew, in several transactions, and loses a change whose fetch
// fails. This one is fed by a watch, answers from memory, and says when to render. A value that cannot be what it
// must be is put aside: the last good one stays, and without one the key is absent.
package backend

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"calico.internal/confd-templates/internal/expect"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/store"
)

// ErrNotInSync means that the store has not been read yet.
var ErrNotInSync = errors.New("the values have not been read from etcd yet")

// Store holds the values. It implements confd's StoreClient.
type Store struct {
	rules  expect.Rules
	logger *slog.Logger
	// changed has room for one signal, which stands for any number of changes.
	changed chan struct{}
	synced  chan struct{}

	mu     sync.Mutex
	values map[string]string
	bad    map[string]error
	// kept are the values that stay although a restored store lacks them.
	kept map[string]bool
	// unread holds the prefixes that have not been read yet, unreachable those whose watch has lost etcd.
	unread, unreachable map[string]bool
	// held says of prefixes why what etcd holds below them is not followed.
	held map[string]error
}

// New returns an empty store for the keys below the given prefixes, with rules for their values. No prefix may stand
// below another: see [Prefixes].
func New(prefixes []string, rules expect.Rules, logger *slog.Logger) *Store {
	s := &Store{
		rules:       rules,
		logger:      logger,
		changed:     make(chan struct{}, 1),
		synced:      make(chan struct{}),
		values:      map[string]string{},
		bad:         map[string]error{},
		kept:        map[string]bool{},
		unread:      map[string]bool{},
		unreachable: map[string]bool{},
		held:        map[string]error{},
	}
	for _, prefix := range prefixes {
		s.unread[prefix] = true
	}
	return s
}

// Prefixes reduces keys to those that do not stand below another one. Each wants a watch of its own: one watch over
// all of them would bring every change of whatever lies between them, such as all address blocks.
func Prefixes(keys []string) []string {
	sorted := slices.Clone(keys)
	slices.Sort(sorted)
	var prefixes []string
	for _, key := range sorted {
		if !slices.ContainsFunc(prefixes, func(p string) bool { return below(key, p) }) {
			prefixes = append(prefixes, key)
		}
	}
	return prefixes
}

// Changed signals when values have changed. It has room for one signal.
func (s *Store) Changed() <-chan struct{} { return s.changed }

// Synced is closed when all values have been read for the first time.
func (s *Store) Synced() <-chan struct{} { return s.synced }

// Apply takes over what the watch of a prefix sent. While etcd is not followed all values stay.
func (s *Store) Apply(prefix string, b store.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.Err != nil {
		s.lost(prefix, b.Err)
		return
	}
	s.found(prefix, b.Revision)
	if b.Held != nil {
		s.held[prefix] = b.Held
		return
	}
	delete(s.held, prefix)
	before := maps.Clone(s.values)
	if b.Snapshot {
		s.forget(prefix, b.Puts, b.Restored)
	}
	for _, kv := range b.Puts {
		if below(kv.Path, prefix) {
			s.put(kv.Path, string(kv.Value))
		}
	}
	for _, path := range b.Deletes {
		delete(s.values, path)
		delete(s.bad, path)
		delete(s.kept, path)
	}
	complete := s.read(prefix, b.Snapshot)
	// Before the store is complete nobody can make use of a signal.
	if complete || len(s.unread) == 0 && !maps.Equal(before, s.values) {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
}

// read notes that a prefix was read, and says whether the store is complete by that.
func (s *Store) read(prefix string, snapshot bool) bool {
	if !snapshot || !s.unread[prefix] {
		return false
	}
	delete(s.unread, prefix)
	if len(s.unread) > 0 {
		return false
	}
	close(s.synced)
	return true
}

func (s *Store) lost(prefix string, err error) {
	if len(s.unreachable) == 0 {
		s.logger.Warn("etcd cannot be reached; files stay as they are", logattr.Err, err)
	}
	s.unreachable[prefix] = true
}

func (s *Store) found(prefix string, revision int64) {
	if !s.unreachable[prefix] {
		return
	}
	delete(s.unreachable, prefix)
	if len(s.unreachable) == 0 {
		s.logger.Info("etcd answers again", logattr.Rev, revision)
	}
}

// forget drops what a snapshot of a prefix no longer has, but for facts that a restored store lacks: nobody deleted
// them, and who drops a node's address cuts it off.
func (s *Store) forget(prefix string, snapshot []store.KV, restored bool) {
	present := make(map[string]bool, len(snapshot))
	for _, kv := range snapshot {
		present[kv.Path] = true
	}
	gone := func(path string) bool { return below(path, prefix) && !present[path] }
	maps.DeleteFunc(s.values, func(path, _ string) bool {
		if gone(path) && restored && s.rules.Fact(path) && !s.kept[path] {
			s.kept[path] = true
			s.logger.Warn("the store was restored to an older state and lacks a value, which stays until it is there again or is deleted", logattr.Key, path)
		}
		return gone(path) && !s.kept[path]
	})
	maps.DeleteFunc(s.bad, func(path string, _ error) bool { return gone(path) })
}

func (s *Store) put(path, value string) {
	delete(s.kept, path)
	err := s.rules.Check(path, value)
	if err == nil {
		s.values[path] = value
		delete(s.bad, path)
		return
	}
	if before, known := s.bad[path]; !known || before.Error() != err.Error() {
		_, kept := s.values[path]
		s.logger.Error("a value is not usable and is left out", logattr.Key, path, logattr.Err, err, "last_good_one_stays", kept)
	}
	s.bad[path] = err
}

// Held says why what etcd holds is not followed; nil when it is.
func (s *Store) Held() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, err := range s.held {
		return err
	}
	return nil
}

// Bad lists the keys whose values are left out, with the reason.
func (s *Store) Bad() map[string]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.bad)
}

// GetValues returns the values of the given keys and of all keys below them. Those below one prefix are of one
// revision.
func (s *Store) GetValues(keys []string) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unread) > 0 {
		return nil, ErrNotInSync
	}
	found := map[string]string{}
	for path, value := range s.values {
		if slices.ContainsFunc(keys, func(key string) bool { return below(path, key) }) {
			found[path] = value
		}
	}
	return found, nil
}

// below says whether a path is the key or stands below it.
func below(path, key string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(key, "/"))
	return ok && (rest == "" || rest[0] == '/')
}

// WatchPrefix is there because confd's interface asks for it. Nothing calls it: package loop decides when to render.
func (s *Store) WatchPrefix(string, []string, uint64, chan bool) (uint64, error) {
	return 0, errors.ErrUnsupported
}
