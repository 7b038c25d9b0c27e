package iptables

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/nlconn"
	"calico.internal/felix/internal/rules"
)

// closedTable is the table of nf_tables that stops a family's workloads while their packets do
// not meet the rules of iptables. Nothing else is ever in it.
const closedTable = "calico-closed"

// Shut puts a barrier in force, as [rules.Tracker.Barrier] makes it. It needs no chain of
// iptables. The legacy variant has no use for it: there the kernel itself hooks the chains.
func (ts *Targets) Shut(f rules.Family, barrier []rules.Chain) error {
	r, ok := ts.readers[f].(*nftReader)
	if !ok {
		return nil
	}
	list := make([]nlconn.Request, 0, len(barrier))
	for _, c := range barrier {
		list = append(list, r.newBaseChain(c.Name))
		for _, rule := range c.Rules {
			expressions, err := r.expressions(rule)
			if err != nil {
				return fmt.Errorf("table %s of nf_tables, chain %s: %v: %w", closedTable, c.Name, rule, err)
			}
			list = append(list, r.newRule(c.Name, expressions))
		}
	}
	if ts.transact(r, r.edit(barrier, list)) == nil {
		return nil
	}
	// What is there may be another's: then it is made anew as a whole.
	if err := ts.transact(r, append([]nlconn.Request{r.newTable(), r.deleteTable(), r.newTable()}, list...)); err != nil {
		return fmt.Errorf("write table %s of nf_tables: %w", closedTable, err)
	}
	return nil
}

func (ts *Targets) transact(r *nftReader, reqs []nlconn.Request) error {
	_, _, err := ts.nft.write(mark{}, 0, func() error { return r.conn.Transact(unix.NFNL_SUBSYS_NFTABLES, reqs...) })
	return err
}

// edit has the table hold nothing but a barrier, of which list makes the chains and rules. Its
// chains stay those that they are: the kernel changes all rules at once, but a packet on its way
// from a new chain to the one that it replaces could meet the first before and the second after.
func (r *nftReader) edit(barrier []rules.Chain, list []nlconn.Request) []nlconn.Request {
	reqs := []nlconn.Request{r.newTable()}
	for _, name := range slices.Sorted(maps.Keys(barrierHooks)) {
		reqs = append(reqs, r.newBaseChain(name), r.flushChain(name))
	}
	reqs = append(reqs, list...)
	for _, name := range slices.Sorted(maps.Keys(barrierHooks)) {
		if !slices.ContainsFunc(barrier, func(c rules.Chain) bool { return c.Name == name }) {
			reqs = append(reqs, r.deleteChain(name))
		}
	}
	return reqs
}

// barrierHooks are where the chains of a barrier are attached.
var barrierHooks = map[string]uint32{
	rules.BarrierInput: unix.NF_INET_LOCAL_IN, rules.BarrierForward: unix.NF_INET_FORWARD, rules.BarrierOutput: unix.NF_INET_LOCAL_OUT,
}

// Reopen undoes [Targets.Shut], also that of an earlier felix.
func (ts *Targets) Reopen(f rules.Family) error {
	r, ok := ts.readers[f].(*nftReader)
	if !ok {
		return nil
	}
	if err := ts.transact(r, []nlconn.Request{r.deleteTable()}); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("delete table %s of nf_tables, which drops packets of workloads: %w", closedTable, err)
	}
	return nil
}

// newTable makes the table, or wakes it.
func (r *nftReader) newTable() nlconn.Request {
	return r.create(unix.NFT_MSG_NEWTABLE, nlconn.Attr(nil, unix.NFTA_TABLE_FLAGS, netOrder(0)))
}

func (r *nftReader) deleteTable() nlconn.Request { return r.about(unix.NFT_MSG_DELTABLE, nil) }

// newBaseChain makes a chain at its hook, or leaves it there.
func (r *nftReader) newBaseChain(name string) nlconn.Request {
	place := nlconn.Attr(nil, unix.NFTA_HOOK_HOOKNUM, netOrder(barrierHooks[name]))
	place = nlconn.Attr(place, unix.NFTA_HOOK_PRIORITY, netOrder(0))
	attrs := nlconn.Attr(nil, unix.NFTA_CHAIN_NAME, nlconn.String(name))
	attrs = nlconn.Attr(attrs, unix.NFTA_CHAIN_HOOK|nlconn.Nested, place)
	attrs = nlconn.Attr(attrs, unix.NFTA_CHAIN_TYPE, nlconn.String("filter"))
	return r.create(unix.NFT_MSG_NEWCHAIN, attrs)
}

func (r *nftReader) newRule(chain string, expressions []byte) nlconn.Request {
	attrs := nlconn.Attr(nil, unix.NFTA_RULE_CHAIN, nlconn.String(chain))
	attrs = nlconn.Attr(attrs, unix.NFTA_RULE_EXPRESSIONS|nlconn.Nested, expressions)
	return r.create(unix.NFT_MSG_NEWRULE, attrs)
}

func (r *nftReader) flushChain(name string) nlconn.Request {
	return r.about(unix.NFT_MSG_DELRULE, nlconn.Attr(nil, unix.NFTA_RULE_CHAIN, nlconn.String(name)))
}

func (r *nftReader) deleteChain(name string) nlconn.Request {
	return r.about(unix.NFT_MSG_DELCHAIN, nlconn.Attr(nil, unix.NFTA_CHAIN_NAME, nlconn.String(name)))
}

// create is a request that makes the table or an object of it.
func (r *nftReader) create(message uint16, attrs []byte) nlconn.Request {
	req := r.about(message, attrs)
	req.Flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
	return req
}

// about is a request about the table or an object of it.
func (r *nftReader) about(message uint16, attrs []byte) nlconn.Request {
	const tableName = unix.NFTA_TABLE_NAME // as NFTA_CHAIN_TABLE and NFTA_RULE_TABLE are
	body := nlconn.Attr(nlconn.Netfilter(r.family), tableName, nlconn.String(closedTable))
	return nlconn.Request{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | message, Body: append(body, attrs...)}
}
