package ipsets

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/nlconn"
	"calico.internal/felix/internal/rules"
)

// flagListHeader asks for sets without their members (IPSET_FLAG_LIST_HEADER).
const flagListHeader = 1 << 2

// header is a set as the kernel lists it.
type header struct {
	name       string
	spec       Spec
	elements   uint32
	references uint32
}

func request(cmd int, flags uint16, attrs []byte) nlconn.Request {
	body := nlconn.Netfilter(unix.AF_NETLINK)
	body = nlconn.Attr(body, nl.IPSET_ATTR_PROTOCOL, []byte{nl.IPSET_PROTOCOL})
	return nlconn.Request{
		Type:  uint16(unix.NFNL_SUBSYS_IPSET<<8 | cmd),
		Flags: flags,
		Body:  append(body, attrs...),
	}
}

func createRequest(name string, s Spec) nlconn.Request {
	attrs := nlconn.Attr(nil, nl.IPSET_ATTR_SETNAME, nlconn.String(name))
	attrs = nlconn.Attr(attrs, nl.IPSET_ATTR_TYPENAME, nlconn.String(s.Type))
	attrs = nlconn.Attr(attrs, nl.IPSET_ATTR_REVISION, []byte{revision(s.Type)})
	attrs = nlconn.Attr(attrs, nl.IPSET_ATTR_FAMILY, []byte{family(s.Family)})
	data := nlconn.Attr(nil, nl.IPSET_ATTR_MAXELEM|nlconn.NetOrder, binary.BigEndian.AppendUint32(nil, s.MaxMembers))
	attrs = nlconn.Attr(attrs, nl.IPSET_ATTR_DATA|nlconn.Nested, data)
	return request(nl.IPSET_CMD_CREATE, unix.NLM_F_CREATE, attrs)
}

// revision is the oldest revision of a type that has all that felix uses.
func revision(typ string) uint8 {
	if typ == HashIPPort {
		return 1 // SCTP and UDPLite
	}
	return 0
}

func family(f rules.Family) uint8 {
	if f == rules.V6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func destroyRequest(name string) nlconn.Request {
	return request(nl.IPSET_CMD_DESTROY, 0, nlconn.Attr(nil, nl.IPSET_ATTR_SETNAME, nlconn.String(name)))
}

func swapRequest(a, b string) nlconn.Request {
	attrs := nlconn.Attr(nil, nl.IPSET_ATTR_SETNAME, nlconn.String(a))
	return request(nl.IPSET_CMD_SWAP, 0, nlconn.Attr(attrs, nl.IPSET_ATTR_SETNAME2, nlconn.String(b)))
}

// listRequest asks for one set with its members, or for the headers of all sets.
func listRequest(name string) nlconn.Request {
	var attrs []byte
	if name == "" {
		attrs = nlconn.Attr(nil, nl.IPSET_ATTR_FLAGS|nlconn.NetOrder, binary.BigEndian.AppendUint32(nil, flagListHeader))
	} else {
		attrs = nlconn.Attr(nil, nl.IPSET_ATTR_SETNAME, nlconn.String(name))
	}
	return request(nl.IPSET_CMD_LIST, unix.NLM_F_DUMP|unix.NLM_F_ACK, attrs)
}

// changeRequest adds or deletes members of one set, all in one message. It does not mind
// members that are there, or gone, already.
func changeRequest(cmd int, set string, members []Member) nlconn.Request {
	attrs := nlconn.Attr(nil, nl.IPSET_ATTR_SETNAME, nlconn.String(set))
	if len(members) == 1 {
		attrs = nlconn.Attr(attrs, nl.IPSET_ATTR_DATA|nlconn.Nested, memberAttrs(nil, members[0]))
		return request(cmd, 0, attrs)
	}
	var list, one []byte
	for _, m := range members {
		one = memberAttrs(one[:0], m)
		list = nlconn.Attr(list, nl.IPSET_ATTR_DATA|nlconn.Nested, one)
	}
	attrs = nlconn.Attr(attrs, nl.IPSET_ATTR_LINENO, make([]byte, 4))
	return request(cmd, 0, nlconn.Attr(attrs, nl.IPSET_ATTR_ADT|nlconn.Nested, list))
}

func memberAttrs(b []byte, m Member) []byte {
	addr := m.Net.Addr()
	typ := uint16(nl.IPSET_ATTR_IPADDR_IPV4)
	if addr.Is6() {
		typ = nl.IPSET_ATTR_IPADDR_IPV6
	}
	b = nlconn.Attr(b, nl.IPSET_ATTR_IP|nlconn.Nested, nlconn.Attr(nil, typ|nlconn.NetOrder, addr.AsSlice()))
	if !m.Net.IsSingleIP() {
		b = nlconn.Attr(b, nl.IPSET_ATTR_CIDR, []byte{uint8(m.Net.Bits())})
	}
	if m.Protocol != 0 {
		b = nlconn.Attr(b, nl.IPSET_ATTR_PROTO, []byte{uint8(m.Protocol)})
		b = nlconn.Attr(b, nl.IPSET_ATTR_PORT|nlconn.NetOrder, binary.BigEndian.AppendUint16(nil, m.Port))
	}
	return b
}

// parseSet reads one message of a list: a set, or the next part of its members.
func parseSet(body []byte, member func(Member)) header {
	var h header
	if len(body) < nlconn.NetfilterHeader {
		return h
	}
	nlconn.Attrs(body[nlconn.NetfilterHeader:], func(typ uint16, value []byte) {
		switch typ {
		case nl.IPSET_ATTR_SETNAME:
			h.name = text(value)
		case nl.IPSET_ATTR_TYPENAME:
			h.spec.Type = text(value)
		case nl.IPSET_ATTR_FAMILY:
			h.spec.Family = rules.V4
			if len(value) > 0 && value[0] == unix.AF_INET6 {
				h.spec.Family = rules.V6
			}
		case nl.IPSET_ATTR_DATA:
			parseHeader(value, &h)
		case nl.IPSET_ATTR_ADT:
			nlconn.Attrs(value, func(_ uint16, one []byte) {
				if m, ok := parseMember(h.name, one); ok && member != nil {
					member(m)
				}
			})
		}
	})
	return h
}

func parseHeader(b []byte, h *header) {
	nlconn.Attrs(b, func(typ uint16, value []byte) {
		if len(value) < 4 {
			return
		}
		n := binary.BigEndian.Uint32(value)
		switch typ {
		case nl.IPSET_ATTR_MAXELEM:
			h.spec.MaxMembers = n
		case nl.IPSET_ATTR_ELEMENTS:
			h.elements = n
		case nl.IPSET_ATTR_REFERENCES:
			h.references = n
		}
	})
}

func parseMember(set string, b []byte) (Member, bool) {
	m := Member{Set: set}
	var addr netip.Addr
	bits := -1
	nlconn.Attrs(b, func(typ uint16, value []byte) {
		switch {
		case typ == nl.IPSET_ATTR_IP:
			nlconn.Attrs(value, func(_ uint16, raw []byte) { addr, _ = netip.AddrFromSlice(raw) })
		case len(value) == 0:
		case typ == nl.IPSET_ATTR_CIDR:
			bits = int(value[0])
		case typ == nl.IPSET_ATTR_PROTO:
			m.Protocol = desired.Protocol(value[0])
		case typ == nl.IPSET_ATTR_PORT && len(value) >= 2:
			m.Port = binary.BigEndian.Uint16(value)
		}
	})
	if !addr.IsValid() {
		return Member{}, false
	}
	if bits < 0 {
		bits = addr.BitLen()
	}
	m.Net = netip.PrefixFrom(addr, bits)
	return m, m.Net.IsValid()
}

func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}
