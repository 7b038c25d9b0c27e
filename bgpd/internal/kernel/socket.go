package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// batchSize is how many route messages go into one write. Errors of all of them must
	// fit into the socket's receive buffer.
	batchSize = 256
	// bufferSize is that of the receive buffers; the kernel's default holds only about a
	// hundred notifications.
	bufferSize = 4 << 20
	// replyTimeout bounds the wait for the kernel's answer, which is ready as soon as a
	// request was sent.
	replyTimeout = 10 * time.Second
	// dumpTries bounds repetitions of a dump that a change came between.
	dumpTries = 10
)

// socket sends requests to the kernel, one at a time.
type socket struct {
	s   *nl.NetlinkSocket
	pid uint32
	seq uint32
	// closed keeps a late request from using a number that is another file's by now.
	closed bool
}

// openSocket opens a netlink socket in the calling thread's network namespace.
func openSocket(groups ...uint) (*socket, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := s.SetReceiveBufferSize(bufferSize, true); err != nil {
		_ = s.SetReceiveBufferSize(bufferSize, false) // without CAP_NET_ADMIN as far as allowed
	}
	pid, err := s.GetPid()
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	return &socket{s: s, pid: pid}, nil
}

func (s *socket) close() {
	s.closed = true
	s.s.Close()
}

// frame puts a netlink header before a message.
func (s *socket) frame(kind, flags int, payload []byte) []byte {
	s.seq++
	size := unix.SizeofNlMsghdr + len(payload)
	b := make([]byte, 0, align(size))
	b = binary.NativeEndian.AppendUint32(b, uint32(size))
	b = binary.NativeEndian.AppendUint16(b, uint16(kind))
	b = binary.NativeEndian.AppendUint16(b, uint16(flags|unix.NLM_F_REQUEST))
	b = binary.NativeEndian.AppendUint32(b, s.seq)
	b = binary.NativeEndian.AppendUint32(b, s.pid)
	b = append(b, payload...)
	return append(b, make([]byte, align(size)-size)...)
}

func (s *socket) send(b []byte) error {
	if s.closed {
		return net.ErrClosed
	}
	return unix.Sendto(s.s.GetFd(), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// receive calls f for each message with one of the sequence numbers from first to last,
// until f says that it was the end.
func (s *socket) receive(first, last uint32, f func(syscall.NetlinkMessage) (end bool, err error)) error {
	tv := unix.NsecToTimeval(replyTimeout.Nanoseconds())
	if err := s.s.SetReceiveTimeout(&tv); err != nil {
		return err
	}
	for {
		msgs, _, err := s.s.Receive()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive from netlink: %w", err)
		}
		for _, m := range msgs {
			if m.Header.Seq-first > last-first {
				continue
			}
			if end, err := f(m); end || err != nil {
				return err
			}
		}
	}
}

// request is one message of a batch and what became of it.
type request struct {
	kind, flags int
	payload     []byte
	err         error
}

// batch sends many requests in few writes. The kernel works through a write before it
// returns and answers failures, and with NLM_F_ACK the last one of each write in any
// case.
func (s *socket) batch(reqs []*request) error {
	for len(reqs) > 0 {
		n := min(len(reqs), batchSize)
		if err := s.write(reqs[:n]); err != nil {
			return err
		}
		reqs = reqs[n:]
	}
	return nil
}

func (s *socket) write(reqs []*request) error {
	first, last := s.seq+1, s.seq+uint32(len(reqs))
	var buf []byte
	for i, r := range reqs {
		flags := r.flags
		if i == len(reqs)-1 {
			flags |= unix.NLM_F_ACK
		}
		buf = append(buf, s.frame(r.kind, flags, r.payload)...)
	}
	if err := s.send(buf); err != nil {
		return fmt.Errorf("send to netlink: %w", err)
	}
	return s.receive(first, last, func(m syscall.NetlinkMessage) (bool, error) {
		if m.Header.Type == unix.NLMSG_ERROR {
			reqs[m.Header.Seq-first].err = errorOf(m.Data)
		}
		return m.Header.Seq == last, nil
	})
}

// errorOf reads the errno of an NLMSG_ERROR; 0 means success.
func errorOf(data []byte) error {
	if len(data) < 4 {
		return errShort
	}
	if errno := int32(binary.NativeEndian.Uint32(data)); errno != 0 {
		return unix.Errno(-errno)
	}
	return nil
}

// errInterrupted says that what was dumped changed meanwhile, so that the dump may miss
// something.
var errInterrupted = errors.New("the table changed during the dump")

// dump lists objects; those of a dump that was interrupted are listed again.
func (s *socket) dump(kind int, payload []byte, f func(syscall.NetlinkMessage) error, reset func()) error {
	for try := 1; ; try++ {
		err := s.dumpOnce(kind, payload, f)
		if !errors.Is(err, errInterrupted) || try == dumpTries {
			return err
		}
		reset()
	}
}

func (s *socket) dumpOnce(kind int, payload []byte, f func(syscall.NetlinkMessage) error) error {
	b := s.frame(kind, unix.NLM_F_DUMP, payload)
	if err := s.send(b); err != nil {
		return fmt.Errorf("send to netlink: %w", err)
	}
	interrupted := false
	err := s.receive(s.seq, s.seq, func(m syscall.NetlinkMessage) (bool, error) {
		interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			return true, errorOf(m.Data)
		}
		return false, f(m)
	})
	if err == nil && interrupted {
		return errInterrupted
	}
	return err
}

// ask sends one request that is answered by one message.
func (s *socket) ask(kind int, payload []byte) (answer []byte, err error) {
	if err := s.send(s.frame(kind, 0, payload)); err != nil {
		return nil, fmt.Errorf("send to netlink: %w", err)
	}
	err = s.receive(s.seq, s.seq, func(m syscall.NetlinkMessage) (bool, error) {
		if m.Header.Type == unix.NLMSG_ERROR {
			return true, errorOf(m.Data)
		}
		answer = m.Data
		return true, nil
	})
	return answer, err
}

// ignore has the kernel drop notifications of what another socket of ours caused: a
// thousand routes written would come back as a thousand wake-ups.
func (s *socket) ignore(other *socket) error {
	const pidOffset = 12 // of nlmsghdr.nlmsg_pid
	pid := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, other.pid))
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: pidOffset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: pid, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(s.s.GetFd(), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("filter netlink notifications: %w", err)
	}
	return nil
}
