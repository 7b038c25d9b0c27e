package command

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
)

// maxRounds bounds how often is mended: what one remedy brings to light, or comes up
// meanwhile, is mended in the next round, with looks of its own. maxIdle is how many rounds
// may mend nothing, as others change what they are about.
const (
	maxRounds = 10
	maxIdle   = 2
)

// Why a problem with a proven remedy is left.
const (
	changedMeanwhile = "what it is about was changed meanwhile; run the command again"
	foundLast        = "it was found only by the last look; run the command again"
)

// fix mends until nothing proven is left that can be mended, and returns the last look.
func (c *ipamCheck) fix(ctx context.Context, last looked) (looked, error) {
	c.take(last)
	for round, idle := 0, 0; slices.ContainsFunc(c.findings, finding.toMend) && round < maxRounds && idle < maxIdle; round++ {
		fmt.Fprintf(c.text, "Looking again in %s...\n", c.grace)
		if err := pause(ctx, c.grace); err != nil {
			return last, err
		}
		var err error
		if last, err = c.lookAgain(ctx); err != nil {
			return last, err
		}
		mended, err := c.mend(ctx)
		if err != nil {
			return last, err
		}
		if c.mended += mended; mended == 0 {
			idle++
			continue
		}
		idle = 0
		if last, err = c.lookAgain(ctx); err != nil {
			return last, err
		}
	}
	for i := range c.findings {
		if f := &c.findings[i]; f.toMend() && f.Error == "" {
			f.Error = foundLast
		}
	}
	return last, nil
}

func (c *ipamCheck) lookAgain(ctx context.Context) (looked, error) {
	l, err := c.look(ctx)
	if err == nil {
		c.take(l)
	}
	return l, err
}

// toMend says whether a problem is to be mended: what has failed would again.
func (f finding) toMend() bool {
	return f.Proven() && !f.Mended && (f.Error == "" || f.Error == changedMeanwhile)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take takes up what a look has found and is proven: the rest, of which there may be one for each
// address, is had from the last look when it is told. What is wrong no more goes, unless it was
// mended; what is wrong again is not mended.
func (c *ipamCheck) take(l looked) {
	known := make(map[ipam.ID]int, len(c.findings))
	for i, f := range c.findings {
		known[f.ID] = i
	}
	still := make([]bool, len(c.findings))
	for p := range l.problems() {
		i, ok := known[p.ID]
		switch {
		case !ok && p.Proven():
			c.findings = append(c.findings, finding{Problem: p, looks: 1})
			continue
		case !ok:
			continue
		case !p.Proven():
			c.findings[i].Mended = false
			continue
		}
		f := &c.findings[i]
		if f.Mended {
			*f = finding{}
		}
		f.Problem, still[i] = p, true
		f.looks++
	}
	kept := c.findings[:0]
	for i, f := range c.findings {
		if f.Mended || i >= len(still) || still[i] {
			kept = append(kept, f)
		}
	}
	clear(c.findings[len(kept):])
	c.findings = kept
}

// all is what was mended, and then what the last look has found, with what became of it.
func (c *ipamCheck) all(last looked) iter.Seq[finding] {
	return func(yield func(finding) bool) {
		left := make(map[ipam.ID]int, len(c.findings))
		for i, f := range c.findings {
			if !f.Mended {
				left[f.ID] = i
			} else if !yield(f) {
				return
			}
		}
		for p := range last.problems() {
			f := finding{Problem: p}
			if i, ok := left[p.ID]; ok {
				f = c.findings[i]
			}
			if !yield(f) {
				return
			}
		}
	}
}

// mend mends what more than one look in a row has found and is proven.
func (c *ipamCheck) mend(ctx context.Context) (mended int, err error) {
	for i := range c.findings {
		f := &c.findings[i]
		if f.looks < 2 || !f.toMend() {
			continue
		}
		done, err := c.ipam.Mend(ctx, f.Problem, ipam.OnlyProven)
		if ctx.Err() != nil {
			return mended, ctx.Err()
		}
		if errors.Is(err, etcdstore.ErrLocked) {
			return mended, fmt.Errorf("stopped, with %d problems mended: %w", c.mended+mended, err)
		}
		switch f.Mended, f.Error = done, ""; {
		case err != nil:
			f.Error = err.Error()
		case done:
			mended++
		default:
			f.Error = changedMeanwhile
		}
	}
	return mended, nil
}
