package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/nlconn"
	"calico.internal/felix/internal/rules"
)

// Packets meet the rules of a table of nf_tables only while its chains are attached to the
// hooks of the kernel, which any program decides that makes a chain or a table of that name
// first. iptables writes to no table that it would have made in another way.

// errUnhooked is part of the error of a table whose rules packets do not meet.
var errUnhooked = errors.New("packets do not meet felix's rules")

// IsUnhooked reports that packets do not meet the rules of a table, whatever they are.
func IsUnhooked(err error) bool { return errors.Is(err, errUnhooked) }

// hook is where a chain of nf_tables is attached.
type hook struct {
	kind     string
	num      uint32
	priority int32
}

func (h hook) String() string {
	return fmt.Sprintf("type %s hook %s priority %d", h.kind, hookNames[h.num], h.priority)
}

var hookNames = [...]string{unix.NF_INET_PRE_ROUTING: "prerouting", unix.NF_INET_LOCAL_IN: "input", unix.NF_INET_FORWARD: "forward", unix.NF_INET_LOCAL_OUT: "output", unix.NF_INET_POST_ROUTING: "postrouting"}

var hookNums = map[string]uint32{
	"PREROUTING": unix.NF_INET_PRE_ROUTING, "INPUT": unix.NF_INET_LOCAL_IN, "FORWARD": unix.NF_INET_FORWARD,
	"OUTPUT": unix.NF_INET_LOCAL_OUT, "POSTROUTING": unix.NF_INET_POST_ROUTING,
}

// priorities are those at which iptables hooks the chains of a table that all are alike.
var priorities = map[rules.Table]int32{rules.Raw: -300, rules.Mangle: -150, rules.Filter: 0}

// natPriorities are those of the chains of nat.
var natPriorities = map[string]int32{"PREROUTING": -100, "OUTPUT": -100, "INPUT": 100, "POSTROUTING": 100}

// hookOf is where iptables attaches a chain; ok is false for one that it does not attach.
func hookOf(t rules.Table, chain string) (h hook, ok bool) {
	h = hook{kind: "filter", num: hookNums[chain], priority: priorities[t]}
	switch {
	case t == rules.NAT:
		h.kind, h.priority = "nat", natPriorities[chain]
	case t == rules.Mangle && chain == "OUTPUT":
		h.kind = "route"
	}
	return h, slices.Contains(builtin[t], chain)
}

// standing wakes a table that is dormant, and gives what else keeps packets from its rules.
func (r *nftReader) standing(t rules.Table, wake func(func() error) error) error {
	table, err := r.table(t)
	if err != nil || !table.exists {
		return err
	}
	name := fmt.Sprintf("%s %s", r.familyName(), t)
	if table.owned {
		return fmt.Errorf("%w: table %q belongs to another program (flags owner), and the kernel lets nobody else write to it; end that program or have it use a table of another name", errUnhooked, name)
	}
	if table.flags&unix.NFT_TABLE_F_DORMANT != 0 {
		if err := wake(func() error { return r.wake(t) }); err != nil {
			return fmt.Errorf("%w: table %q is dormant, and cannot be woken; run \"nft delete table %s\", and felix makes it anew: %w", errUnhooked, name, name, err)
		}
	}
	wrong, err := r.misplaced(t)
	if err != nil || wrong == "" {
		return err
	}
	want, _ := hookOf(t, wrong)
	return fmt.Errorf("%w: chain %s of table %q is not one of iptables' (\"%v\"), and iptables does not write to it; run \"nft flush chain %s %s; nft delete chain %s %s\", and felix makes it anew; what made it needs a table of its own",
		errUnhooked, wrong, name, want, name, wrong, name, wrong)
}

func (r *nftReader) familyName() string {
	if r.family == unix.AF_INET6 {
		return "ip6"
	}
	return "ip"
}

// nftTable is what matters of a table itself.
type nftTable struct {
	exists, owned bool
	flags         uint32
}

// tableOwner is NFTA_TABLE_OWNER, which a table has while its owner lives.
const tableOwner = 7

func (r *nftReader) table(t rules.Table) (nftTable, error) {
	var table nftTable
	err := r.conn.Do(nlconn.Request{
		Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE,
		Body: nlconn.Attr(nlconn.Netfilter(r.family), unix.NFTA_TABLE_NAME, nlconn.String(string(t))),
	}, func(body []byte) error {
		table.exists = true
		nlconn.Attrs(body[min(nlconn.NetfilterHeader, len(body)):], func(typ uint16, value []byte) {
			switch typ {
			case unix.NFTA_TABLE_FLAGS:
				table.flags = number(value)
			case tableOwner:
				table.owned = true
			}
		})
		return nil
	})
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return nftTable{}, fmt.Errorf("read table %s of nf_tables: %w", t, err)
	}
	return table, nil
}

// number is one in network byte order.
func number(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// wake has the chains of a table attached to their hooks again.
func (r *nftReader) wake(t rules.Table) error {
	body := nlconn.Attr(nlconn.Netfilter(r.family), unix.NFTA_TABLE_NAME, nlconn.String(string(t)))
	return r.conn.Transact(unix.NFNL_SUBSYS_NFTABLES, nlconn.Request{
		Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE,
		Body: nlconn.Attr(body, unix.NFTA_TABLE_FLAGS, netOrder(0)),
	})
}

// misplaced is the first chain of a table that is attached elsewhere than iptables does it, or
// nowhere; empty when there is none. A chain that is missing is made by the next write.
func (r *nftReader) misplaced(t rules.Table) (string, error) {
	var wrong []string
	err := undisturbed(nl.ErrDumpInterrupted, func() error {
		wrong = nil
		return r.dump(unix.NFT_MSG_GETCHAIN, nil, func(attrs []byte) {
			table, chain, have := readHook(attrs)
			if want, ok := hookOf(t, chain); ok && table == string(t) && have != want {
				wrong = append(wrong, chain)
			}
		})
	})
	if err != nil || len(wrong) == 0 {
		return "", err
	}
	return slices.Min(wrong), nil
}

func readHook(attrs []byte) (table, chain string, h hook) {
	nlconn.Attrs(attrs, func(typ uint16, value []byte) {
		switch typ {
		case unix.NFTA_CHAIN_TABLE:
			table = string(text(value))
		case unix.NFTA_CHAIN_NAME:
			chain = string(text(value))
		case unix.NFTA_CHAIN_TYPE:
			h.kind = string(text(value))
		case unix.NFTA_CHAIN_HOOK:
			nlconn.Attrs(value, func(typ uint16, value []byte) {
				switch typ {
				case unix.NFTA_HOOK_HOOKNUM:
					h.num = number(value)
				case unix.NFTA_HOOK_PRIORITY:
					h.priority = int32(number(value))
				}
			})
		}
	})
	return table, chain, h
}
