package checksystem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// The kernel's numbers of what is tried: linux/if_link.h, linux/netfilter/nfnetlink_conntrack.h
// and linux/netfilter/ipset/ip_set.h.
const (
	linkName, linkInfo       = 3, 18
	infoKind, infoData, peer = 1, 2, 1

	netfilterProtocol = 12
	conntrackPart     = 1 << 8
	ctNew, ctGet      = conntrackPart, conntrackPart | 1
	ctDelete          = conntrackPart | 2

	setPart           = 6 << 8
	setCreate, setAdd = setPart | 2, setPart | 9
	setProtocol       = 6
	// errSetType is IPSET_ERR_FIND_TYPE.
	errSetType = syscall.Errno(4098)
)

// trialLink is one end of the pair that is made for the trial, trialPeer the other.
const (
	trialLink = "calicheck0"
	trialPeer = "calicheck1"
)

// makePair makes a pair of interfaces as containers get.
func makePair() error {
	n, err := dialNetlink(syscall.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer n.close()
	header := make([]byte, syscall.SizeofIfInfomsg)
	body := append(header[:len(header):len(header)], attr(linkName, text(trialLink))...)
	body = append(body, attr(linkInfo,
		attr(infoKind, []byte("veth")),
		attr(infoData, attr(peer, header, attr(linkName, text(trialPeer)))))...)
	_, err = n.do(syscall.RTM_NEWLINK, syscall.NLM_F_CREATE|syscall.NLM_F_EXCL, body)
	return err
}

// cureOf is a cure, unless it is the command that lacks rights and not the kernel something.
func cureOf(err error, cure string) string {
	if errors.Is(err, syscall.EPERM) {
		return "run the command as root of the host, with all capabilities"
	}
	return cure
}

func pairs() Finding {
	f := Finding{Check: "veth", Tried: "made a pair of interfaces"}
	if err := makePair(); err != nil {
		return f.is(Fault, cureOf(err, "install a kernel with the module veth"), "refused: %v", err)
	}
	return f.ok("made")
}

// setType is a kind of set that felix makes, with the oldest revision that has what it uses.
type setType struct {
	name     string
	revision byte
}

var setTypes = []setType{{"hash:ip", 0}, {"hash:net", 0}, {"hash:ip,port", 1}}

// family is one of the two of IP.
type family struct {
	name   string
	number byte
	// a and b are two addresses.
	a, b netip.Addr
}

var families = []family{
	{"IPv4", syscall.AF_INET, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
	{"IPv6", syscall.AF_INET6, netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")},
}

func (f family) v6() bool { return f.number == syscall.AF_INET6 }

// needed is the state of what is missing: IPv6 is not.
func (f family) needed() string {
	if f.v6() {
		return Warning
	}
	return Fault
}

// setName is the set that the trial's rules ask.
func setName(f family, t setType) string { return "calicheck-" + t.name + "-" + f.name }

// sets makes a set of each type with a member.
func sets(fam family) Finding {
	f := Finding{Check: "ipset " + fam.name, Tried: "made sets hash:ip, hash:net and hash:ip,port with a member each"}
	const cure = "install a kernel with the modules ip_set, ip_set_hash_ip, ip_set_hash_net and ip_set_hash_ipport, or load them with modprobe"
	n, err := dialNetlink(netfilterProtocol)
	if err != nil {
		return f.is(fam.needed(), cure, "refused: %v", err)
	}
	defer n.close()
	for _, t := range setTypes {
		err := makeSet(n, fam, t)
		if errors.Is(err, errSetType) {
			return f.is(fam.needed(), cure, "the kernel does not know the type %s", t.name)
		}
		if err != nil {
			return f.is(fam.needed(), cureOf(err, cure), "%s refused: %v", t.name, err)
		}
	}
	return f.ok("made")
}

func makeSet(n *netlink, fam family, t setType) error {
	common := func(more ...[]byte) []byte {
		return message(syscall.AF_NETLINK, append([][]byte{attr(1, []byte{setProtocol}), attr(2, text(setName(fam, t)))}, more...)...)
	}
	_, err := n.do(setCreate, syscall.NLM_F_CREATE|syscall.NLM_F_EXCL, common(
		attr(3, text(t.name)), attr(4, []byte{t.revision}), attr(5, []byte{fam.number}), attr(7|nested)))
	if err != nil {
		return err
	}
	addrType := uint16(1)
	if fam.v6() {
		addrType = 2
	}
	member := attr(1|nested, attr(addrType|netOrder, fam.a.AsSlice()))
	if t.name == "hash:ip,port" {
		member = append(member, attr(7, []byte{syscall.IPPROTO_TCP})...)
		member = append(member, attr(4|netOrder, binary.BigEndian.AppendUint16(nil, 80))...)
	}
	_, err = n.do(setAdd, 0, common(attr(7|nested, member)))
	return err
}

// connections makes a connection in the kernel's table, lists the table and deletes the
// connection, as felix does with those of removed containers.
func connections(fam family) Finding {
	f := Finding{Check: "conntrack " + fam.name, Tried: "made, listed and deleted a connection by netlink"}
	const cure = "install a kernel with the modules nf_conntrack and nf_conntrack_netlink, or load them with modprobe"
	if err := tryConnection(fam); err != nil {
		return f.is(fam.needed(), cureOf(err, cure), "%v", err)
	}
	return f.ok("done")
}

func tryConnection(fam family) error {
	n, err := dialNetlink(netfilterProtocol)
	if err != nil {
		return err
	}
	defer n.close()
	there, back := tuple(1, fam.a, fam.b), tuple(2, fam.b, fam.a)
	timeout := attr(7|netOrder, binary.BigEndian.AppendUint32(nil, 30))
	if _, err := n.do(ctNew, syscall.NLM_F_CREATE|syscall.NLM_F_EXCL, message(fam.number, there, back, timeout)); err != nil {
		return fmt.Errorf("make refused: %w", err)
	}
	listed, err := n.do(ctGet, syscall.NLM_F_DUMP, message(fam.number))
	if err == nil && listed == 0 {
		err = errors.New("the connection is not in it")
	}
	if err != nil {
		return fmt.Errorf("list refused: %w", err)
	}
	if _, err := n.do(ctDelete, 0, message(fam.number, there)); err != nil {
		return fmt.Errorf("delete refused: %w", err)
	}
	return nil
}

// tuple is one direction of a connection of UDP.
func tuple(typ uint16, from, to netip.Addr) []byte {
	source, destination := uint16(1), uint16(2)
	if from.Is6() {
		source, destination = 3, 4
	}
	port := binary.BigEndian.AppendUint16(nil, 9)
	return attr(typ|nested,
		attr(1|nested, attr(source, from.AsSlice()), attr(destination, to.AsSlice())),
		attr(2|nested, attr(1, []byte{syscall.IPPROTO_UDP}), attr(2, port), attr(3, port)))
}
