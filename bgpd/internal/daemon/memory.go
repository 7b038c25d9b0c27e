package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"calico.internal/bgpd/internal/config"
	"calico.internal/bgpd/internal/memory"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

const (
	// recallAfter is how long a start waits for etcd before it works from what this host
	// remembers. An etcd that is well answers in a third of it; GoBGP takes 1–2 s to connect
	// once it may, and peers should have this host back within 2 s.
	recallAfter = 150 * time.Millisecond
	// confdPatience is how long a start waits for confd's document while etcd answers.
	confdPatience = 5 * time.Second
)

// errNotHeard is why a source is not connected that shows what is remembered.
var errNotHeard = errors.New("etcd was not heard yet")

// recordBefore reads what this host remembers; nil when that is of no use.
func recordBefore(cfg Config) *memory.Record {
	r, found, err := memory.Read(cfg.StateDir, cfg.Node, cfg.ClusterGUID)
	if err != nil {
		cfg.Log.Warn("what this host remembers is left out; it is written anew once etcd is heard", logattr.Err, err)
	}
	if !found {
		return nil
	}
	return &r
}

// recallDue reports whether etcd has had its time to answer.
func (c *core) recallDue() bool {
	return c.before != nil && !c.inSync && (time.Since(c.started) >= recallAfter || c.held() != "")
}

// recallAt is when something is to be taken from what this host remembers that was not yet;
// zero when nothing is.
func (c *core) recallAt() time.Time {
	lacks := c.doc.Hash == "" || !c.inSync && !c.pipeline.open && c.recalledAt.IsZero()
	switch at := c.started.Add(recallAfter); {
	case c.before == nil || !lacks:
		return time.Time{}
	case time.Now().Before(at) && !c.inSync:
		return at
	case c.doc.Hash == "":
		return c.started.Add(confdPatience)
	}
	return time.Time{}
}

// recallDocument puts the remembered document in force where there is no other: the file is
// missing, as after a start in a new container, or cannot be used. As long as etcd answers,
// it is confd's turn to write one.
func (c *core) recallDocument() {
	looked := c.docErr != nil
	if c.before == nil || c.doc.Hash != "" || !looked || !c.recallDue() && time.Since(c.started) < confdPatience {
		return
	}
	text := []byte(c.before.Document)
	doc, _, err := config.Parse(text)
	if err != nil || doc.Node != c.cfg.Node {
		c.cfg.Log.Warn("the document that this host remembers is not usable; waiting for another", logattr.Err, err, logattr.Node, doc.Node)
		c.before = nil
		return
	}
	c.cfg.Log.Warn("there is no configuration; going on with the one that this host remembers", logattr.File, c.cfg.File, "written", c.before.Written)
	c.adopt(doc, text)
	c.docRecalled = true
}

// recall tells the engine what this host remembers of etcd, as far as etcd has not said what
// is true. When it does, what differs follows.
func (c *core) recall() {
	if c.pipeline.open || !c.recalledAt.IsZero() || !c.recallDue() {
		return
	}
	c.recalledAt = time.Now()
	for _, s := range c.sources {
		if !s.view.InSync() {
			c.tell(s.recall(c.before.Resources, c.stillTrue))
		}
	}
}

// stillTrue reports whether the kernel does not contradict what is remembered.
func (c *core) stillTrue(path string) bool {
	k, _ := model.ParsePath(path)
	a, ok := k.(model.BlockAffinityKey)
	if !ok || !c.engine.Disproves(a.CIDR) {
		return true
	}
	c.cfg.Log.Info("a block is remembered as this host's, but the kernel's routes say otherwise; it is left out", logattr.Block, a.CIDR)
	return false
}

// recall shows what is remembered of the source's part of etcd, without taking etcd for
// heard. It tells what changed by that.
func (s *source) recall(remembered map[string]string, stillTrue func(path string) bool) []store.Event {
	var b store.Batch
	for path, value := range remembered {
		if strings.HasPrefix(path, s.prefix) && stillTrue(path) {
			b.Puts = append(b.Puts, store.KV{Path: path, Value: []byte(value)})
		}
	}
	slices.SortFunc(b.Puts, func(x, y store.KV) int { return strings.Compare(x.Path, y.Path) })
	state := store.Batch{Held: s.view.Held()}
	if state.Held == nil {
		state.Err = errNotHeard
	}
	events := s.view.Apply(b)
	s.view.Apply(state)
	s.recalled = true
	return events
}

// judge marks the first snapshot of a store that was held: what it lacks of what is
// remembered was not deleted by anybody.
func (s *source) judge(b store.Batch) store.Batch {
	s.wasHeld = s.wasHeld || b.Held != nil
	b.Restored = b.Restored || b.Snapshot && s.recalled && s.wasHeld && !s.view.InSync()
	return b
}

// fromMemory says what this host works from instead of etcd and confd's document.
func (c *core) fromMemory() (out []string) {
	const when = "2006-01-02 15:04:05 MST"
	if c.worksFromMemory() {
		out = append(out, fmt.Sprintf("works from what this host remembers since %s, as etcd %s; it was written at %s, and what changed after that follows once etcd is heard",
			c.recalledAt.UTC().Format(when), map[bool]string{true: "does not answer", false: "is not followed"}[c.held() == ""], c.before.Written.UTC().Format(when)))
	}
	if c.docRecalled {
		out = append(out, fmt.Sprintf("works with the configuration that this host remembers, of %s, since there is none that can be used in %s; confd makes one once etcd is there: see that it runs",
			c.before.Written.UTC().Format(when), c.cfg.File))
	}
	return out
}

// worksFromMemory reports whether what is remembered stands in for etcd.
func (c *core) worksFromMemory() bool { return !c.inSync && !c.recalledAt.IsZero() }

// fact is a resource that the engine was told of.
type fact struct {
	// source is the prefix of the source that has it.
	source string
	key    model.Key
	value  model.Resource
}

// knowledge is what is to be remembered, still to be put into a record's form.
type knowledge struct {
	document string
	facts    []fact
}

// known collects what is in force; ok is false as long as that is less than may be
// remembered already.
func (c *core) known() (k knowledge, ok bool) {
	if c.doc.Hash == "" || !c.inSync && c.recalledAt.IsZero() {
		return knowledge{}, false
	}
	k.document = string(c.text)
	for _, s := range c.sources {
		for key, value := range s.view.All() {
			k.facts = append(k.facts, fact{s.prefix, key, value})
		}
	}
	return k, true
}

// collect puts the record together, of which only the first part holds up the one goroutine.
func (c *core) collect(ctx context.Context) (r memory.Record, ok bool) {
	var k knowledge
	if err := c.call(ctx, func(context.Context) { k, ok = c.known() }); err != nil || !ok {
		return memory.Record{}, false
	}
	return c.recordOf(k), true
}

// collectLast is collect once the one goroutine is at its end.
func (c *core) collectLast() (r memory.Record, ok bool) {
	k, ok := c.known()
	if !ok {
		return memory.Record{}, false
	}
	return c.recordOf(k), true
}

func (c *core) recordOf(k knowledge) memory.Record {
	r := memory.Record{Node: c.cfg.Node, ClusterGUID: c.cfg.ClusterGUID, Document: k.document, Resources: map[string]string{}}
	own := k.blocksOf(c.cfg.Node)
	for _, f := range k.facts {
		value := used(f.value, own)
		if value == nil {
			continue
		}
		parts, err := model.Encode(f.key, value)
		if err != nil {
			c.cfg.Log.Error("a resource cannot be remembered", logattr.Key, f.key, logattr.Err, err)
			continue
		}
		for path, text := range parts {
			if strings.HasPrefix(path, f.source) {
				r.Resources[path] = string(text)
			}
		}
	}
	return r
}

func (k knowledge) blocksOf(node string) (out []netip.Prefix) {
	for _, f := range k.facts {
		if a, ok := f.key.(model.BlockAffinityKey); ok && a.Node == node {
			out = append(out, a.CIDR)
		}
	}
	return out
}

// used cuts a resource down to what the engine uses of it; nil is nothing. Of containers
// only those matter whose addresses are not told by a block of this host's.
func used(r model.Resource, own []netip.Prefix) model.Resource {
	switch r := r.(type) {
	case *model.Node:
		return &model.Node{IPv4: r.IPv4, IPv6: r.IPv6}
	case *model.BlockAffinity:
		return &model.BlockAffinity{State: r.State}
	case *model.WorkloadEndpoint:
		inOwn := func(p netip.Prefix) bool {
			return slices.ContainsFunc(own, func(b netip.Prefix) bool { return b.Bits() <= p.Bits() && b.Contains(p.Addr()) })
		}
		nets := slices.Concat(r.IPv4Nets, r.IPv6Nets)
		if len(r.IPv4NAT)+len(r.IPv6NAT) == 0 && !slices.ContainsFunc(nets, func(p netip.Prefix) bool { return !inOwn(p) }) {
			return nil
		}
		return &model.WorkloadEndpoint{
			State: r.State, Interface: r.Interface, IPv4Nets: r.IPv4Nets, IPv6Nets: r.IPv6Nets, IPv4NAT: r.IPv4NAT, IPv6NAT: r.IPv6NAT,
		}
	}
	return nil
}
