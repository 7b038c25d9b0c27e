// Package nlconn is a persistent netlink socket over which many requests go at once. It
// stands beside github.com/vishvananda/netlink, whose calls send one request and wait
// for its answer, for what that library does not cover or does one by one: members of
// IP sets, the generation of nf_tables, removal of tracked connections.
//
// A Conn belongs to one goroutine, and to the network namespace in which it was dialled.
package nlconn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// Timeout is how long the kernel may take for an answer.
	Timeout = 10 * time.Second
	// maxBatch is the number of requests in one send: their answers must fit into the
	// socket's buffer.
	maxBatch = 256
	// maxSend is the number of bytes in one send, unless the socket's buffer is smaller;
	// beyond that, less sendMargin, the kernel answers EMSGSIZE.
	maxSend    = 128 * 1024
	sendMargin = 1024
	bufferSize = 4 * 1024 * 1024
)

// Conn is an open netlink socket.
type Conn struct {
	fd      int
	seq     uint32
	maxSend int
	inbox   *inbox
}

// Request is one message to the kernel. NLM_F_REQUEST is added to Flags.
type Request struct {
	Type  uint16
	Flags uint16
	Body  []byte
}

// Dial opens a socket of a netlink protocol, such as NETLINK_NETFILTER, in the network
// namespace of the calling thread.
func Dial(protocol int) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(Timeout))
	// Without the right to force it the buffer stays as large as the system allows.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferSize)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*maxSend)
	// Otherwise an error comes with a copy of the request that it is about.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	send, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &Conn{fd: fd, maxSend: min(maxSend, send-sendMargin), inbox: newInbox()}, nil
}

// Close closes the socket.
func (c *Conn) Close() { _ = unix.Close(c.fd) }

// Do sends one request and hands the answers to each (which may be nil, and must not keep
// them) until the kernel says that it is done. The error of the kernel is a [syscall.Errno]; those
// of a dump that changed under way are [nl.ErrDumpInterrupted].
func (c *Conn) Do(r Request, each func(body []byte) error) error {
	first := c.seq + 1
	if err := c.send([]Request{r}); err != nil {
		return err
	}
	var (
		a    = answer{seq: first, each: each, single: r.Flags&unix.NLM_F_ACK == 0}
		take = a.take
	)
	for !a.complete {
		if err := c.inbox.receive(c.fd, take); err != nil {
			return err
		}
	}
	return errors.Join(a.fault, a.verdict)
}

// answer gathers the answer to one request.
type answer struct {
	seq  uint32
	each func(body []byte) error
	// single says that a message that is not part of several is the whole answer.
	single bool

	interrupted bool
	// fault is that of each, verdict the kernel's.
	fault, verdict error
	complete       bool
}

func (a *answer) take(m message) {
	if m.seq != a.seq || a.complete {
		return
	}
	a.interrupted = a.interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
	if verdict, last := outcome(m); last {
		if verdict == nil && a.interrupted {
			verdict = nl.ErrDumpInterrupted
		}
		a.verdict, a.complete = verdict, true
		return
	}
	if a.each != nil && a.fault == nil {
		a.fault = a.each(m.data)
	}
	a.complete = a.single && m.flags&unix.NLM_F_MULTI == 0
}

// Batch sends all requests, in as few system calls as the buffers allow, and returns
// the kernel's answer to each: nil or a [syscall.Errno]. The error is that of the socket
// itself; then it is not known which requests were carried out.
func (c *Conn) Batch(reqs []Request) ([]error, error) {
	results := make([]error, 0, len(reqs))
	for len(reqs) > 0 {
		n, size := 0, 0
		for n < len(reqs) && n < maxBatch && (n == 0 || size+lengthOf(reqs[n]) <= c.maxSend) {
			size += lengthOf(reqs[n])
			n++
		}
		part, err := c.batch(reqs[:n])
		if err != nil {
			return nil, err
		}
		results = append(results, part...)
		reqs = reqs[n:]
	}
	return results, nil
}

// lengthOf is what a request takes in a send.
func lengthOf(r Request) int {
	return unix.NLMSG_HDRLEN + aligned(len(r.Body))
}

func (c *Conn) batch(reqs []Request) ([]error, error) {
	for i := range reqs {
		reqs[i].Flags |= unix.NLM_F_ACK
	}
	first := c.seq + 1
	if err := c.send(reqs); err != nil {
		return nil, err
	}
	results := make([]error, len(reqs))
	missing := len(reqs)
	take := func(m message) {
		i := int(m.seq - first)
		if i < 0 || i >= len(reqs) {
			return
		}
		if verdict, last := outcome(m); last {
			results[i] = verdict
			missing--
		}
	}
	for missing > 0 {
		if err := c.inbox.receive(c.fd, take); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// Transact has requests carried out as one transaction of a netfilter subsystem which takes
// nothing else: all of them or none. The error of the kernel holds a [syscall.Errno].
func (c *Conn) Transact(subsystem uint8, reqs ...Request) error {
	frame := append(Netfilter(unix.AF_UNSPEC)[:2], 0, subsystem) // the subsystem, in network byte order
	all := []Request{{Type: unix.NFNL_MSG_BATCH_BEGIN, Body: frame}}
	for _, r := range reqs {
		r.Flags |= unix.NLM_F_ACK
		all = append(all, r)
	}
	first := c.seq + 1
	if err := c.send(append(all, Request{Type: unix.NFNL_MSG_BATCH_END, Body: frame})); err != nil {
		return err
	}
	var verdict error
	missing := len(reqs)
	take := func(m message) {
		// An answer to the beginning is the fault of the whole transaction.
		n := int(m.seq - first)
		if n < 0 || n > len(reqs) || n == 0 && m.typ != unix.NLMSG_ERROR {
			return
		}
		err, last := outcome(m)
		switch {
		case !last:
		case n == 0 && err != nil:
			missing = 0
		case n > 0:
			missing--
		}
		verdict = errors.Join(verdict, err)
	}
	for missing > 0 {
		if err := c.inbox.receive(c.fd, take); err != nil {
			return err
		}
	}
	return verdict
}

func (c *Conn) send(reqs []Request) error {
	var buf []byte
	for _, r := range reqs {
		c.seq++
		length := unix.NLMSG_HDRLEN + len(r.Body)
		buf = binary.NativeEndian.AppendUint32(buf, uint32(length))
		buf = binary.NativeEndian.AppendUint16(buf, r.Type)
		buf = binary.NativeEndian.AppendUint16(buf, r.Flags|unix.NLM_F_REQUEST)
		buf = binary.NativeEndian.AppendUint32(buf, c.seq)
		buf = binary.NativeEndian.AppendUint32(buf, 0)
		buf = append(buf, r.Body...)
		for len(buf)%unix.NLMSG_ALIGNTO != 0 {
			buf = append(buf, 0)
		}
	}
	if err := unix.Sendto(c.fd, buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to netlink: %w", err)
	}
	return nil
}

// outcome is the kernel's verdict on a request; last is false for a message that only
// carries data.
func outcome(m message) (err error, last bool) {
	if m.typ != unix.NLMSG_ERROR && m.typ != unix.NLMSG_DONE {
		return nil, false
	}
	if len(m.data) < 4 {
		return nil, true
	}
	if errno := -int32(binary.NativeEndian.Uint32(m.data)); errno > 0 {
		return syscall.Errno(errno), true
	}
	return nil, true
}

// Attr appends a netlink attribute to a message.
func Attr(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// String is a value of an attribute that holds a text.
func String(s string) []byte { return append([]byte(s), 0) }

// Nested marks an attribute that holds others.
const Nested = unix.NLA_F_NESTED

// NetOrder marks an attribute whose number is in network byte order.
const NetOrder = unix.NLA_F_NET_BYTEORDER

// Attrs calls each for the attributes in b, with flags taken off their types.
func Attrs(b []byte, each func(typ uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtAttr || length > len(b) {
			return
		}
		each(binary.NativeEndian.Uint16(b[2:])&^(Nested|NetOrder), b[unix.SizeofRtAttr:length])
		b = b[min((length+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]
	}
}

// Netfilter is the header that messages to the netfilter subsystems begin with.
func Netfilter(family uint8) []byte { return []byte{family, nl.NFNETLINK_V0, 0, 0} }

// NetfilterHeader is the length of [Netfilter].
const NetfilterHeader = nl.SizeofNfgenmsg
