package iptables

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/nlconn"
	"calico.internal/felix/internal/rules"
)

// ledger tells cheaply whether anybody else has written to a table.
type ledger interface {
	// read is the number by which the kernel would show a write of somebody else since
	// the last one. known is false when a write of felix's own is under way, so that
	// nothing can be said at the moment.
	read() (m mark, known bool, err error)
	// write wraps one own write to a table whose mark was old, and which changes the number
	// of entries as given. The new mark is not sure when somebody else may have written at
	// the same moment.
	write(old mark, entries int, do func() error) (m mark, sure bool, err error)
	// agrees reports whether the table, as the last write left it, may be as in contents.
	agrees(c contents) bool
	close()
}

// mark is the kernel's fingerprint of a table.
type mark struct {
	generation uint32
	info       legacyInfo
	// hooks is a digest of the order of rules in chains with hooks.
	hooks [sha256.Size]byte
}

// legacyInfo is struct ipt_getinfo (and ip6t_getinfo) of the kernel, which
// IPT_SO_GET_INFO fills in 3 µs.
type legacyInfo struct {
	Name       [32]byte
	ValidHooks uint32
	HookEntry  [5]uint32
	Underflow  [5]uint32
	Entries    uint32
	Size       uint32
}

// bare reports that the table has no rules and no chains but those with hooks, each of which is
// an entry, as the end of the table is one. It says nothing of nf_tables.
func (i legacyInfo) bare() bool {
	return int(i.Entries) == bits.OnesCount32(i.ValidHooks)+1 && i.Entries > 1
}

// soGetInfo is IPT_SO_GET_INFO and IP6T_SO_GET_INFO.
const soGetInfo = 64

// legacyLedger reads one legacy table's fingerprint.
type legacyLedger struct {
	fd, level int
	name      [32]byte
	watch     *lockWatch
	// lead is the beginning of the table when it was last read, with this information and
	// after so many turns of the lock.
	lead  lead
	hooks [sha256.Size]byte
	seen  legacyInfo
	turns uint64
}

func newLegacyLedger(f rules.Family, t rules.Table, watch *lockWatch) (*legacyLedger, error) {
	fd, level, err := familySocket(f)
	if err != nil {
		return nil, fmt.Errorf("open raw socket to read the fingerprint of table %s: %w", t, err)
	}
	l := &legacyLedger{fd: fd, level: level, watch: watch}
	copy(l.name[:len(l.name)-1], t)
	return l, nil
}

func (l *legacyLedger) close() { _ = unix.Close(l.fd) }

func (l *legacyLedger) read() (mark, bool, error) {
	if err := undisturbed(unix.EAGAIN, l.look); err != nil {
		return mark{}, false, err
	}
	return mark{info: l.seen, hooks: l.hooks}, true, nil
}

// look reads the table's numbers, and its beginning when that may have changed.
func (l *legacyLedger) look() error {
	turns := l.watch.turns()
	info, err := l.info()
	if err != nil {
		return err
	}
	if l.lead != nil && info == l.seen && turns == l.turns {
		return nil
	}
	if l.lead, err = l.readLead(info); err != nil {
		return err
	}
	l.seen, l.turns, l.hooks = info, turns, l.lead.hooks()
	return nil
}

func (l *legacyLedger) info() (legacyInfo, error) {
	info := legacyInfo{Name: l.name}
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(l.fd), uintptr(l.level), soGetInfo,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return legacyInfo{}, fmt.Errorf("read fingerprint of legacy table: %w", errno)
	}
	return info, nil
}

// write takes the fingerprint before and after. The first shows whether somebody else wrote
// since the table was read, the number of entries and the order of hooks whether somebody
// wrote at the same moment.
func (l *legacyLedger) write(old mark, entries int, do func() error) (mark, bool, error) {
	before, _, err := l.read()
	if err != nil {
		return mark{}, false, err
	}
	if err := do(); err != nil {
		return mark{}, false, err
	}
	after, sure, err := l.read()
	if err != nil {
		// The write is done; only its mark is unknown.
		return mark{}, false, nil
	}
	return after, sure && before == old && int(after.info.Entries)-int(before.info.Entries) == entries, nil
}

func (l *legacyLedger) agrees(c contents) bool { return l.lead.agrees(c) }

// nftLedger follows the generation of nf_tables in this network namespace, which each
// transaction of anybody increases by one, and takes felix's own ones off. All
// tables share it.
type nftLedger struct {
	mu      sync.Mutex
	conn    *nlconn.Conn
	own     uint32
	writing int
}

func newNFTLedger() (*nftLedger, error) {
	conn, err := nlconn.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	return &nftLedger{conn: conn}, nil
}

func (l *nftLedger) read() (mark, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writing > 0 {
		return mark{}, false, nil
	}
	g, err := l.generation()
	return mark{generation: g - l.own}, err == nil, err
}

// write counts an own transaction; the mark stays what it was.
func (l *nftLedger) write(old mark, _ int, do func() error) (mark, bool, error) {
	l.mu.Lock()
	l.writing++
	l.mu.Unlock()
	err := do()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writing--
	if err == nil {
		l.own++
	}
	return old, true, err
}

func (l *nftLedger) agrees(contents) bool { return true }

// close does nothing: the ledger is shared and lives as long as its [Targets].
func (l *nftLedger) close() {}

// generation asks the kernel for the number of nf_tables' present generation.
func (l *nftLedger) generation() (uint32, error) {
	var (
		generation uint32
		found      bool
	)
	err := l.conn.Do(nlconn.Request{
		Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN,
		Body: nlconn.Netfilter(unix.AF_UNSPEC),
	}, func(body []byte) error {
		nlconn.Attrs(body[min(nlconn.NetfilterHeader, len(body)):], func(typ uint16, value []byte) {
			if typ == unix.NFTA_GEN_ID && len(value) >= 4 {
				generation, found = binary.BigEndian.Uint32(value), true
			}
		})
		return nil
	})
	if err == nil && !found {
		err = errors.New("the kernel gave none")
	}
	if err != nil {
		return 0, fmt.Errorf("read generation of nf_tables: %w", err)
	}
	return generation, nil
}
