package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Writes tells of transactions of nf_tables.
type Writes struct {
	// C receives when anybody has written.
	C chan struct{}
	// pause is how long nothing is told after that.
	pause atomic.Int64
}

// minPause is the pause while none was asked for.
const minPause = 5 * time.Millisecond

// Pause has nothing be told for a while after each time, so that a program which writes very
// often does not keep felix from its other work.
func (w *Writes) Pause(d time.Duration) { w.pause.Store(int64(max(d, minPause))) }

// Writes begins to tell of writes to nf_tables, felix's own ones too, until the context ends.
// In the legacy variant there is nothing that tells: C never receives.
func (ts *Targets) Writes(ctx context.Context) (*Writes, error) {
	w := &Writes{C: make(chan struct{}, 1)}
	w.Pause(0)
	if ts.nft == nil {
		return w, nil
	}
	socket, err := listen()
	if err != nil {
		return w, fmt.Errorf("listen for changes of nf_tables: %w", err)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return w, fmt.Errorf("listen for changes of nf_tables: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = socket.Close() })
	go w.follow(raw)
	return w, nil
}

// newGeneration is the type of the message that ends the notices of a transaction.
const newGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN

// listen opens a socket that receives one short message for each transaction: the kernel
// packs the notices of all objects of it into others, which a filter keeps away.
func listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	const typeAt = 4 // in struct nlmsghdr, in the order of this machine
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: typeAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(inNetworkOrder(newGeneration)), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "nf_tables"), nil
}

// inNetworkOrder is what a load of the filter makes of a number of this machine's.
func inNetworkOrder(n uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, n))
}

// follow returns when the socket is closed.
func (w *Writes) follow(socket syscall.RawConn) {
	for socket.Read(takeAll) == nil {
		select {
		case w.C <- struct{}{}:
		default:
		}
		// What comes meanwhile is told of together. Who was told may change the pause first.
		<-time.After(minPause)
		<-time.After(time.Duration(w.pause.Load()) - minPause)
	}
}

// takeAll takes in all messages that are there, and reports whether there was any.
func takeAll(fd uintptr) (some bool) {
	var message [512]byte
	for {
		_, err := unix.Read(int(fd), message[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return some
		default: // also when the kernel had no room for a message, something was written
			some = true
		}
	}
}
