// Package history keeps a host's account of the datastore's history, to find that it went
// back: the count that stands in the datastore only ever grows, so a lower one than was
// seen before is an older state, whatever the number of its revision. It is an edge: to
// etcd.
//
// One program of a host counts; others may follow it.
package history

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// MinGap is the least time between two counts for changes of the datastore: what a
// restored datastore lacks of the time since the last one is found by other means only.
const MinGap = time.Minute

// retry is how soon a count that could not be written is tried again.
const retry = time.Second

// errBehind says that the datastore's history went back, or that it is empty, which those
// who watch it have not said yet.
var errBehind = errors.New("the datastore is behind")

// After a restoration it is looked whether the host has written back: after firstLook, then
// less and less often, since it may be long until somebody has, and at last each lastLook.
const (
	firstLook = 5 * time.Second
	lastLook  = 10 * time.Minute
)

// Counter is one program's part in the account. It may be used by several goroutines.
type Counter struct {
	client *etcdstore.Client
	node   string

	// asking is held while etcd is read or written, so that no count is half known.
	asking sync.Mutex

	mu sync.Mutex
	// highest is the highest that was seen or written of both counts, and written what this
	// program wrote last.
	highest, written model.History
	// deleted says that somebody deleted the account.
	deleted bool
	// restored counts the times that the history went back since the last count.
	restored int64
	// changed says that the datastore changed since the last count; owing that the host has
	// not written back yet what a restored one lacks.
	changed, owing bool
	// lookAt is when it is looked next whether the host has written back, and lookAfter how
	// long after that once more.
	lookAt    time.Time
	lookAfter time.Duration
	// due asks Run for a count.
	due chan struct{}
}

// New makes the account of a host.
func New(client *etcdstore.Client, node string) *Counter {
	return &Counter{client: client, node: node, due: make(chan struct{}, 1)}
}

// Watch makes the memory of one watch, for [etcdstore.WatchOptions]: what it returns reads
// the count and says whether the history went back since it was asked before. The count is
// lower, or the one who counts says so, or there is none, although there was, and etcd does
// not know what the watch has seen last.
func (c *Counter) Watch() func(ctx context.Context, remembered bool) (bool, error) {
	var seen model.History
	return func(ctx context.Context, remembered bool) (bool, error) {
		c.asking.Lock()
		defer c.asking.Unlock()
		stored, at, err := read(ctx, c.client, model.HistoryKey{Node: c.node})
		if errors.Is(err, etcdstore.ErrUnauthorized) {
			return false, nil // whoever may not read it goes without
		}
		if err != nil {
			return false, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		before := higher(seen, c.written)
		seen = stored
		if at == 0 && remembered {
			c.deleted = true
			return false, nil
		}
		c.highest = higher(c.highest, stored)
		return before.Count > 0 && (stored.Count < before.Count || stored.Restored > before.Restored), nil
	}
}

// higher is the higher of both counts.
func higher(a, b model.History) model.History {
	a.Count, a.Restored = max(a.Count, b.Count), max(a.Restored, b.Restored)
	return a
}

// Changed says that the datastore changed.
func (c *Counter) Changed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = true
}

// Restored says that the history was found to have gone back, by whatever means.
func (c *Counter) Restored() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restored++
	c.owing, c.lookAt, c.lookAfter = true, time.Now().Add(firstLook), 2*firstLook
	select {
	case c.due <- struct{}{}:
	default:
	}
}

// Run counts: at the start, when the history went back, when the host has written back
// after that, and at most once each gap while the datastore changes. It is for the one
// program of a host that does. may says whether the datastore may be written; failed gets
// the errors.
func (c *Counter) Run(ctx context.Context, gap time.Duration, may func() bool, failed func(error)) error {
	var counted time.Time
	for next := true; ; {
		next = next || c.hasWrittenBack(ctx)
		if time.Since(counted) >= gap {
			next = next || c.takeChanged()
		}
		wait := c.untilLook(time.Now(), gap)
		switch {
		case next && !may():
			wait = retry
		case next:
			err := c.count(ctx)
			if ctx.Err() != nil {
				return nil
			}
			counted = time.Now()
			if next = err != nil; next {
				wait = retry
				if !errors.Is(err, errBehind) {
					failed(err)
				}
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.due:
			next = true
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (c *Counter) takeChanged() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.changed
	c.changed = false
	return changed
}

// hasWrittenBack says once that the host has written back, which the count that follows
// tells to others who have seen the restored datastore later than this host.
func (c *Counter) hasWrittenBack(ctx context.Context) bool {
	if !c.takeLook(time.Now()) {
		return false
	}
	n, err := ReadNode(ctx, c.client, c.node)
	if err != nil || !n.hasWrittenBack() {
		return false // it is looked at again
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owing = false
	return true
}

// takeLook reports whether a look is due, and says when the next one is.
func (c *Counter) takeLook(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.owing || now.Before(c.lookAt) {
		return false
	}
	c.lookAt, c.lookAfter = now.Add(c.lookAfter), min(2*c.lookAfter, lastLook)
	return true
}

// untilLook is how long it is until the next look; most when that is later, or never.
func (c *Counter) untilLook(now time.Time, most time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.owing {
		return most
	}
	return max(0, min(c.lookAt.Sub(now), most))
}

// count writes the next count, which is above what is stored and what was seen.
func (c *Counter) count(ctx context.Context) error {
	c.asking.Lock()
	defer c.asking.Unlock()
	key := model.HistoryKey{Node: c.node}
	stored, at, err := read(ctx, c.client, key)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if stored.Count < c.highest.Count && c.restored == 0 && (at != 0 || !c.deleted) {
		// Whoever watches the datastore has not taken it for the one to follow yet.
		c.mu.Unlock()
		return errBehind
	}
	c.highest = higher(c.highest, stored)
	next, restored := c.highest, c.restored
	c.mu.Unlock()
	next.Count++
	next.Restored += restored
	write, err := etcdstore.PutWrite(key, &next)
	if err != nil {
		return err
	}
	setUp, err := etcdstore.ExistsWrite(model.ReadyKey{}) // an empty store is left as it is
	if err != nil {
		return err
	}
	_, err = c.client.Commit(ctx, setUp, write)
	if errors.Is(err, etcdstore.ErrNotFound) {
		return errBehind
	}
	if err != nil {
		return fmt.Errorf("count the history of the datastore: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.highest, c.written, c.deleted = next, next, false
	c.restored -= restored
	return nil
}

// Node is what a node says about the history.
type Node struct {
	// Exists says that the node itself is in the datastore.
	Exists bool

	counted, written model.History
	// at is the revision at which the node counted last.
	at int64
}

// WrittenBackSince says whether the node has written back what a datastore lacks that was
// restored, as was seen at a revision: it counted after that, and wrote back after it had
// found, for the latest time, that the history went back.
func (n Node) WrittenBackSince(revision int64) bool { return n.at > revision && n.hasWrittenBack() }

func (n Node) hasWrittenBack() bool {
	return n.written.Count > 0 && n.written.Restored >= n.counted.Restored
}

// ReadNode reads what a node says.
func ReadNode(ctx context.Context, client *etcdstore.Client, node string) (n Node, err error) {
	if n.counted, n.at, err = read(ctx, client, model.HistoryKey{Node: node}); err != nil {
		return n, err
	}
	if n.written, _, err = read(ctx, client, model.HistoryKey{Node: node, WrittenBack: true}); err != nil {
		return n, err
	}
	_, err = client.Get(ctx, model.NodeKey{Name: node})
	if errors.Is(err, etcdstore.ErrNotFound) {
		return n, nil
	}
	if err != nil && !errors.Is(err, etcdstore.ErrUnreadable) {
		return n, err
	}
	n.Exists = true
	return n, nil
}

// WriteBack says that the host has written back what only it knows.
func WriteBack(ctx context.Context, client *etcdstore.Client, node string) error {
	count, _, err := read(ctx, client, model.HistoryKey{Node: node})
	if err != nil {
		return err
	}
	key := model.HistoryKey{Node: node, WrittenBack: true}
	before, _, err := read(ctx, client, key)
	if err != nil {
		return err
	}
	count.Unknown = before.Unknown
	write, err := etcdstore.PutWrite(key, &count)
	if err != nil {
		return err
	}
	_, err = client.Commit(ctx, write)
	return err
}

// read reads an account, and the revision at which it was written, which is zero when there
// is none; one that cannot be read is a zero account.
func read(ctx context.Context, client *etcdstore.Client, key model.HistoryKey) (h model.History, at int64, err error) {
	e, err := client.Get(ctx, key)
	switch {
	case errors.Is(err, etcdstore.ErrNotFound), errors.Is(err, etcdstore.ErrUnreadable):
		return model.History{}, e.Revision, nil
	case err != nil:
		return model.History{}, 0, err
	}
	value, _ := e.Value.(*model.History)
	return *value, e.Revision, nil
}
