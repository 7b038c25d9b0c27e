package iptables

import (
	"context"
	"errors"
	"fmt"

	"calico.internal/felix/internal/rules"
)

// reader reads the tables of one family, for the targets that share it. In the nft variant,
// iptables-save fetches the rules of all tables whatever it is asked for; so it is asked for
// all, and what it says of the others is kept for their targets.
type reader struct {
	cmd   commands
	whole bool
	// kept are tables that were read and not asked for yet, nil for one that the command did
	// not print; nobody else has written since the mark, and felix has not written to them.
	kept map[rules.Table]contents
	mark mark
}

// read reads a table. now is the table's mark before, if it is known.
func (r *reader) read(ctx context.Context, t rules.Table, now mark, known bool) (contents, error) {
	if !r.whole {
		return r.readOne(ctx, t)
	}
	c, ok := r.kept[t]
	if !ok || !known || now != r.mark {
		all, err := r.readAll(ctx)
		if err != nil && (ctx.Err() != nil || errors.Is(err, errBusy)) {
			return nil, err
		}
		// With another error all are nil: one that cannot be printed must not keep the others
		// from being read.
		r.kept, r.mark = all, now
		c = all[t]
	}
	delete(r.kept, t)
	if !known {
		r.kept = nil
	}
	if c == nil {
		// The kernel has not made it yet, or it, or another one, holds what iptables does not
		// understand, which only the command for this table says.
		return r.readOne(ctx, t)
	}
	return c, nil
}

func (r *reader) readAll(ctx context.Context) (map[rules.Table]contents, error) {
	text, err := r.cmd.save(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("read tables: %w", err)
	}
	read, err := parseSaves(text)
	if err != nil {
		return nil, fmt.Errorf("read tables: %w", err)
	}
	all := map[rules.Table]contents{}
	for _, t := range rules.Tables {
		all[t] = read[t]
	}
	return all, nil
}

func (r *reader) readOne(ctx context.Context, t rules.Table) (contents, error) {
	text, err := r.cmd.save(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("read table %s: %w", t, err)
	}
	return parseSave(t, text)
}

// written forgets a table to which felix writes.
func (r *reader) written(t rules.Table) { delete(r.kept, t) }
