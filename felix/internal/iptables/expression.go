package iptables

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/nlconn"
	"calico.internal/felix/internal/rules"
)

// errNoExpression is returned for a condition that no rule of a barrier has.
var errNoExpression = errors.New("there is no expression of nf_tables for this rule")

// expressions make one of nf_tables' own rules. Of the conditions it knows those of barriers.
func (r *nftReader) expressions(rule rules.Rule) ([]byte, error) {
	if !r.knows(rule.Match) {
		return nil, errNoExpression
	}
	m := rule.Match
	var out []byte
	if m.Conn != 0 {
		out = addStates(out, m.Conn)
	}
	out = addInterface(out, unix.NFT_META_IIFNAME, m.In)
	out = addInterface(out, unix.NFT_META_OIFNAME, m.Out)
	if m.Protocol != 0 {
		out = addMeta(out, unix.NFT_META_L4PROTO)
		out = addCompare(out, unix.NFT_CMP_EQ, []byte{byte(m.Protocol)})
	}
	for _, p := range m.Ports {
		out = addPayload(out, unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2*uint32(p.Side), 2)
		out = addCompare(out, unix.NFT_CMP_EQ, binary.BigEndian.AppendUint16(nil, p.Ranges[0].First))
	}
	for _, i := range m.ICMP {
		out = addPayload(out, unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1)
		out = addCompare(out, unix.NFT_CMP_EQ, []byte{i.Type})
	}
	out = r.addNet(out, m.Source, rules.Src)
	out = r.addNet(out, m.Destination, rules.Dst)
	switch rule.Action.Verb {
	case rules.Accept:
		out = addExpression(out, "immediate", verdict(nfAccept))
	case rules.Drop:
		out = addExpression(out, "immediate", verdict(nfDrop))
	default:
		return nil, errNoExpression
	}
	return out, nil
}

// knows reports whether expressions looks at all that a rule asks for. A condition left out would
// make a rule that decides about more packets.
func (r *nftReader) knows(m rules.Match) bool {
	known := r.knowsNet(m.Source) && r.knowsNet(m.Destination) && knowsInterface(m.In) && knowsInterface(m.Out) &&
		m.NotProtocol == 0 && len(m.Sets) == 0 && m.DNAT == rules.DontCare && m.Mark.Mask == 0 && !m.RPFilterFails &&
		m.SourceLocal == rules.DontCare && m.DestinationLocal == rules.DontCare && !m.Socket
	for _, p := range m.Ports {
		known = known && !p.Not && m.Protocol.HasPorts() && len(p.Ranges) == 1 && p.Ranges[0].First == p.Ranges[0].Last
	}
	for _, i := range m.ICMP {
		known = known && !i.Not && i.Code == nil && (m.Protocol == desired.ICMPv4 || m.Protocol == desired.ICMPv6)
	}
	return known
}

func (r *nftReader) knowsNet(n rules.Net) bool {
	return !n.Not && (!n.IsValid() || n.Addr().Is4() == (r.family == unix.AF_INET))
}

func knowsInterface(i rules.Interface) bool { return !i.Not && len(i.Name) <= maxInterface }

// ctStates are the states of connections as nf_tables has them in its registers.
var ctStates = map[rules.ConnState]uint32{rules.Invalid: 1, rules.Established: 1 << 1, rules.Related: 1 << 2, rules.New: 1 << 3, rules.UntrackedState: 1 << 6}

func addStates(out []byte, states rules.ConnState) []byte {
	var mask uint32
	for state, bit := range ctStates {
		if states&state != 0 {
			mask |= bit
		}
	}
	load := nlconn.Attr(nil, unix.NFTA_CT_DREG, netOrder(unix.NFT_REG_1))
	load = nlconn.Attr(load, unix.NFTA_CT_KEY, netOrder(unix.NFT_CT_STATE))
	out = addExpression(out, "ct", load)
	out = addMask(out, binary.NativeEndian.AppendUint32(nil, mask))
	return addCompare(out, unix.NFT_CMP_NEQ, make([]byte, 4))
}

// addInterface compares an interface's name: as a whole with the zero bytes behind it, or its
// beginning without.
func addInterface(out []byte, key uint32, i rules.Interface) []byte {
	if i.Name == "" {
		return out
	}
	name := []byte(i.Name)
	if !i.Prefix {
		name = append(name, make([]byte, unix.IFNAMSIZ-len(name))...)
	}
	return addCompare(addMeta(out, key), unix.NFT_CMP_EQ, name)
}

// addNet compares an address with a network.
func (r *nftReader) addNet(out []byte, n rules.Net, side rules.Side) []byte {
	if !n.IsValid() {
		return out
	}
	offset, length := 12+4*uint32(side), uint32(4)
	if r.family == unix.AF_INET6 {
		offset, length = 8+16*uint32(side), 16
	}
	out = addPayload(out, unix.NFT_PAYLOAD_NETWORK_HEADER, offset, length)
	if !n.IsSingleIP() {
		out = addMask(out, maskOf(n.Prefix))
	}
	return addCompare(out, unix.NFT_CMP_EQ, n.Masked().Addr().AsSlice())
}

func maskOf(p netip.Prefix) []byte {
	mask := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

// The kernel's verdicts.
const (
	nfDrop   = 0
	nfAccept = 1
)

func addMeta(out []byte, key uint32) []byte {
	load := nlconn.Attr(nil, unix.NFTA_META_DREG, netOrder(unix.NFT_REG_1))
	return addExpression(out, "meta", nlconn.Attr(load, unix.NFTA_META_KEY, netOrder(key)))
}

func addPayload(out []byte, base, offset, length uint32) []byte {
	load := nlconn.Attr(nil, unix.NFTA_PAYLOAD_DREG, netOrder(unix.NFT_REG_1))
	load = nlconn.Attr(load, unix.NFTA_PAYLOAD_BASE, netOrder(base))
	load = nlconn.Attr(load, unix.NFTA_PAYLOAD_OFFSET, netOrder(offset))
	return addExpression(out, "payload", nlconn.Attr(load, unix.NFTA_PAYLOAD_LEN, netOrder(length)))
}

func addMask(out, bits []byte) []byte {
	mask := nlconn.Attr(nil, unix.NFTA_BITWISE_SREG, netOrder(unix.NFT_REG_1))
	mask = nlconn.Attr(mask, unix.NFTA_BITWISE_DREG, netOrder(unix.NFT_REG_1))
	mask = nlconn.Attr(mask, unix.NFTA_BITWISE_LEN, netOrder(uint32(len(bits))))
	mask = nlconn.Attr(mask, unix.NFTA_BITWISE_MASK|nlconn.Nested, value(bits))
	return addExpression(out, "bitwise", nlconn.Attr(mask, unix.NFTA_BITWISE_XOR|nlconn.Nested, value(make([]byte, len(bits)))))
}

func addCompare(out []byte, op uint32, with []byte) []byte {
	data := nlconn.Attr(nil, unix.NFTA_CMP_SREG, netOrder(unix.NFT_REG_1))
	data = nlconn.Attr(data, unix.NFTA_CMP_OP, netOrder(op))
	return addExpression(out, "cmp", nlconn.Attr(data, unix.NFTA_CMP_DATA|nlconn.Nested, value(with)))
}

func addExpression(out []byte, name string, data []byte) []byte {
	e := nlconn.Attr(nil, unix.NFTA_EXPR_NAME, nlconn.String(name))
	e = nlconn.Attr(e, unix.NFTA_EXPR_DATA|nlconn.Nested, data)
	return nlconn.Attr(out, unix.NFTA_LIST_ELEM|nlconn.Nested, e)
}

func verdict(code uint32) []byte {
	v := nlconn.Attr(nil, unix.NFTA_VERDICT_CODE, netOrder(code))
	out := nlconn.Attr(nil, unix.NFTA_IMMEDIATE_DREG, netOrder(unix.NFT_REG_VERDICT))
	return nlconn.Attr(out, unix.NFTA_IMMEDIATE_DATA|nlconn.Nested, nlconn.Attr(nil, unix.NFTA_DATA_VERDICT|nlconn.Nested, v))
}

func value(b []byte) []byte { return nlconn.Attr(nil, unix.NFTA_DATA_VALUE, b) }

func netOrder(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
