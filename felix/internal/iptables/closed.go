package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/nlconn"
	"calico.internal/felix/internal/rules"
)

// closedTable is the table of nf_tables that stops a family's workloads while their packets do
// not meet the rules of iptables. Nothing else is ever in it.
const closedTable = "calico-closed"

// Shut drops what comes from or goes to interfaces with the given prefixes and belongs to no
// known connection. It needs no chain of iptables. The legacy variant has no use for it: there
// the kernel itself hooks the chains.
func (ts *Targets) Shut(f rules.Family, prefixes []string) error {
	r, ok := ts.readers[f].(*nftReader)
	if !ok {
		return nil
	}
	// What is there may be another's or of another felix: it is made anew as a whole.
	reqs := []nlconn.Request{r.newTable(), r.deleteTable(), r.newTable()}
	for name, hooknum := range map[string]uint32{"input": unix.NF_INET_LOCAL_IN, "forward": unix.NF_INET_FORWARD} {
		reqs = append(reqs, r.newBaseChain(name, hooknum), r.newRule(name, known(r.family)))
		for _, p := range prefixes {
			reqs = append(reqs, r.newRule(name, dropInterface(unix.NFT_META_IIFNAME, p)))
			if hooknum == unix.NF_INET_FORWARD {
				reqs = append(reqs, r.newRule(name, dropInterface(unix.NFT_META_OIFNAME, p)))
			}
		}
	}
	_, _, err := ts.nft.write(mark{}, 0, func() error { return r.conn.Transact(unix.NFNL_SUBSYS_NFTABLES, reqs...) })
	if err != nil {
		return fmt.Errorf("write table %s of nf_tables: %w", closedTable, err)
	}
	return nil
}

// Reopen undoes [Targets.Shut], also that of an earlier felix.
func (ts *Targets) Reopen(f rules.Family) error {
	r, ok := ts.readers[f].(*nftReader)
	if !ok {
		return nil
	}
	_, _, err := ts.nft.write(mark{}, 0, func() error { return r.conn.Transact(unix.NFNL_SUBSYS_NFTABLES, r.deleteTable()) })
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("delete table %s of nf_tables, which drops packets of workloads: %w", closedTable, err)
	}
	return nil
}

func (r *nftReader) newTable() nlconn.Request {
	return r.create(unix.NFT_MSG_NEWTABLE, nil)
}

func (r *nftReader) deleteTable() nlconn.Request {
	req := r.create(unix.NFT_MSG_DELTABLE, nil)
	req.Flags = 0
	return req
}

// create is a request about the table or an object of it.
func (r *nftReader) create(message uint16, attrs []byte) nlconn.Request {
	const tableName = unix.NFTA_TABLE_NAME // as NFTA_CHAIN_TABLE and NFTA_RULE_TABLE are
	body := nlconn.Attr(nlconn.Netfilter(r.family), tableName, nlconn.String(closedTable))
	return nlconn.Request{
		Type: unix.NFNL_SUBSYS_NFTABLES<<8 | message, Flags: unix.NLM_F_CREATE | unix.NLM_F_APPEND,
		Body: append(body, attrs...),
	}
}

func (r *nftReader) newBaseChain(name string, hooknum uint32) nlconn.Request {
	place := nlconn.Attr(nil, unix.NFTA_HOOK_HOOKNUM, netOrder(hooknum))
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

// States of connections as nf_tables has them in its registers.
const (
	stateEstablished = 1 << 1
	stateRelated     = 1 << 2
	stateUntracked   = 1 << 6
)

// known accepts packets of known connections. Discovery of neighbours, without which IPv6 has
// none, is not tracked.
func known(family uint8) []byte {
	states := uint32(stateEstablished | stateRelated)
	if family == unix.AF_INET6 {
		states |= stateUntracked
	}
	load := nlconn.Attr(nil, unix.NFTA_CT_DREG, netOrder(unix.NFT_REG_1))
	load = nlconn.Attr(load, unix.NFTA_CT_KEY, netOrder(unix.NFT_CT_STATE))
	mask := nlconn.Attr(nil, unix.NFTA_BITWISE_SREG, netOrder(unix.NFT_REG_1))
	mask = nlconn.Attr(mask, unix.NFTA_BITWISE_DREG, netOrder(unix.NFT_REG_1))
	mask = nlconn.Attr(mask, unix.NFTA_BITWISE_LEN, netOrder(4))
	mask = nlconn.Attr(mask, unix.NFTA_BITWISE_MASK|nlconn.Nested, value(binary.NativeEndian.AppendUint32(nil, states)))
	mask = nlconn.Attr(mask, unix.NFTA_BITWISE_XOR|nlconn.Nested, value(make([]byte, 4)))
	out := expression(nil, "ct", load)
	out = expression(out, "bitwise", mask)
	out = expression(out, "cmp", compare(unix.NFT_CMP_NEQ, make([]byte, 4)))
	return expression(out, "immediate", verdict(nfAccept))
}

// dropInterface drops what has an interface whose name begins with a prefix.
func dropInterface(key uint32, prefix string) []byte {
	load := nlconn.Attr(nil, unix.NFTA_META_DREG, netOrder(unix.NFT_REG_1))
	load = nlconn.Attr(load, unix.NFTA_META_KEY, netOrder(key))
	out := expression(nil, "meta", load)
	out = expression(out, "cmp", compare(unix.NFT_CMP_EQ, []byte(prefix)))
	return expression(out, "immediate", verdict(nfDrop))
}

// The kernel's verdicts.
const (
	nfDrop   = 0
	nfAccept = 1
)

func expression(out []byte, name string, data []byte) []byte {
	e := nlconn.Attr(nil, unix.NFTA_EXPR_NAME, nlconn.String(name))
	e = nlconn.Attr(e, unix.NFTA_EXPR_DATA|nlconn.Nested, data)
	return nlconn.Attr(out, unix.NFTA_LIST_ELEM|nlconn.Nested, e)
}

func compare(op uint32, with []byte) []byte {
	out := nlconn.Attr(nil, unix.NFTA_CMP_SREG, netOrder(unix.NFT_REG_1))
	out = nlconn.Attr(out, unix.NFTA_CMP_OP, netOrder(op))
	return nlconn.Attr(out, unix.NFTA_CMP_DATA|nlconn.Nested, value(with))
}

func verdict(code uint32) []byte {
	v := nlconn.Attr(nil, unix.NFTA_VERDICT_CODE, netOrder(code))
	out := nlconn.Attr(nil, unix.NFTA_IMMEDIATE_DREG, netOrder(unix.NFT_REG_VERDICT))
	return nlconn.Attr(out, unix.NFTA_IMMEDIATE_DATA|nlconn.Nested, nlconn.Attr(nil, unix.NFTA_DATA_VERDICT|nlconn.Nested, v))
}

func value(b []byte) []byte { return nlconn.Attr(nil, unix.NFTA_DATA_VALUE, b) }

func netOrder(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
