package ipam

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"calico.internal/libcalico/model"
)

// looks is what the searches of a family that are under way have read, so that calls which
// search different parts of a full pool need not all read the pool. A search uses what was
// asked for after it began itself: it might have read the same.
type looks struct {
	mu     sync.Mutex
	rooms  map[netip.Prefix]roomLook
	listed []netip.Prefix
	at     time.Time // when the list was asked for
}

// roomLook is a block as [backend.room] gives it; without a revision there was none.
type roomLook struct {
	stored stored
	at     time.Time // when it was asked for
}

// looksOf is what the searches of a family have read.
func (q *queue) looksOf(ipv6 bool) *looks {
	if q.looks[ipv6] == nil {
		q.looks[ipv6] = &looks{rooms: map[netip.Prefix]roomLook{}}
	}
	return q.looks[ipv6]
}

// forgetLooks drops what searches have read of the families of which none is under way, nor
// about to be.
func (q *queue) forgetLooks() {
	for family := range q.looks {
		if q.searching[family] == 0 && len(q.behind[family]) == 0 {
			delete(q.looks, family)
		}
	}
}

// room is that of the backend, which is asked for what was not read since then.
func (l *looks) room(since time.Time, blocks []netip.Prefix, read func([]netip.Prefix) (known, error)) (known, error) {
	out := known{}
	missing := l.recall(since, blocks, out)
	if len(missing) == 0 {
		return out, nil
	}
	at := time.Now()
	found, err := read(missing)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, cidr := range missing {
		k := model.BlockKey{CIDR: cidr}
		s, there := found[k]
		if l.rooms[cidr] = (roomLook{s, at}); there {
			out[k] = s
		}
	}
	return out, nil
}

// recall adds what was read since then to out, and returns which blocks were not.
func (l *looks) recall(since time.Time, blocks []netip.Prefix, out known) (missing []netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, cidr := range blocks {
		switch have := l.rooms[cidr]; {
		case have.at.Before(since):
			missing = append(missing, cidr)
		case have.stored.rev != 0:
			out[model.BlockKey{CIDR: cidr}] = have.stored
		}
	}
	return missing
}

// all is all blocks of the family, which read is asked for if that was not done since then.
func (l *looks) all(since time.Time, read func() ([]netip.Prefix, error)) ([]netip.Prefix, error) {
	l.mu.Lock()
	listed, at := l.listed, l.at
	l.mu.Unlock()
	if !at.Before(since) && !at.IsZero() {
		return slices.Clone(listed), nil
	}
	at = time.Now()
	listed, err := read()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listed, l.at = listed, at
	return slices.Clone(listed), nil
}
