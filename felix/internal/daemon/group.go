package daemon

import (
	"context"
	"errors"
	"sync"
	"time"

	"calico.internal/felix/internal/iptables"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/reconcile"
)

type chainTable = reconcile.Table[string, iptables.Chain]

// chains are all tables of chains as one [reconcile.Reconciler]. Within a family the
// tables are written one after the other, in the order in which a packet meets them.
//
// The families are written one after the other too, since the kernel takes one write at a
// time, and an iptables-restore that finds the ruleset changed under it starts again. Only
// where there is so much to write that it takes long to read for iptables-restore, they
// are written at the same time.
//
// What a table deletes goes into the same transaction as what it sets: nothing but a
// chain refers to a chain.
type chains struct {
	tables  map[rules.Family]map[rules.Table]*chainTable
	targets map[rules.Family]map[rules.Table]*iptables.Target
}

func newChains(targets map[rules.Family]map[rules.Table]*iptables.Target) *chains {
	c := &chains{targets: targets, tables: map[rules.Family]map[rules.Table]*chainTable{}}
	for f, byTable := range targets {
		c.tables[f] = map[rules.Table]*chainTable{}
		for t, target := range byTable {
			c.tables[f][t] = reconcile.NewTable(target, reconcile.Options[string, iptables.Chain]{
				Name:    chainTableName(f, t),
				Compare: compareStrings,
				Equal:   iptables.Equal,
				FailClosed: func(name string, _ iptables.Chain) (iptables.Chain, bool) {
					return iptables.FailClosed(f, t, name), iptables.Owned(name)
				},
				MaxBackoff: maxRetry,
			})
		}
	}
	return c
}

func chainTableName(f rules.Family, t rules.Table) string {
	if f == rules.V6 {
		return "IPv6 chains of " + string(t)
	}
	return "IPv4 chains of " + string(t)
}

// Name names the group in errors.
func (c *chains) Name() string { return "chains" }

// ApplySets sets what differs.
func (c *chains) ApplySets(ctx context.Context) error {
	write := func(f rules.Family) error { return c.applyFamily(ctx, f) }
	if c.Status().Pending >= manyChains {
		return c.eachFamily(write)
	}
	var errs []error
	for _, f := range rules.Families {
		if c.tables[f] != nil {
			errs = append(errs, write(f))
		}
	}
	return errors.Join(errs...)
}

// manyChains is the number of chains to write from which the families are written at the
// same time.
const manyChains = 200

// read reads the tables, before anything is desired.
func (c *chains) read(ctx context.Context) error {
	return c.eachFamily(func(f rules.Family) error {
		var errs []error
		for _, t := range rules.Tables {
			errs = append(errs, c.tables[f][t].ApplySets(ctx))
		}
		return errors.Join(errs...)
	})
}

func (c *chains) eachFamily(do func(rules.Family) error) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, f := range rules.Families {
		if c.tables[f] == nil {
			continue
		}
		wg.Go(func() {
			err := do(f)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// applyFamily stops at a table that fails as a whole.
func (c *chains) applyFamily(ctx context.Context, f rules.Family) error {
	var errs []error
	for _, t := range rules.Tables {
		err := c.tables[f][t].Apply(ctx)
		errs = append(errs, err)
		if err != nil && !reconcile.IsPartial(err) {
			break
		}
	}
	return errors.Join(errs...)
}

// ApplyDeletes has nothing left to do after ApplySets.
func (c *chains) ApplyDeletes(context.Context) error { return nil }

// Apply writes all that differs.
func (c *chains) Apply(ctx context.Context) error { return c.ApplySets(ctx) }

// Resync makes all tables read again.
func (c *chains) Resync() {
	for t := range c.all() {
		t.Resync()
	}
}

// Status is the sum of the tables'.
func (c *chains) Status() reconcile.Status {
	sum := reconcile.Status{Name: c.Name(), Listed: true}
	for t := range c.all() {
		s := t.Status()
		sum.Listed = sum.Listed && s.Listed
		sum.Desired += s.Desired
		sum.Actual += s.Actual
		sum.Pending += s.Pending
		sum.Failed = append(sum.Failed, s.Failed...)
		sum.Pass.Set += s.Pass.Set
		sum.Pass.Deleted += s.Pass.Deleted
	}
	return sum
}

// Outstanding reports whether any table is.
func (c *chains) Outstanding() bool {
	for t := range c.all() {
		if t.Outstanding() {
			return true
		}
	}
	return false
}

// NextRetry is the earliest of the tables'.
func (c *chains) NextRetry() (at time.Time, ok bool) {
	for t := range c.all() {
		if next, has := t.NextRetry(); has && (!ok || next.Before(at)) {
			at, ok = next, true
		}
	}
	return at, ok
}

func (c *chains) close() {
	for _, byTable := range c.targets {
		for _, target := range byTable {
			target.Close()
		}
	}
}

// all yields the tables, IPv4 first.
func (c *chains) all() func(yield func(*chainTable) bool) {
	return func(yield func(*chainTable) bool) {
		for _, f := range rules.Families {
			for _, t := range rules.Tables {
				if table := c.tables[f][t]; table != nil && !yield(table) {
					return
				}
			}
		}
	}
}

// audit makes those tables read again that somebody else has written to; quiet says that
// nobody has since the last audit.
func (c *chains) audit(quiet bool) (drifted []string, err error) {
	for _, f := range rules.Families {
		for _, t := range rules.Tables {
			target := c.targets[f][t]
			if target == nil || quiet && !target.Suspect() {
				continue
			}
			yes, fault := target.Drifted()
			if fault != nil {
				err = errors.Join(err, fault)
				continue
			}
			if yes {
				c.tables[f][t].Resync()
				drifted = append(drifted, chainTableName(f, t))
			}
		}
	}
	return drifted, err
}
