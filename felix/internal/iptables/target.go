package iptables

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/reconcile"
)

// Target is the reconcile target for the chains of one table of one family: those of
// felix's own, and felix's rules in the chains of others. The key is the chain's name.
// It belongs to one goroutine, together with the others of its family.
type Target struct {
	family rules.Family
	table  rules.Table
	cmd    commands
	reader reader
	ledger ledger
	// standIns gives what takes the place of a chain that the kernel refuses.
	standIns StandIns
	// have is what the table holds; nil when it has to be read.
	have contents
	// mark is the table's fingerprint when have was right.
	mark mark
	// missing says that the kernel has no such table, as far as was last asked.
	missing bool
	// unhooked says that have is nil because packets do not meet the rules of the table; mark
	// is of that moment then.
	unhooked bool
	// woke is told when the table was dormant and was woken.
	woke func()
	// suspect is set when the table may hold something else than reported by List or
	// written since.
	suspect bool
	// absent are hooks that were asked for in chains of other programs that do not exist.
	absent map[string]Chain
}

// Targets makes the targets of all tables of a family. They share what they learn about
// the kernel, and belong to the network namespace of the calling thread.
type Targets struct {
	backend  Backend
	standIns StandIns
	nft      *nftLedger
	// lock is nil in the nft variant.
	lock    *lockWatch
	readers map[rules.Family]reader
	// Woke is told of tables that were dormant and were woken.
	Woke func(rules.Family, rules.Table)
	// audited is the mark that the last call of Quiet saw.
	audited mark
}

// StandIns gives what takes the place of a chain that the kernel refuses.
type StandIns func(rules.Family, rules.ChainID) Chain

// Open prepares the targets of a backend. Who only deletes needs no stand-ins.
func Open(b Backend, standIns StandIns) (*Targets, error) {
	t := &Targets{backend: b, standIns: standIns, readers: map[rules.Family]reader{}}
	if b.Variant == NFT {
		nft, err := newNFTLedger()
		if err != nil {
			return nil, err
		}
		t.nft = nft
		return t, nil
	}
	t.lock = watchLock(lockPath())
	return t, nil
}

// Close ends the connections to the kernel that the targets share.
func (ts *Targets) Close() {
	for _, r := range ts.readers {
		r.close()
	}
	if ts.nft != nil {
		ts.nft.conn.Close()
		return
	}
	ts.lock.close()
}

// Quiet reports that nobody else has written to any table since the last call: then only
// [Target.Suspect] has to be asked. It is false where one question does not tell.
func (ts *Targets) Quiet() bool {
	if ts.nft == nil {
		return false
	}
	now, known, err := ts.nft.read()
	if err != nil || !known {
		return false
	}
	quiet := now == ts.audited
	ts.audited = now
	return quiet
}

// Target is the target of one table of one family.
func (ts *Targets) Target(f rules.Family, t rules.Table) (*Target, error) {
	var err error
	cmd := ts.backend.programs[f]
	if ts.readers[f] == nil {
		if ts.readers[f], err = ts.newReader(f, cmd); err != nil {
			return nil, err
		}
	}
	target := &Target{family: f, table: t, cmd: cmd, reader: ts.readers[f], ledger: ts.nft, standIns: ts.standIns, absent: map[string]Chain{}}
	target.woke = func() {
		if ts.Woke != nil {
			ts.Woke(f, t)
		}
	}
	if ts.nft == nil {
		target.cmd = impatient{cmd}
		if target.ledger, err = newLegacyLedger(f, t, ts.lock); err != nil {
			return nil, err
		}
	}
	return target, nil
}

func (ts *Targets) newReader(f rules.Family, cmd commands) (reader, error) {
	if ts.nft == nil {
		return &saveReader{cmd: cmd}, nil
	}
	return newNFTReader(f)
}

// Close ends the connection to the kernel; the rules stay.
func (t *Target) Close() { t.ledger.close() }

// Suspect reports whether the table may hold something else than List reported or Apply
// wrote.
func (t *Target) Suspect() bool { return t.suspect }

// Drifted reports whether somebody else has written to the table since it was read. It
// costs one system call.
func (t *Target) Drifted() (bool, error) {
	if t.suspect {
		return true, nil
	}
	if t.have == nil && !t.unhooked {
		return false, nil
	}
	now, known, err := t.ledger.read()
	if err != nil {
		// The next look may find that nobody has written since this one.
		t.suspect = true
		return false, err
	}
	return known && now != t.mark, nil
}

// Empty reports whether nothing of felix's is in the table, so that what could not be written
// to it does not matter. It is false when that is not known.
func (t *Target) Empty() bool {
	for name := range t.have {
		if _, ours := t.have.chain(name); ours {
			return false
		}
	}
	return t.have != nil || t.missing
}

// List reads the table.
func (t *Target) List(ctx context.Context) (map[string]Chain, error) {
	t.suspect = false
	if err := t.read(ctx); err != nil {
		return nil, err
	}
	out := map[string]Chain{}
	for name := range t.have {
		if c, ok := t.have.chain(name); ok {
			out[name] = c
		}
	}
	for name, c := range t.absent {
		if _, exists := t.have[name]; !exists {
			out[name] = c
		}
	}
	return out, nil
}

// read takes the fingerprint first: what changes while the table is read is noticed by
// the next audit.
func (t *Target) read(ctx context.Context) error {
	now, known, err := t.ledger.read()
	t.missing = errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOPROTOOPT)
	if err != nil {
		return err
	}
	if err := t.stand(now); err != nil {
		return err
	}
	have := newContents(t.table)
	if !now.info.bare() {
		if have, err = t.reader.read(ctx, t.table); err != nil {
			return err
		}
	}
	t.have, t.mark = have, now
	if !known {
		t.suspect = true
	}
	return nil
}

// stand makes sure that packets meet the rules of the table. Who only deletes does not care.
func (t *Target) stand(now mark) error {
	t.unhooked = false
	if t.standIns == nil {
		return nil
	}
	err := t.reader.standing(t.table, func(do func() error) error {
		_, _, err := t.ledger.write(now, 0, do)
		if err == nil {
			t.woke()
		}
		return err
	})
	if t.unhooked = IsUnhooked(err); t.unhooked {
		t.have, t.mark = nil, now
	}
	return err
}

// Apply writes and deletes chains in one transaction. Chains at fault are found out and
// replaced by their stand-ins; they are reported by name.
func (t *Target) Apply(ctx context.Context, c reconcile.Changes[string, Chain]) error {
	sets := make([]named, 0, len(c.Set))
	for _, s := range c.Set {
		sets = append(sets, named{s.Key, s.Value})
	}
	if err := t.refresh(ctx); err != nil {
		return err
	}
	err := t.write(ctx, sets, c.Delete)
	if err == nil || ctx.Err() != nil || errors.Is(err, errBusy) {
		return err
	}
	return t.isolate(ctx, sets, c.Delete)
}

// refresh reads the table again when somebody else wrote to it, because edits by position
// must start from what is there.
func (t *Target) refresh(ctx context.Context) error {
	if t.have != nil {
		now, known, err := t.ledger.read()
		if err != nil {
			return err
		}
		if !known || now == t.mark {
			return nil
		}
	}
	if err := t.read(ctx); err != nil {
		return err
	}
	// What List told before may not hold any more.
	t.suspect = true
	return nil
}

// write puts one transaction into the kernel.
func (t *Target) write(ctx context.Context, sets []named, deletes []string) error {
	p, err := newPlan(t.table, t.have, sets, deletes)
	if err != nil {
		return err
	}
	if !p.empty() {
		if err := t.carryOut(ctx, p); err != nil {
			return fmt.Errorf("write table %s: %w", t.table, err)
		}
	}
	t.remember(sets, deletes)
	return nil
}

// carryOut puts a plan into the kernel.
func (t *Target) carryOut(ctx context.Context, p *plan) error {
	if err := t.deleteRules(p.first); err != nil {
		return err
	}
	if len(p.input) > 0 {
		now, sure, err := t.ledger.write(t.mark, p.entries, func() error { return t.cmd.restore(ctx, p.input) })
		if err != nil {
			return err
		}
		t.mark = now
		t.suspect = t.suspect || !sure
	}
	t.have.take(p)
	t.suspect = t.suspect || !t.ledger.agrees(t.have)
	if err := t.deleteRules(p.then); err != nil {
		return err
	}
	return t.readHooks(p)
}

// deleteRules deletes rules of nf_tables.
func (t *Target) deleteRules(list []hookRef) error {
	for _, h := range list {
		_, _, err := t.ledger.write(t.mark, 0, func() error { return t.reader.(*nftReader).deleteRule(t.table, h) })
		if err != nil && !errors.Is(err, errGone) {
			return fmt.Errorf("delete rule %d of chain %s: %w", h.handle, h.chain, err)
		}
	}
	return nil
}

// readHooks reads the handles of hooks that were just put in.
func (t *Target) readHooks(p *plan) error {
	nft, ok := t.reader.(*nftReader)
	if !ok {
		return nil
	}
	for name := range p.after {
		if Owned(name) {
			continue
		}
		chain, err := nft.readChain(t.table, name)
		if err != nil {
			t.have = nil
			return fmt.Errorf("read chain %s: %w", name, err)
		}
		t.have[name] = chain
	}
	return nil
}

// Native describes a rule of another program in the table, as it was last read, that only
// nft understands: iptables' own tools give such a table up. It is empty when there is none.
func (t *Target) Native() string { return t.reader.native(t.table) }

// remember keeps hooks for chains of other programs that are absent: for the table of
// desired chains they are in place.
func (t *Target) remember(sets []named, deletes []string) {
	for _, s := range sets {
		if s.chain.IfExists {
			t.absent[s.name] = s.chain
		}
	}
	for _, name := range deletes {
		delete(t.absent, name)
	}
}
