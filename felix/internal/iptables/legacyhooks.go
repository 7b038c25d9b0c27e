package iptables

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/rules"
)

// The numbers of a legacy table's fingerprint do not show that two rules of equal size have
// changed places, as they do when Docker puts its own rule first again. So the order of the
// rules in chains with hooks belongs to the fingerprint too. To read it costs the more the
// more rules and processors there are; so it is read only when a program that writes tables
// has given the lock back since.

// lead is the beginning of a legacy table, which holds all chains with hooks: by chain, the
// hashes of its rules, with noHash for those of others. libiptc puts the kernel's chains first
// and the others in the order of their names.
type lead map[string]string

const noHash = "-"

// hooks is a digest of the chains in which rules of felix's stand.
func (l lead) hooks() (digest [sha256.Size]byte) {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(l)) {
		if strings.Trim(l[name], noHash+" ") != "" {
			fmt.Fprintln(h, name, l[name])
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// agrees reports whether the chains are as in contents.
func (l lead) agrees(c contents) bool {
	for name, have := range l {
		chain, exists := c[name]
		if !exists || sequence(chain.rules) != have {
			return false
		}
	}
	return true
}

// sequence is the hashes of rules as a lead has them.
func sequence(list []Rule) string {
	var b strings.Builder
	for _, r := range list {
		b.WriteString(cmp.Or(r.Hash, noHash))
		b.WriteByte(' ')
	}
	return b.String()
}

// soGetEntries is IPT_SO_GET_ENTRIES and IP6T_SO_GET_ENTRIES.
const soGetEntries = 65

// entriesHead is the length of what stands before the entries in struct ipt_get_entries.
const entriesHead = 40

// leadSize is how much of a table is read first.
const leadSize = 32 * 1024

// readLead reads the beginning of a table whose fingerprint is known.
func (l *legacyLedger) readLead(info legacyInfo) (lead, error) {
	for size := leadSize; ; size *= 8 {
		entries, err := l.readEntries(info, size)
		if err != nil {
			return nil, err
		}
		found, complete := l.layout().parse(entries, info)
		if complete || len(entries) == int(info.Size) {
			return found, nil
		}
	}
}

// readEntries reads so many bytes of the table, and up to the end of a page. The kernel gives
// all or nothing; of the memory into which it writes, only the beginning can be written, and it
// stops there. [unix.EAGAIN] says that the table has another size by now than info has.
func (l *legacyLedger) readEntries(info legacyInfo, most int) ([]byte, error) {
	page := unix.Getpagesize()
	pages := func(length int) int { return (length + page - 1) / page * page }
	length := entriesHead + int(info.Size)
	whole, err := unix.Mmap(-1, 0, pages(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("get memory to read a legacy table: %w", err)
	}
	defer unix.Munmap(whole) //nolint:errcheck // it was mapped just now
	most = pages(most)
	cut := most < length
	if cut {
		length = most
		if err := unix.Mprotect(whole[most:], unix.PROT_NONE); err != nil {
			return nil, fmt.Errorf("limit memory to read a legacy table: %w", err)
		}
	}
	copy(whole, l.name[:])
	binary.NativeEndian.PutUint32(whole[len(l.name):], info.Size)
	size := entriesHead + info.Size
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(l.fd), uintptr(l.level), soGetEntries,
		uintptr(unsafe.Pointer(&whole[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 && !(cut && errors.Is(errno, unix.EFAULT)) {
		return nil, fmt.Errorf("read legacy table: %w", errno)
	}
	return bytes.Clone(whole[entriesHead:length]), nil
}

// entryLayout is where the parts of struct ipt_entry, or ip6t_entry, are.
type entryLayout struct{ targetOffset, nextOffset, length int }

func (l *legacyLedger) layout() entryLayout {
	if l.level == unix.IPPROTO_IPV6 {
		return entryLayout{140, 142, 168}
	}
	return entryLayout{88, 90, 112}
}

// The parts of struct xt_entry_match, and of xt_entry_target, which is alike.
const (
	partName = 2
	partData = 32
)

// kernelChains are the kernel's chains by the numbers of their hooks.
var kernelChains = [...]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}

// parse reads entries up to the first of felix's chains; complete is false when that, or the
// end of the table, does not come.
func (y entryLayout) parse(b []byte, info legacyInfo) (found lead, complete bool) {
	found = lead{}
	var (
		name string
		list []Rule
	)
	begin := func(chain string) {
		if name != "" {
			found[name] = sequence(list[:max(len(list)-1, 0)]) // the last one is the policy, or the return
		}
		name, list = chain, nil
	}
	for at := 0; at+y.length <= len(b); {
		for hook, chain := range kernelChains {
			if info.ValidHooks&(1<<hook) != 0 && int(info.HookEntry[hook]) == at {
				begin(chain)
			}
		}
		target, next := int(binary.NativeEndian.Uint16(b[at+y.targetOffset:])), int(binary.NativeEndian.Uint16(b[at+y.nextOffset:]))
		if target < y.length || next < target+partData || at+next > len(b) {
			return found, false
		}
		if chain, ok := chainHead(b[at+target : at+next]); ok {
			begin(chain)
			if Owned(chain) || at+next == int(info.Size) { // the table ends with an entry like a head
				return found, true
			}
		} else {
			list = append(list, Rule{Hash: string(hashAmong(b[at+y.length : at+target]))})
		}
		at += next
	}
	return found, false
}

// chainHead is the name of the chain that begins with an entry of this target.
func chainHead(target []byte) (name string, ok bool) {
	if string(cString(target[partName:partData-1])) != "ERROR" {
		return "", false
	}
	return string(cString(target[partData:])), true
}

// hashAmong finds felix's mark among matches.
func hashAmong(matches []byte) []byte {
	for len(matches) > partData {
		size := int(binary.NativeEndian.Uint16(matches))
		if size < partData || size > len(matches) {
			return nil
		}
		if string(cString(matches[partName:partData-1])) == "comment" {
			if hash := hashOf(matches[partData:size]); hash != nil {
				return hash
			}
		}
		matches = matches[size:]
	}
	return nil
}

func cString(b []byte) []byte {
	text, _, _ := bytes.Cut(b, []byte{0})
	return text
}

// familySocket opens a socket by which the kernel is asked about legacy tables of a family.
func familySocket(f rules.Family) (fd, level int, err error) {
	domain, level := unix.AF_INET, unix.IPPROTO_IP
	if f == rules.V6 {
		domain, level = unix.AF_INET6, unix.IPPROTO_IPV6
	}
	fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	return fd, level, err
}
