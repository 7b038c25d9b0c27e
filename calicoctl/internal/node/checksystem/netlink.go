package checksystem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

// netlink is a connection to the kernel, which is asked one thing after the other.
type netlink struct {
	fd  int
	seq uint32
}

// answerTimeout is how long the kernel may take for one answer: it may load a module.
var answerTimeout = syscall.Timeval{Sec: 2}

func dialNetlink(protocol int) (*netlink, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	err = errors.Join(
		syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &answerTimeout),
		syscall.Bind(fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("netlink: %w", err), syscall.Close(fd))
	}
	return &netlink{fd: fd}, nil
}

func (n *netlink) close() { _ = syscall.Close(n.fd) }

// do sends a message and waits until it is done. It returns how many messages came back
// before that.
func (n *netlink) do(typ, flags uint16, body []byte) (answers int, err error) {
	n.seq++
	msg := binary.NativeEndian.AppendUint32(nil, uint32(syscall.NLMSG_HDRLEN+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, typ)
	msg = binary.NativeEndian.AppendUint16(msg, flags|syscall.NLM_F_REQUEST|syscall.NLM_F_ACK)
	msg = binary.NativeEndian.AppendUint32(msg, n.seq)
	msg = append(binary.NativeEndian.AppendUint32(msg, 0), body...)
	if err := syscall.Sendto(n.fd, msg, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return 0, err
	}
	buffer := make([]byte, 1<<16)
	for {
		size, _, err := syscall.Recvfrom(n.fd, buffer, 0)
		if err != nil {
			return answers, err
		}
		list, err := syscall.ParseNetlinkMessage(buffer[:size])
		if err != nil {
			return answers, err
		}
		for _, m := range list {
			switch {
			case m.Header.Seq != n.seq:
			case m.Header.Type == syscall.NLMSG_ERROR || m.Header.Type == syscall.NLMSG_DONE:
				return answers, resultOf(m.Data)
			default:
				answers++
			}
		}
	}
}

// resultOf reads the number with which the kernel ends its answer.
func resultOf(data []byte) error {
	if len(data) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(data)); code < 0 {
		return syscall.Errno(-code)
	}
	return nil
}

// Flags of attributes (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
const (
	nested   = 1 << 15
	netOrder = 1 << 14
)

// attr is an attribute with its padding.
func attr(typ uint16, parts ...[]byte) []byte {
	size := 4
	for _, p := range parts {
		size += len(p)
	}
	out := binary.NativeEndian.AppendUint16(nil, uint16(size))
	out = binary.NativeEndian.AppendUint16(out, typ)
	for _, p := range parts {
		out = append(out, p...)
	}
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	return out
}

func text(s string) []byte { return append([]byte(s), 0) }

// message is the start of a message to a part of netfilter (struct nfgenmsg), and attributes.
func message(family byte, attrs ...[]byte) []byte {
	out := []byte{family, 0, 0, 0}
	for _, a := range attrs {
		out = append(out, a...)
	}
	return out
}
