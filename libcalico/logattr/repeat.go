package logattr

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	// repeatEvery is how often a warning or error that stays the same is shown.
	repeatEvery = 5 * time.Minute
	// repeatTracked is how many different warnings and errors are remembered.
	repeatTracked = 1024
)

// Repeat is a [slog.Handler] that keeps a warning or error that comes again and
// again from filling the log: it passes on the first, one whose error text differs
// from the last, and every 5 minutes one with the number of those that were left out
// (attribute [Repeated]). Levels below warning pass as they come.
//
// Two records are about the same thing when their level, message and attributes
// agree, other than [Err], [Took], [Tries], [Count] and [Rev].
type Repeat struct {
	next   slog.Handler
	prefix string // attributes and groups given to With…
	state  *repeatState
}

type repeatState struct {
	mu   sync.Mutex
	seen map[string]*repeatEntry
}

type repeatEntry struct {
	text    string
	shown   time.Time
	omitted int
}

// NewRepeat puts a [Repeat] before a handler.
func NewRepeat(h slog.Handler) *Repeat {
	return &Repeat{next: h, state: &repeatState{seen: map[string]*repeatEntry{}}}
}

// Enabled asks the handler behind.
func (r *Repeat) Enabled(ctx context.Context, level slog.Level) bool {
	return r.next.Enabled(ctx, level)
}

// WithAttrs adds attributes to all records.
func (r *Repeat) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	b.WriteString(r.prefix)
	for _, a := range attrs {
		writeIdentity(&b, a)
	}
	return &Repeat{next: r.next.WithAttrs(attrs), prefix: b.String(), state: r.state}
}

// WithGroup puts the attributes that follow into a group.
func (r *Repeat) WithGroup(name string) slog.Handler {
	return &Repeat{next: r.next.WithGroup(name), prefix: r.prefix + name + "\x00{", state: r.state}
}

// Handle passes a record on unless it repeats a recent one.
func (r *Repeat) Handle(ctx context.Context, rec slog.Record) error {
	if rec.Level < slog.LevelWarn {
		return r.next.Handle(ctx, rec)
	}
	identity, text := r.identify(rec)
	omitted, show := r.state.show(identity, text, rec.Time)
	if !show {
		return nil
	}
	if omitted > 0 {
		rec = rec.Clone()
		rec.AddAttrs(slog.Int(Repeated, omitted))
	}
	return r.next.Handle(ctx, rec)
}

// identify splits a record into what it is about and what it says about that.
func (r *Repeat) identify(rec slog.Record) (identity, text string) {
	var b strings.Builder
	b.WriteString(rec.Level.String())
	b.WriteByte(0)
	b.WriteString(rec.Message)
	b.WriteByte(0)
	b.WriteString(r.prefix)
	rec.Attrs(func(a slog.Attr) bool {
		if a.Key == Err {
			text = a.Value.Resolve().String()
		}
		writeIdentity(&b, a)
		return true
	})
	return b.String(), text
}

func writeIdentity(b *strings.Builder, a slog.Attr) {
	switch a.Key {
	case Err, Took, Tries, Count, Rev:
		return
	}
	b.WriteString(a.Key)
	b.WriteByte('=')
	b.WriteString(a.Value.Resolve().String())
	b.WriteByte(0)
}

// show decides whether a record is passed on, and how many like it were not.
func (s *repeatState) show(identity, text string, now time.Time) (omitted int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.seen[identity]
	if e == nil {
		s.makeRoom(now)
		s.seen[identity] = &repeatEntry{text: text, shown: now}
		return 0, true
	}
	if e.text == text && now.Sub(e.shown) < repeatEvery {
		e.omitted++
		return 0, false
	}
	omitted, e.omitted = e.omitted, 0
	e.text, e.shown = text, now
	return omitted, true
}

// makeRoom forgets what was not shown lately, or all when that is not enough.
func (s *repeatState) makeRoom(now time.Time) {
	if len(s.seen) < repeatTracked {
		return
	}
	for k, e := range s.seen {
		if now.Sub(e.shown) >= repeatEvery {
			delete(s.seen, k)
		}
	}
	if len(s.seen) >= repeatTracked {
		clear(s.seen)
	}
}
