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

// Counter is one program's part in the account. It may be used by several goroutines.
type Counter struct {
	client *etcdstore.Client
	node   string

	mu sync.Mutex
	// highest is the highest that was seen, written, or is due to be written, of both counts.
	highest model.History
	// changed says that the datastore changed since the last count; owing that the host has
	// not written back yet what a restored one lacks.
	changed, owing bool
	// due asks Run for a count.
	due chan struct{}
}

// New makes the account of a host.
func New(client *etcdstore.Client, node string) *Counter {
	return &Counter{client: client, node: node, due: make(chan struct{}, 1)}
}

// WentBack reads the count and says whether the history went back since it was read or
// written before: it is lower, or the one who counts says so. It is for
// [etcdstore.WatchOptions].
func (c *Counter) WentBack(ctx context.Context) (bool, error) {
	stored, err := read(ctx, c.client, model.HistoryKey{Node: c.node})
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.highest
	c.raise(stored)
	return before.Count > 0 && (stored.Count < before.Count || stored.Restored > before.Restored), nil
}

// raise takes over what is higher.
func (c *Counter) raise(h model.History) {
	c.highest.Count = max(c.highest.Count, h.Count)
	c.highest.Restored = max(c.highest.Restored, h.Restored)
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
	c.highest.Restored++
	c.owing = true
	select {
	case c.due <- struct{}{}:
	default:
	}
}

// Run counts: at the start, when the history went back, when the host has written back
// after that, and at most once each gap while the datastore changes. It is for the one
// program of a host that does. failed gets the errors.
func (c *Counter) Run(ctx context.Context, gap time.Duration, failed func(error)) error {
	for next := true; ; {
		next = next || c.takeChanged() || c.hasWrittenBack(ctx)
		wait := gap
		if next {
			err := c.count(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if next = err != nil; next {
				failed(err)
				wait = retry
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

// hasWrittenBack says once that the host has written back. The count that follows makes
// that no backup taken later shows it so: after its restoration the host is to do it anew.
func (c *Counter) hasWrittenBack(ctx context.Context) bool {
	c.mu.Lock()
	owing := c.owing
	c.mu.Unlock()
	if !owing {
		return false
	}
	back, err := ReadNode(ctx, c.client, c.node)
	if err != nil || !back.WrittenBack() {
		return false // it is looked at again
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owing = false
	return true
}

// count writes the next count, which is above what is stored and what was seen.
func (c *Counter) count(ctx context.Context) error {
	key := model.HistoryKey{Node: c.node}
	stored, err := read(ctx, c.client, key)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.raise(stored)
	next := c.highest
	c.mu.Unlock()
	next.Count++
	write, err := etcdstore.PutWrite(key, &next)
	if err != nil {
		return err
	}
	if _, err := c.client.Commit(ctx, write); err != nil {
		return fmt.Errorf("count the history of the datastore: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raise(next)
	return nil
}

// Node is what a node says about the history.
type Node struct {
	// Exists says that the node itself is in the datastore.
	Exists bool
	// Count is how far it has counted, Written the count at which it wrote back last.
	Count, Written int64
}

// WrittenBack says whether the node has written back since it counted last.
func (n Node) WrittenBack() bool { return n.Count > 0 && n.Written >= n.Count }

// ReadNode reads what a node says.
func ReadNode(ctx context.Context, client *etcdstore.Client, node string) (n Node, err error) {
	count, err := read(ctx, client, model.HistoryKey{Node: node})
	if err != nil {
		return n, err
	}
	written, err := read(ctx, client, model.HistoryKey{Node: node, WrittenBack: true})
	if err != nil {
		return n, err
	}
	_, err = client.Get(ctx, model.NodeKey{Name: node})
	if errors.Is(err, etcdstore.ErrNotFound) {
		return Node{Count: count.Count, Written: written.Count}, nil
	}
	if err != nil && !errors.Is(err, etcdstore.ErrUnreadable) {
		return n, err
	}
	return Node{Exists: true, Count: count.Count, Written: written.Count}, nil
}

// WriteBack says that the host has written back what only it knows.
func WriteBack(ctx context.Context, client *etcdstore.Client, node string) error {
	count, err := read(ctx, client, model.HistoryKey{Node: node})
	if err != nil {
		return err
	}
	write, err := etcdstore.PutWrite(model.HistoryKey{Node: node, WrittenBack: true}, &count)
	if err != nil {
		return err
	}
	_, err = client.Commit(ctx, write)
	return err
}

// read reads an account; one that is not there, or cannot be read, is zero.
func read(ctx context.Context, client *etcdstore.Client, key model.HistoryKey) (model.History, error) {
	e, err := client.Get(ctx, key)
	switch {
	case errors.Is(err, etcdstore.ErrNotFound), errors.Is(err, etcdstore.ErrUnreadable):
		return model.History{}, nil
	case err != nil:
		return model.History{}, err
	}
	h, _ := e.Value.(*model.History)
	return *h, nil
}
