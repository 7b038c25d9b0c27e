package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/nlconn"
	"calico.internal/felix/internal/rules"
)

// extension is a match or a target of rules, which the kernel has or lacks.
type extension struct {
	name   string
	target bool
}

func (e extension) String() string {
	if e.target {
		return "target " + e.name
	}
	return "match " + e.name
}

// What felix's rules are made of besides what all kernels with iptables have.
var (
	matchComment   = extension{name: "comment"}
	matchMark      = extension{name: "mark"}
	matchConntrack = extension{name: "conntrack"}
	matchSet       = extension{name: "set"}
	matchRPFilter  = extension{name: "rpfilter"}
	matchMultiport = extension{name: "multiport"}
	matchAddrType  = extension{name: "addrtype"}
	matchSocket    = extension{name: "socket"}
	matchICMP      = extension{name: "icmp"}
	matchICMPv6    = extension{name: "icmp6"}
	targetMark     = extension{"MARK", true}
	targetLog      = extension{"LOG", true}
	targetReject   = extension{"REJECT", true}
	targetCT       = extension{"CT", true}
	targetMasq     = extension{"MASQUERADE", true}
	targetDNAT     = extension{"DNAT", true}
	targetSNAT     = extension{"SNAT", true}
)

// costs says what it means that the kernel lacks an extension.
var costs = map[extension]string{
	matchComment:   "nothing can be filtered",
	matchMark:      "nothing can be filtered",
	targetMark:     "nothing can be filtered",
	matchConntrack: "nothing can be filtered",
	matchSet:       "nothing can be filtered",
	matchRPFilter:  "it cannot be seen to it that containers use their own addresses",
	matchMultiport: "what allows ports allows nothing, and policies and profiles with ports are closed",
	matchAddrType:  "policy of host endpoints does not meet what the host itself sends to rewritten addresses, and containers reach no BGP port anywhere",
	matchSocket:    "what doNotTrack policies allow to the host is tracked all the same",
	matchICMP:      "what allows ICMP allows nothing, and policies and profiles with ICMP are closed",
	matchICMPv6:    "what allows ICMPv6 allows nothing, and policies and profiles with ICMPv6 are closed",
	targetLog:      "rules that log are left out",
	targetReject:   "what should be rejected is dropped",
	targetCT:       "what doNotTrack policies allow is tracked all the same",
	targetMasq:     "outgoing NAT is not in force",
	targetDNAT:     "floating addresses do not work",
	targetSNAT:     "a container does not reach its own floating address",
}

// essential are the extensions without which a family cannot be filtered.
var essential = []extension{matchComment, matchMark, matchConntrack, matchSet, matchRPFilter, targetMark}

// Lacks are the matches and targets that felix's rules of a family need and the kernel does
// not have.
type Lacks map[extension]bool

// Err says what keeps the family from being filtered; nil when nothing does.
func (l Lacks) Err() error {
	for _, e := range essential {
		if l[e] {
			return fmt.Errorf("the kernel lacks the %s of iptables: %s; load its module", e, costs[e])
		}
	}
	return nil
}

// Problems says of each that is not essential what its absence means.
func (l Lacks) Problems() []string {
	var out []string
	for e := range l {
		if !slices.Contains(essential, e) {
			out = append(out, fmt.Sprintf("the kernel lacks the %s of iptables: %s; load its module and restart felix", e, costs[e]))
		}
	}
	slices.Sort(out)
	return out
}

// spared are what a rule may do that is left out where the kernel lacks what it needs: without
// it, less is allowed, logged, kept from being tracked or translated.
var spared = []rules.Verb{rules.Log, rules.Accept, rules.NoTrack, rules.Masquerade, rules.DNAT, rules.SNAT}

// Around rewrites a chain for a kernel that lacks something. What a rule that denies cannot
// ask it does not ask, and denies more; one that can be spared is left out; any other one makes
// the chain one that must not be used, which is the error.
func (l Lacks) Around(c rules.Chain) (rules.Chain, error) {
	if len(l) == 0 {
		return c, nil
	}
	out := rules.Chain{ChainID: c.ChainID}
	for i, r := range c.Rules {
		var missing []string
		for _, e := range needs(&r) {
			if l[e] {
				missing = append(missing, e.String())
			}
		}
		switch {
		case len(missing) == 0:
		case slices.Contains(spared, r.Action.Verb):
			continue
		case r.Action.Verb == rules.Drop || r.Action.Verb == rules.Reject:
			r = l.wider(r)
		default:
			return out, fmt.Errorf("chain %s: rule %d needs what the kernel lacks: %s", c.Name, i+1, strings.Join(missing, ", "))
		}
		out.Rules = append(out.Rules, r)
	}
	return out, nil
}

// wider takes from a rule that denies what the kernel cannot ask.
func (l Lacks) wider(r rules.Rule) rules.Rule {
	if l[targetReject] {
		r.Action.Verb = rules.Drop
	}
	if l[matchMark] {
		r.Match.Mark = rules.Mark{}
	}
	if l[matchConntrack] {
		r.Match.Conn, r.Match.DNAT = 0, rules.DontCare
	}
	if l[matchSet] {
		r.Match.Sets = nil
	}
	if l[matchRPFilter] {
		r.Match.RPFilterFails = false
	}
	if l[matchSocket] {
		r.Match.Socket = false
	}
	if l[matchMultiport] {
		r.Match.Ports = nil
	}
	if l[matchAddrType] {
		r.Match.SourceLocal, r.Match.DestinationLocal = rules.DontCare, rules.DontCare
	}
	if l[icmpOf(&r)] {
		r.Match.ICMP = nil
	}
	return r
}

// needs lists the extensions of a rule.
func needs(r *rules.Rule) []extension {
	var list []extension
	add := func(needed bool, e extension) {
		if needed {
			list = append(list, e)
		}
	}
	m := &r.Match
	add(m.Mark.Mask != 0, matchMark)
	add(m.Conn != 0 || m.DNAT != rules.DontCare, matchConntrack)
	add(len(m.Sets) > 0, matchSet)
	add(m.RPFilterFails, matchRPFilter)
	add(m.Socket, matchSocket)
	add(len(m.Ports) > 0, matchMultiport)
	add(m.SourceLocal != rules.DontCare || m.DestinationLocal != rules.DontCare, matchAddrType)
	add(len(m.ICMP) > 0, icmpOf(r))
	target, needed := targets[r.Action.Verb]
	add(needed, target)
	return list
}

func icmpOf(r *rules.Rule) extension {
	if r.Match.Protocol == desired.ICMPv6 {
		return matchICMPv6
	}
	return matchICMP
}

// targets are the extensions of the verbs that are no part of iptables itself.
var targets = map[rules.Verb]extension{
	rules.Reject: targetReject, rules.SetMark: targetMark, rules.ClearMark: targetMark, rules.Log: targetLog, rules.NoTrack: targetCT,
	rules.Masquerade: targetMasq, rules.DNAT: targetDNAT, rules.SNAT: targetSNAT,
}

// Lacks asks the kernel for all that felix's rules of a family need. Nothing is written; a
// module that is there is loaded by that.
func (ts *Targets) Lacks(f rules.Family) (Lacks, error) {
	return ts.lacksOf(f, slices.Collect(maps.Keys(costs)))
}

func (ts *Targets) lacksOf(f rules.Family, list []extension) (Lacks, error) {
	has := ts.nftHas
	if ts.nft == nil {
		has = legacyHas
	}
	lacks := Lacks{}
	for _, e := range list {
		other := matchICMPv6
		if f == rules.V6 {
			other = matchICMP
		}
		// The nft variant has matches of marks made of nf_tables' own expressions.
		if e == other || ts.nft != nil && e == matchMark {
			continue
		}
		found, err := has(f, e)
		if err != nil {
			return nil, fmt.Errorf("ask the kernel for the %s of iptables: %w", e, err)
		}
		if !found {
			lacks[e] = true
		}
	}
	return lacks, nil
}

// The options of a raw socket that tell whether an extension is there: IPT_SO_GET_REVISION_*
// and IP6T_SO_GET_REVISION_* of the kernel.
const (
	soRevisionMatch  = 66
	soRevisionTarget = 67
	soIPv6           = 2 // by which those of IPv6 are greater
)

// revision is struct xt_get_revision of the kernel.
type revision struct {
	Name     [29]byte
	Revision uint8
}

func legacyHas(f rules.Family, e extension) (bool, error) {
	fd, level, err := familySocket(f)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	option := soRevisionMatch
	if e.target {
		option = soRevisionTarget
	}
	if f == rules.V6 {
		option += soIPv6
	}
	var r revision
	copy(r.Name[:len(r.Name)-1], e.name)
	size := uint32(unsafe.Sizeof(r))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&r)), uintptr(unsafe.Pointer(&size)), 0)
	return isThere(errno)
}

// nftHas asks nft_compat, which lends the extensions of iptables to nf_tables.
func (ts *Targets) nftHas(f rules.Family, e extension) (bool, error) {
	family := map[rules.Family]uint8{rules.V4: unix.AF_INET, rules.V6: unix.AF_INET6}[f]
	kind := uint32(0)
	if e.target {
		kind = 1
	}
	const attrName, attrRevision, attrKind = 1, 2, 3 // NFTA_COMPAT_*
	body := nlconn.Netfilter(family)
	body = nlconn.Attr(body, attrName, nlconn.String(e.name))
	body = nlconn.Attr(body, attrRevision, binary.BigEndian.AppendUint32(nil, 0))
	body = nlconn.Attr(body, attrKind, binary.BigEndian.AppendUint32(nil, kind))
	ts.nft.mu.Lock()
	defer ts.nft.mu.Unlock()
	err := ts.nft.conn.Do(nlconn.Request{Type: unix.NFNL_SUBSYS_NFT_COMPAT << 8, Flags: unix.NLM_F_ACK, Body: body}, nil)
	return isThere(err)
}

// isThere reads the kernel's answer to the question for revision 0, which an extension need
// not have.
func isThere(err error) (bool, error) {
	var errno syscall.Errno
	switch {
	case err == nil || errors.As(err, &errno) && (errno == 0 || errno == unix.EPROTONOSUPPORT):
		return true, nil
	case errors.Is(err, unix.ENOENT):
		return false, nil
	}
	return false, err
}
