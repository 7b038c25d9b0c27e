package iptables

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"calico.internal/felix/internal/rules"
)

// plan is one transaction: what to put on iptables-restore's input, and what the table
// holds once that is in force.
type plan struct {
	input []byte
	// after holds the chains that the plan changes; a nil value is a deleted chain.
	after map[string]*readChain
	// entries is the change of the number of entries that a legacy table counts.
	entries int
	// first are rules of nf_tables to delete before the input is read, since chains to which
	// they lead may go; then those whose successors are put in by it.
	first, then []hookRef
}

// hookRef is a rule of felix's in a chain of others, in nf_tables.
type hookRef struct {
	chain  string
	handle uint64
}

func (p *plan) empty() bool { return len(p.after) == 0 }

// named is a chain with its name.
type named struct {
	name  string
	chain Chain
}

// newPlan works out the edits that turn what the table holds into what is wanted. It
// leaves out what is there already.
func newPlan(t rules.Table, have contents, sets []named, deletes []string) (*plan, error) {
	p := &plan{after: map[string]*readChain{}}
	var declare, edits, drop bytes.Buffer
	edits.Grow(sizeOf(sets, have))
	for _, s := range sets {
		read, exists := have[s.name]
		var err error
		switch {
		case Owned(s.name):
			p.setChain(&declare, &edits, s, read, exists)
		case exists:
			p.setHooks(&edits, have, s)
		case !s.chain.IfExists:
			err = fmt.Errorf("chain %s: no such chain in table %s", s.name, t)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, name := range deletes {
		p.deleteChain(&declare, &edits, &drop, name, have)
	}
	if p.empty() {
		return p, nil
	}
	if declare.Len()+edits.Len()+drop.Len() > 0 {
		p.input = slices.Concat([]byte("*"+string(t)+"\n"), declare.Bytes(), edits.Bytes(), drop.Bytes(), []byte("COMMIT\n"))
	}
	return p, nil
}

// sizeOf is about how much there is to write of chains that do not exist, which are almost
// all that is long.
func sizeOf(sets []named, have contents) (size int) {
	for _, s := range sets {
		if _, exists := have[s.name]; exists {
			continue
		}
		for _, r := range s.chain.Rules {
			size += len("-A ") + len(s.name) + len(" ") + len(r.Text) + len("\n")
		}
	}
	return size
}

// legacyChainEntries is the number of entries that the head and the end of a user's
// chain take in a legacy table.
const legacyChainEntries = 2

func (p *plan) setChain(declare, edits *bytes.Buffer, s named, read readChain, exists bool) {
	if !exists {
		writeLine(declare, ":", s.name, " - -")
		p.entries += legacyChainEntries
	}
	changes := diff(read.rules, s.chain.Rules)
	if exists && len(changes) == 0 {
		return
	}
	for _, e := range changes {
		switch {
		case e.remove:
			writeLine(edits, "-D ", s.name, " ", strconv.Itoa(e.position))
			p.entries--
		case e.atEnd:
			writeLine(edits, "-A ", s.name, " ", e.rule.Text)
			p.entries++
		default:
			writeLine(edits, "-I ", s.name, " ", strconv.Itoa(e.position), " ", e.rule.Text)
			p.entries++
		}
	}
	p.after[s.name] = &readChain{rules: s.chain.Rules}
}

// setHooks takes all of felix's rules out of a chain of others and puts the wanted ones
// in. Rules are deleted by their text or their handle, so that a chain that somebody is
// editing at the same moment cannot lose another one. (By handle, iptables-nft-restore need
// not understand the other rules of the chain.)
func (p *plan) setHooks(edits *bytes.Buffer, have contents, s named) {
	if actual, ok := have.chain(s.name); Equal(s.chain, actual) && (ok || len(s.chain.Rules) == 0) {
		return
	}
	remove := &p.then
	if len(s.chain.Rules) == 0 {
		remove = &p.first
	}
	others := p.removeHooks(edits, remove, s.name, have[s.name])
	lead, last := s.chain.Rules[:s.chain.Lead], s.chain.Rules[s.chain.Lead:]
	var after readChain
	for i, r := range lead {
		writeLine(edits, "-I ", s.name, " ", strconv.Itoa(i+1), " ", r.Text)
		after.rules = append(after.rules, r)
	}
	after.rules = append(after.rules, others...)
	for _, r := range last {
		writeLine(edits, "-A ", s.name, " ", r.Text)
		after.rules = append(after.rules, r)
	}
	p.entries += len(s.chain.Rules)
	p.after[s.name] = &after
}

// removeHooks deletes felix's rules from a chain of others and returns what is left.
func (p *plan) removeHooks(edits *bytes.Buffer, byHandle *[]hookRef, name string, read readChain) (others []Rule) {
	for _, r := range read.rules {
		switch {
		case r.Hash == "":
			others = append(others, r)
		case r.Handle != 0:
			*byHandle = append(*byHandle, hookRef{name, r.Handle})
		default:
			writeLine(edits, "-D ", name, " ", r.Text)
			p.entries--
		}
	}
	return others
}

func (p *plan) deleteChain(declare, edits, drop *bytes.Buffer, name string, have contents) {
	read, exists := have[name]
	if !exists {
		return
	}
	if !Owned(name) {
		others := p.removeHooks(edits, &p.first, name, read)
		if len(others) < len(read.rules) {
			p.after[name] = &readChain{rules: others}
		}
		return
	}
	if len(read.rules) > 0 {
		writeLine(declare, ":", name, " - -")
	}
	writeLine(drop, "-X ", name)
	p.entries -= len(read.rules) + legacyChainEntries
	p.after[name] = nil
}

func writeLine(b *bytes.Buffer, words ...string) {
	for _, w := range words {
		b.WriteString(w)
	}
	b.WriteByte('\n')
}

// take records that the plan is in force.
func (c contents) take(p *plan) {
	for name, chain := range p.after {
		if chain == nil {
			delete(c, name)
			continue
		}
		c[name] = *chain
	}
}
