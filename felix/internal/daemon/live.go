package daemon

import (
	"sync"
	"sync/atomic"
	"time"

	"calico.internal/felix/internal/config"
)

// live is the configuration in force, for the tasks besides the loop.
type live struct {
	mu      sync.Mutex
	cfg     *config.Config
	changed chan struct{}
}

func newLive(cfg *config.Config) *live { return &live{cfg: cfg, changed: make(chan struct{})} }

func (l *live) set(cfg *config.Config) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cfg = cfg
	close(l.changed)
	l.changed = make(chan struct{})
}

// get returns the configuration, and a channel that is closed when there is another.
func (l *live) get() (*config.Config, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cfg, l.changed
}

// heartbeat shows that the loop runs.
type heartbeat struct{ last atomic.Int64 }

// hangTime is how long the loop may take for one round before it counts as hung. A pass
// may have to wait for the lock of iptables in each of eight tables.
const hangTime = 90 * time.Second

func (h *heartbeat) tick() { h.last.Store(time.Now().UnixNano()) }

// alive reports whether the loop runs, or has not begun yet.
func (h *heartbeat) alive() bool {
	last := h.last.Load()
	return last == 0 || time.Since(time.Unix(0, last)) < hangTime
}
