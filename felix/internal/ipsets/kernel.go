package ipsets

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/nlconn"
	"calico.internal/felix/internal/rules"
)

// Limits of one message: its members must fit into an attribute of 64 kB.
const maxPerMessage = 500

// Kernel is the connection to the kernel's IP sets that both targets share. It belongs
// to one goroutine.
type Kernel struct {
	conn *nlconn.Conn
	// families are those whose sets are felix's.
	families []rules.Family
	// sets is what felix's sets should look like from outside, as far as it is known.
	sets map[string]outside
	// calm is the sum of all headers when they were as they should be; it is not known once
	// something was written or read since.
	calm      uint64
	calmKnown bool
}

// seed is that of all sums of headers.
var seed = maphash.MakeSeed()

// outside is what a header shows of a set.
type outside struct {
	spec     Spec
	elements int
}

// Open connects to the kernel for the sets of some families. The error says what the kernel
// lacks.
func Open(families ...rules.Family) (*Kernel, error) {
	conn, err := nlconn.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	k := &Kernel{conn: conn, families: families, sets: map[string]outside{}}
	if _, _, err := k.headers(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("the kernel has no IP sets (module ip_set): %w", err)
	}
	return k, nil
}

// Close ends the connection; the sets stay.
func (k *Kernel) Close() { k.conn.Close() }

// headers lists felix's sets without their members, and gives the sum of all headers.
func (k *Kernel) headers() (map[string]header, uint64, error) {
	k.calmKnown = false
	out := map[string]header{}
	sum, err := k.listHeaders(out)
	return out, sum, err
}

// listHeaders returns the sum of the headers of all sets, and puts felix's into a map unless
// that is nil. It begins anew when they change under way.
func (k *Kernel) listHeaders(into map[string]header) (sum uint64, err error) {
	var hash maphash.Hash
	hash.SetSeed(seed)
	for range listTries {
		clear(into)
		hash.Reset()
		err := k.conn.Do(listRequest(""), func(body []byte) error {
			_, _ = hash.Write(body) // never fails
			if into == nil {
				return nil
			}
			if h := parseSet(body, nil); Owned(h.name) && slices.Contains(k.families, h.spec.Family) {
				into[h.name] = h
			}
			return nil
		})
		if errors.Is(err, nl.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("list sets: %w", setError(err))
		}
		return hash.Sum64(), nil
	}
	return 0, fmt.Errorf("list sets: %w", nl.ErrDumpInterrupted)
}

// listTries is how often a list is read again that changed while it was read.
const listTries = 5

// members lists one set.
func (k *Kernel) members(set string, member func(Member)) (header, error) {
	var h header
	err := k.conn.Do(listRequest(set), func(body []byte) error {
		part := parseSet(body, member)
		if h.name == "" {
			h = part
		}
		return nil
	})
	if err != nil {
		return header{}, fmt.Errorf("list set %s: %w", set, setError(err))
	}
	return h, nil
}

// Drifted reports whether felix's sets, seen from outside, are not what was written or
// read last. It costs one short dump, which is not even parsed while nothing happens, and
// another one when anybody's sets changed.
func (k *Kernel) Drifted() (bool, error) {
	if k.calmKnown {
		sum, err := k.listHeaders(nil)
		if err != nil {
			return false, err
		}
		if sum == k.calm {
			return false, nil
		}
	}
	now, sum, err := k.headers()
	if err != nil {
		return false, err
	}
	if len(now) != len(k.sets) {
		return true, nil
	}
	for name, h := range now {
		if want, ok := k.sets[name]; !ok || want.spec != h.spec || want.elements != int(h.elements) {
			return true, nil
		}
	}
	k.calm, k.calmKnown = sum, true
	return false, nil
}

func (k *Kernel) do(r nlconn.Request) error {
	k.calmKnown = false
	r.Flags |= unix.NLM_F_ACK
	return setError(k.conn.Do(r, nil))
}

func (k *Kernel) batch(reqs []nlconn.Request) ([]error, error) {
	k.calmKnown = false
	return k.conn.Batch(reqs)
}

// setError gives the kernel's private error numbers their names.
func setError(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) || errno < nl.IPSET_ERR_PRIVATE {
		return err
	}
	switch errno {
	case nl.IPSET_ERR_TYPE_SPECIFIC: // IPSET_ERR_HASH_FULL
		return errFull
	case nl.IPSET_ERR_BUSY, nl.IPSET_ERR_REFERENCED:
		return errInUse
	case nl.IPSET_ERR_FIND_TYPE:
		return errors.New("the kernel does not know this type of set")
	}
	return nl.IPSetError(errno)
}

var (
	errFull  = errors.New("the set is full")
	errInUse = errors.New("the set is in use")
	// errWrongType is returned for a set that exists with another type and cannot be
	// replaced.
	errWrongType = errors.New("a set of this name and another type is in use")
)

// absent reports that a set or a member is not there.
func absent(err error) bool { return errors.Is(err, unix.ENOENT) }
