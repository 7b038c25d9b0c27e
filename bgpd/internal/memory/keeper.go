package memory

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"calico.internal/libcalico/logattr"
)

const (
	// settle is how long nothing must change before the record is written, and gap the
	// longest wait for that and the least time between two writes.
	settle = time.Second
	gap    = 10 * time.Second
)

// Keeper writes the record when it changes, but not at each change. It may be used by
// several goroutines.
type Keeper struct {
	dir string
	log *slog.Logger
	// changed has room for one signal; pending says that something changed since the record
	// was last put together.
	changed chan struct{}
	pending atomic.Bool

	// mu guards what is on the disk.
	mu sync.Mutex
	// have is the content that is there, and failed what was said of a write that failed.
	have, failed string
}

// NewKeeper makes the keeper of the record in a directory. before is the one that is there,
// nil when none is that could be read.
func NewKeeper(dir string, before *Record, log *slog.Logger) *Keeper {
	k := &Keeper{dir: dir, log: log, changed: make(chan struct{}, 1)}
	if before != nil {
		k.have, _ = content(*before) // else it is written again, which does no harm
	}
	return k
}

// Changed says that the record may have changed. It does not block.
func (k *Keeper) Changed() {
	k.pending.Store(true)
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// Run writes the record as it changes, until ctx ends. collect puts it together; ok is false
// while there is nothing to remember.
func (k *Keeper) Run(ctx context.Context, collect func(context.Context) (r Record, ok bool)) error {
	var p pace
	timer := time.NewTimer(gap)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-k.changed:
			p.change(time.Now())
		case <-timer.C:
			k.pending.Store(false)
			if r, ok := collect(ctx); ok && !k.put(r) {
				k.Changed()
			}
			p.wrote(time.Now())
		case <-ctx.Done():
			return nil
		}
		if at, due := p.due(); due {
			timer.Reset(time.Until(at))
		}
	}
}

// Finish writes what changed and was not written yet, before the program ends.
func (k *Keeper) Finish(collect func() (r Record, ok bool)) {
	if !k.pending.Load() {
		return
	}
	if r, ok := collect(); ok {
		k.put(r)
	}
}

// put writes a record that is another than the one that is there; ok is false when it must
// be tried again.
func (k *Keeper) put(r Record) (ok bool) {
	now, err := content(r)
	if err != nil {
		k.log.Error("what this host remembers cannot be written down", logattr.Err, err)
		return true // the same again would be no better
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if now == k.have {
		return true
	}
	began := time.Now()
	r.Written = began.UTC().Truncate(time.Second)
	size, err := write(k.dir, r)
	if err != nil {
		if k.failed != err.Error() {
			k.log.Warn("what this host remembers is not written; without etcd, a start would go on with what was written before. It is tried again", logattr.Dir, k.dir, logattr.Err, err)
		}
		k.failed = err.Error()
		return false
	}
	k.have, k.failed = now, ""
	k.log.Debug("what this host remembers is written", logattr.Dir, k.dir, "bytes", size, logattr.Took, time.Since(began))
	return true
}

// pace says when to write.
type pace struct{ first, latest, written time.Time }

func (p *pace) change(now time.Time) {
	if p.first.IsZero() {
		p.first = now
	}
	p.latest = now
}

func (p *pace) wrote(now time.Time) { *p = pace{written: now} }

// due is when to write, if there is anything to be written.
func (p *pace) due() (at time.Time, due bool) {
	if p.first.IsZero() {
		return time.Time{}, false
	}
	at = p.latest.Add(settle)
	if limit := p.first.Add(gap); limit.Before(at) {
		at = limit
	}
	if earliest := p.written.Add(gap); at.Before(earliest) {
		at = earliest
	}
	return at, true
}
