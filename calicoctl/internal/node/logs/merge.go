package logs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"
)

// Options says what is read.
type Options struct {
	// Dir holds a folder for each program.
	Dir string
	// Programs are those whose logs are read, merged by time.
	Programs []string
	// Tail is how many entries are shown at first; negative means all.
	Tail int
	// Follow goes on with what is written, until the context ends.
	Follow bool
}

// pollEvery is how often it is looked for what was written.
const pollEvery = 100 * time.Millisecond

// Read hands the entries to show in the order of their times.
func Read(ctx context.Context, o Options, show func(Entry) error) error {
	var m merger
	defer m.close()
	for _, name := range o.Programs {
		r, err := open(filepath.Join(o.Dir, name))
		if err != nil {
			return fmt.Errorf("log of %s: %w", name, err)
		}
		m = append(m, &head{source: source{program: name, reader: r}})
	}
	if err := m.tail(ctx, o.Tail, show); err != nil || !o.Follow {
		return err
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := m.drain(ctx, show); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// head is a source with its next entry.
type head struct {
	source

	next Entry
	full bool
}

// merger is the sources of all programs.
type merger []*head

func (m merger) close() {
	for _, h := range m {
		h.reader.close()
	}
}

// drain shows all that there is.
func (m merger) drain(ctx context.Context, show func(Entry) error) error {
	for ctx.Err() == nil {
		e, err := m.entry()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := show(e); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// tail shows the last n entries that there are; all when n is negative.
func (m merger) tail(ctx context.Context, n int, show func(Entry) error) error {
	if n < 0 {
		return m.drain(ctx, show)
	}
	var last []Entry
	err := m.drain(ctx, func(e Entry) error {
		if last = append(last, e); len(last) > 2*n {
			last = slices.Delete(last, 0, len(last)-n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range last[max(0, len(last)-n):] {
		if err := show(e); err != nil {
			return err
		}
	}
	return nil
}

// entry is the earliest that there is; [io.EOF] says that there is none yet.
func (m merger) entry() (Entry, error) {
	var first *head
	for _, h := range m {
		if !h.full {
			e, err := h.source.entry()
			if errors.Is(err, io.EOF) {
				continue
			}
			if err != nil {
				return Entry{}, fmt.Errorf("log of %s: %w", h.program, err)
			}
			h.next, h.full = e, true
		}
		if first == nil || cmp.Less(h.next.Time, first.next.Time) {
			first = h
		}
	}
	if first == nil {
		return Entry{}, io.EOF
	}
	first.full = false
	return first.next, nil
}
