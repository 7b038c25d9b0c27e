package dockerapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// The waits between attempts to reach the engine.
const (
	retryMin = 200 * time.Millisecond
	retryMax = 2 * time.Second
)

// Watcher is told what happens at the engine. Its methods are called one at a time.
type Watcher interface {
	// EngineUp is called each time the engine is reached, before any event: what
	// happened until now must be listed.
	EngineUp(ctx context.Context)
	// NetworkChanged is called for each network that was created or removed since.
	NetworkChanged(ctx context.Context, e Event)
	// ContainerChanged is called for each container that has started, has got another name, or
	// was connected to a network while it runs.
	ContainerChanged(ctx context.Context, e Event)
	// EngineDown is called when the engine cannot be reached, with the reason.
	EngineDown(err error)
}

// Watch follows the engine's events until ctx ends, and reconnects as often as
// needed.
func (c *Client) Watch(ctx context.Context, w Watcher) {
	wait := retryMin
	for ctx.Err() == nil {
		up, err := c.watchOnce(ctx, w)
		c.connected.Store(false)
		if ctx.Err() != nil {
			return
		}
		w.EngineDown(err)
		if up {
			wait = retryMin
		}
		pause(ctx, wait)
		wait = min(2*wait, retryMax)
	}
}

// watchOnce follows one event stream to its end. up tells whether there was one.
func (c *Client) watchOnce(ctx context.Context, w Watcher) (up bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The stream itself has no deadline, its start has: an engine that is starting
	// accepts the connection and says nothing.
	slow := time.AfterFunc(callLimit, cancel)
	resp, err := c.do(ctx, http.MethodGet, "/events", networkEvents(), nil)
	slow.Stop()
	if err != nil {
		return false, fmt.Errorf("follow events: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // nothing is buffered
	c.connected.Store(true)
	w.EngineUp(ctx)
	for stream := json.NewDecoder(resp.Body); ; {
		var e Event
		if err := stream.Decode(&e); err != nil {
			return true, fmt.Errorf("follow events: %w", c.unavailable("/events", err))
		}
		if e.Container() != "" {
			w.ContainerChanged(ctx, e)
		} else {
			w.NetworkChanged(ctx, e)
		}
	}
}

// networkEvents is the query for what [Watcher] wants to hear.
func networkEvents() url.Values {
	return url.Values{"filters": {`{"type":["network","container"],"event":["create","destroy","connect","start","rename"]}`}}
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
