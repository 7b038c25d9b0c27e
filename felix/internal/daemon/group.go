package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"calico.internal/felix/internal/iptables"
	"calico.internal/felix/internal/rules"
	"calico.internal/felix/internal/statusapi"
	"calico.internal/libcalico/reconcile"
)

type chainTable = reconcile.Table[string, iptables.Chain]

// chains are all tables of chains as one [reconcile.Reconciler]. Within a family the
// tables are written one after the other, in the order in which a packet meets them.
//
// A table that fails as a whole holds up no other one. Whether that stops the pass is for
// verdict to say: while the tables that filter work for one family, the routes of that family
// go on, and [guard] holds those of the other.
//
// The families are written one after the other too, since the kernel takes one write at a
// time, and an iptables-restore that finds the ruleset changed under it starts again. Only
// where there is so much to write that it takes long to read for iptables-restore, they
// are written at the same time, in the variant in which they share no lock.
//
// What a table deletes goes into the same transaction as what it sets: nothing but a
// chain refers to a chain.
type chains struct {
	tables  map[rules.Family]map[rules.Table]*chainTable
	targets map[rules.Family]map[rules.Table]*iptables.Target
	// standIns gives what takes the place of a chain at fault.
	standIns iptables.StandIns
	// faults are the tables that failed as a whole in the latest try.
	faults map[rules.Family]map[rules.Table]*tableFault
	// lacks is what the kernel does not have for rules of a family, unfit what of that keeps
	// the family from being filtered.
	lacks map[rules.Family]iptables.Lacks
	unfit map[rules.Family]error
	// filtered are the families whose packets were once known to be filtered as wanted.
	filtered map[rules.Family]bool
	// gate stops packets that meet no rules; reopened says of the families where it does not.
	// Each belongs to the goroutine that writes the family.
	gate     gate
	reopened map[rules.Family]*bool
	// apart says that the families share no lock.
	apart bool
	// stuck says that the latest pass failed as a whole.
	stuck bool
	// told is what news last compared.
	told []statusapi.Problem
}

// tableFault is why a table could not be read or written at all.
type tableFault struct {
	err     error
	tries   int
	tried   time.Time
	retryAt time.Time
	// edits is how often what is desired had changed by the latest try.
	edits int
	// logged says that the error was returned once. What stays so is a problem in the status.
	logged bool
}

// due is when a table is tried again. What was changed since does not wait for as long as a
// table that fails again and again.
func (f *tableFault) due(t *chainTable) time.Time {
	if soon := f.tried.Add(minRetry); t.Edits() != f.edits && soon.Before(f.retryAt) {
		return soon
	}
	return f.retryAt
}

func newChains(targets map[rules.Family]map[rules.Table]*iptables.Target, standIns iptables.StandIns) *chains {
	c := &chains{
		targets: targets, standIns: standIns, tables: map[rules.Family]map[rules.Table]*chainTable{},
		faults: map[rules.Family]map[rules.Table]*tableFault{}, lacks: map[rules.Family]iptables.Lacks{},
		unfit: map[rules.Family]error{}, filtered: map[rules.Family]bool{},
		reopened: map[rules.Family]*bool{},
	}
	for f, byTable := range targets {
		c.faults[f] = map[rules.Table]*tableFault{}
		c.reopened[f] = new(bool)
		c.tables[f] = map[rules.Table]*chainTable{}
		for t, target := range byTable {
			c.tables[f][t] = reconcile.NewTable(target, reconcile.Options[string, iptables.Chain]{
				Name:    chainTableName(f, t),
				Compare: compareStrings,
				Equal:   iptables.Equal,
				FailClosed: func(name string, _ iptables.Chain) (iptables.Chain, bool) {
					return standIns(f, rules.ChainID{Table: t, Name: name}), iptables.Owned(name)
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
	if c.apart && c.Status().Pending >= manyChains {
		return errors.Join(c.eachFamily(write), c.verdict())
	}
	var errs []error
	for _, f := range rules.Families {
		if c.tables[f] != nil {
			errs = append(errs, write(f))
		}
	}
	return errors.Join(append(errs, c.verdict())...)
}

// manyChains is the number of chains to write from which the families are written at the
// same time.
const manyChains = 200

// read reads the tables, before anything is desired.
func (c *chains) read(ctx context.Context) {
	_ = c.eachFamily(func(f rules.Family) error {
		for _, t := range rules.Tables {
			_ = c.try(ctx, f, t, c.tables[f][t].ApplySets)
		}
		return nil
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

// applyFamily writes the tables of a family. Its error is about single chains.
func (c *chains) applyFamily(ctx context.Context, f rules.Family) error {
	var errs []error
	for _, t := range rules.Tables {
		if fault := c.faults[f][t]; fault != nil && !c.stuck && time.Now().Before(fault.due(c.tables[f][t])) {
			continue
		}
		errs = append(errs, c.try(ctx, f, t, c.tables[f][t].Apply))
		if fault := c.faults[f][t]; ctx.Err() != nil || fault != nil && iptables.IsLocked(fault.err) {
			break // all tables need the lock
		}
	}
	errs = append(errs, c.reopen(f))
	return errors.Join(errs...)
}

// try notes a failure of a table as a whole; the error is about single chains.
func (c *chains) try(ctx context.Context, f rules.Family, t rules.Table, apply func(context.Context) error) error {
	err := apply(ctx)
	if err == nil || reconcile.IsPartial(err) {
		delete(c.faults[f], t)
		return err
	}
	if iptables.IsUnhooked(err) && slices.Contains(filtering, t) {
		err = c.shut(f, t, err)
	}
	fault := c.faults[f][t]
	if fault == nil {
		fault = &tableFault{}
		c.faults[f][t] = fault
	}
	if fault.err == nil || fault.err.Error() != err.Error() {
		fault.logged = false
	}
	limit := maxRetry
	if iptables.IsBusy(err) {
		limit = maxBusyDelay
	}
	fault.err, fault.tried, fault.edits = err, time.Now(), c.tables[f][t].Edits()
	fault.retryAt = fault.tried.Add(min(minRetry<<min(fault.tries, 16), limit))
	fault.tries++
	return nil
}

// minRetry is the wait before a table that failed as a whole is tried again.
const minRetry = 500 * time.Millisecond

// lack says what the kernel does not have for rules of a family.
func (c *chains) lack(f rules.Family, l iptables.Lacks) {
	c.lacks[f], c.unfit[f] = l, l.Err()
}

// blocked says why a family's packets are not known to be filtered as wanted; nil when they
// are.
func (c *chains) blocked(f rules.Family) error {
	if err := c.unfit[f]; err != nil {
		return err
	}
	for _, t := range filtering {
		if fault := c.faults[f][t]; fault != nil {
			return fault.err
		}
	}
	return nil
}

// filtering are the tables that decide which packets of workloads pass.
var filtering = []rules.Table{rules.Raw, rules.Filter}

// without reports that IPv6 could not be filtered since felix's start, though that was tried
// again: the host is taken for one that does not have it.
func (c *chains) without(f rules.Family) bool {
	return f == rules.V6 && !c.filtered[f] && c.failsOn(f) && !c.stuck // else no revision is in force
}

// failsOn reports that a family cannot be filtered, and that trying again was of no use.
func (c *chains) failsOn(f rules.Family) bool {
	if c.unfit[f] != nil {
		return true
	}
	for _, t := range filtering {
		if fault := c.faults[f][t]; fault != nil && fault.tries > 1 {
			return true
		}
	}
	return false
}

// unfiltered names the families that cannot be filtered; empty when there are none, or when
// the state tells of it anyway.
func (c *chains) unfiltered() string {
	var out []string
	for _, f := range rules.Families {
		if c.failsOn(f) && !c.stuck {
			out = append(out, fmt.Sprintf("IPv%d cannot be filtered: %v", f, c.blocked(f)))
		}
	}
	return strings.Join(out, "; ")
}

// verdict makes an error of the tables that failed as a whole. It stops the pass when no
// family is filtered, and when another program holds the lock, which soon will be over.
// Otherwise it is told once and concerns single objects.
func (c *chains) verdict() error {
	var all, fresh []error
	c.stuck = true
	locked := false
	for _, f := range rules.Families {
		if c.tables[f] == nil {
			continue
		}
		blocked := c.blocked(f) != nil
		c.stuck = c.stuck && blocked
		c.filtered[f] = c.filtered[f] || !blocked
		if err := c.unfit[f]; err != nil {
			all = append(all, err)
		}
		for _, t := range rules.Tables {
			fault := c.faults[f][t]
			if fault == nil {
				continue
			}
			all = append(all, fault.err)
			locked = locked || iptables.IsLocked(fault.err)
			if !fault.logged {
				fresh = append(fresh, fault.err)
			}
			fault.logged = true
		}
	}
	c.stuck = c.stuck || locked
	if c.stuck {
		return errors.Join(all...)
	}
	if len(fresh) == 0 {
		return nil
	}
	return lesser{errors.Join(fresh...)}
}

// lesser is an error of whole tables that stops nothing else.
type lesser struct{ error }

// Is makes the error match [reconcile.ErrPartial].
func (lesser) Is(target error) bool { return target == reconcile.ErrPartial }

// Unwrap gives the error itself.
func (l lesser) Unwrap() error { return l.error }

// problems tells of what the kernel lacks, of tables that are not to be had, and of rules in
// them at which the tools of others fail.
func (c *chains) problems() []statusapi.Problem {
	var out []statusapi.Problem
	for _, f := range rules.Families {
		object := fmt.Sprintf("IPv%d", f)
		if err := c.unfit[f]; err != nil {
			out = append(out, statusapi.Problem{Object: object, Reason: err.Error() + " and restart felix; until then no endpoint gets routes of this family, and host endpoints are not guarded for it"})
		}
		for _, text := range c.lacks[f].Problems() {
			out = append(out, statusapi.Problem{Object: object, Reason: text})
		}
		for _, t := range rules.Tables {
			if fault := c.faults[f][t]; fault != nil && !c.stuck { // of which the state tells
				out = append(out, statusapi.Problem{Object: chainTableName(f, t), Reason: fault.err.Error() + costs[t]})
			}
			if target := c.targets[f][t]; target != nil && target.Native() != "" {
				out = append(out, statusapi.Problem{Object: chainTableName(f, t), Reason: fmt.Sprintf("another program's rule (%s) is one that only nft understands: "+
					"felix works beside it, but iptables' own tools, which Docker uses, give this table up; move it to a table of its own, and delete it here with \"nft delete rule %s %s\"",
					target.Native(), ipNames[f], t)})
			}
		}
	}
	return out
}

// costs says what it means that a table is not to be had.
var costs = map[rules.Table]string{
	rules.Raw:    "; until it can be written, endpoints get no new routes of this family, and what changes of policy is not in force for it. felix goes on trying",
	rules.Mangle: "; until it can be written, preDNAT policy of host endpoints is not in force for this family",
	rules.NAT:    "; until it can be written, outgoing NAT and floating addresses are not in force for this family",
	rules.Filter: "; until it can be written, endpoints get no new routes of this family, and what changes of policy is not in force for it. felix goes on trying",
}

// ipNames are nft's names of the families.
var ipNames = map[rules.Family]string{rules.V4: "ip", rules.V6: "ip6"}

// news gives the problems that were none at the last call, and says whether any came or went.
func (c *chains) news() (fresh []statusapi.Problem, changed bool) {
	now := c.problems()
	for _, p := range now {
		if !slices.Contains(c.told, p) {
			fresh = append(fresh, p)
		}
	}
	changed = len(fresh) > 0 || len(now) != len(c.told)
	c.told = now
	return fresh, changed
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
	for f, byTable := range c.tables {
		for name, t := range byTable {
			// Nothing refers to what is not there, and may never be.
			if t.Outstanding() && (c.faults[f][name] == nil || !c.targets[f][name].Empty()) {
				return true
			}
		}
	}
	return false
}

// NextRetry is the earliest of the tables'. When the latest pass failed as a whole, the next
// try of it is for the loop to choose.
func (c *chains) NextRetry() (at time.Time, ok bool) {
	earliest := func(next time.Time) {
		if !ok || next.Before(at) {
			at, ok = next, true
		}
	}
	for t := range c.all() {
		if next, has := t.NextRetry(); has {
			earliest(next)
		}
	}
	for f, byTable := range c.faults {
		for t, fault := range byTable {
			if !c.stuck {
				earliest(fault.due(c.tables[f][t]))
			}
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
			unhooked := c.faults[f][t] != nil && iptables.IsUnhooked(c.faults[f][t].err)
			if c.faults[f][t] != nil && !unhooked {
				continue // the next try reads it
			}
			yes, fault := target.Drifted()
			if fault != nil {
				err = errors.Join(err, fault)
				continue
			}
			if yes && unhooked { // it may be mended, or what stops packets be gone
				c.faults[f][t].retryAt = time.Time{}
			}
			if yes {
				c.tables[f][t].Resync()
				drifted = append(drifted, chainTableName(f, t))
			}
		}
	}
	return drifted, err
}
