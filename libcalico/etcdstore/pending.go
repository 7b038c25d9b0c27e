package etcdstore

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"calico.internal/libcalico/store"
)

// pending is what a watch has learned and its receiver has not yet taken. It holds the
// latest state of each path only, so that a slow receiver costs no more memory than
// the watched keys themselves.
type pending struct {
	wake chan struct{}
	// linger is how long news waits for more; 0: not at all.
	linger time.Duration

	mu       sync.Mutex
	full     bool // puts are a snapshot
	restored bool // the snapshot is that of a history that went back
	puts     map[string]store.KV
	deletes  map[string]struct{}
	revision int64
	// news says that there is something to tell besides err.
	news bool
	err  error
	// told is the text of the error that the receiver has seen last; empty when it
	// thinks that all is well.
	told string
}

func newPending() *pending {
	return &pending{
		wake:    make(chan struct{}, 1),
		puts:    map[string]store.KV{},
		deletes: map[string]struct{}{},
	}
}

// snapshot replaces all that is pending, but for the news that the history went back.
func (p *pending) snapshot(kvs []store.KV, revision int64, restored bool) {
	puts := make(map[string]store.KV, len(kvs))
	for _, kv := range kvs {
		puts[kv.Path] = kv
	}
	p.update(func() {
		p.deletes = p.deletedSince(puts, restored)
		p.full, p.news, p.err = true, true, nil
		p.restored = p.restored || restored
		p.puts, p.revision = puts, revision
	})
}

// deletedSince is what a snapshot shows to have been deleted since a restored one that
// nobody has taken yet.
func (p *pending) deletedSince(puts map[string]store.KV, restored bool) map[string]struct{} {
	deletes := map[string]struct{}{}
	if !p.restored || restored {
		return deletes
	}
	for path := range p.puts {
		deletes[path] = struct{}{}
	}
	maps.Copy(deletes, p.deletes)
	maps.DeleteFunc(deletes, func(path string, _ struct{}) bool { _, there := puts[path]; return there })
	return deletes
}

// add merges events, all of them complete revisions.
func (p *pending) add(events []*mvccpb.Event, within ranges, revision int64) {
	p.update(func() {
		for _, e := range events {
			path := string(e.Kv.Key)
			if !within.hold(path) {
				continue
			}
			p.news = true
			if e.Type == mvccpb.PUT {
				p.puts[path] = newKV(e.Kv)
				delete(p.deletes, path)
				continue
			}
			delete(p.puts, path)
			if !p.full || p.restored {
				p.deletes[path] = struct{}{}
			}
		}
		p.revision, p.err = revision, nil
	})
}

// connected says that the watch is going on, with or without news.
func (p *pending) connected(revision int64) {
	p.update(func() { p.revision, p.err = max(p.revision, revision), nil })
}

// fail says that etcd is lost.
func (p *pending) fail(err error) { p.update(func() { p.err = err }) }

func (p *pending) update(change func()) {
	p.mu.Lock()
	change()
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// deliver sends batches until ctx ends.
func (p *pending) deliver(ctx context.Context, out chan<- store.Batch) {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		if p.linger > 0 && !pause(ctx, p.linger) {
			return
		}
		for b, ok := p.next(); ok; b, ok = p.next() {
			select {
			case out <- b:
			case <-ctx.Done():
				return
			}
		}
	}
}

// next takes the next batch: news first, then a loss that the receiver does not know.
func (p *pending) next() (b store.Batch, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.news, p.err == nil && p.told != "":
		b = store.Batch{Snapshot: p.full, Restored: p.restored, Revision: p.revision, Puts: p.sortedPuts(), Deletes: slices.Sorted(maps.Keys(p.deletes))}
		p.full, p.restored, p.news, p.told = false, false, false, ""
		// New ones, because a map that was emptied keeps the room that a snapshot took.
		p.puts, p.deletes = map[string]store.KV{}, map[string]struct{}{}
		return b, true
	case p.err != nil && p.err.Error() != p.told:
		p.told = p.err.Error()
		return store.Batch{Err: p.err}, true
	default:
		return store.Batch{}, false
	}
}

func (p *pending) sortedPuts() []store.KV {
	return slices.SortedFunc(maps.Values(p.puts), func(a, b store.KV) int { return strings.Compare(a.Path, b.Path) })
}
