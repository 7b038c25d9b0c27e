package nlconn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// packets is how many packets one system call takes in. The kernel puts each IP set's
	// header and each acknowledgement into a packet of its own.
	packets = 16
	// packetSize is the room of one. The kernel fits the packets of a dump to it
	// (netlink_dump in net/netlink/af_netlink.c).
	packetSize = 16 * 1024
)

// errTruncated is returned for a packet that did not fit into its room.
var errTruncated = errors.New("a message of the kernel is too long")

// inbox takes in what the kernel sends, many packets with one recvmmsg(2), into room that is
// used again, so that what is asked several times a second makes no garbage.
type inbox struct {
	room    []byte
	senders [packets]unix.RawSockaddrNetlink
	vectors [packets]unix.Iovec
	heads   [packets]packetHead
}

// packetHead is struct mmsghdr.
type packetHead struct {
	unix.Msghdr
	length uint32
}

// message is one netlink message; data is valid until the next receive.
type message struct {
	typ, flags uint16
	seq        uint32
	data       []byte
}

func newInbox() *inbox {
	in := &inbox{room: make([]byte, packets*packetSize)}
	for i := range in.heads {
		in.vectors[i].Base = &in.room[i*packetSize]
		in.vectors[i].SetLen(packetSize)
		in.heads[i].Name = (*byte)(unsafe.Pointer(&in.senders[i]))
		in.heads[i].Iov = &in.vectors[i]
		in.heads[i].SetIovlen(1)
	}
	return in
}

// receive waits for a packet and takes in all that are there, up to a limit. It hands
// their messages to each, in their order.
func (in *inbox) receive(fd int, each func(message)) error {
	n, err := in.wait(fd)
	if err != nil {
		return fmt.Errorf("receive from netlink: %w", err)
	}
	for i := range n {
		if in.heads[i].Flags&unix.MSG_TRUNC != 0 {
			return fmt.Errorf("receive from netlink: %w", errTruncated)
		}
		if in.senders[i].Pid == nl.PidKernel {
			split(in.room[i*packetSize:][:in.heads[i].length], each)
		}
	}
	return nil
}

func (in *inbox) wait(fd int) (n int, err error) {
	for {
		for i := range in.heads {
			in.heads[i].Namelen = unix.SizeofSockaddrNetlink
		}
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&in.heads[0])), packets, unix.MSG_WAITFORONE, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// split hands over the messages of one packet.
func split(b []byte, each func(message)) {
	for len(b) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.NLMSG_HDRLEN || length > len(b) {
			return
		}
		each(message{
			typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
			seq: binary.NativeEndian.Uint32(b[8:]), data: b[unix.NLMSG_HDRLEN:length],
		})
		b = b[min(aligned(length), len(b)):]
	}
}

func aligned(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
