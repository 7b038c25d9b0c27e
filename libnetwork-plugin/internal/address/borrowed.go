package address

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/logattr"
)

// borrowedFile is where the blocks stand, one a line.
const borrowedFile = "borrowed_blocks"

// borrowedGrace is how long a block is remembered at least: longer than it can take until
// what was begun with it is done in etcd, or will never be.
const borrowedGrace = time.Minute

// Borrowed remembers in which blocks of other nodes this node may have addresses, also after
// a restart. Nobody else could tell without reading all blocks of the cluster. A block is
// noted before an address of it is given out, and forgotten when none is there any more.
type Borrowed struct {
	dir string
	log *slog.Logger
	now func() time.Time

	mu sync.Mutex
	// noted is when an address of a block was last about to be given out.
	noted map[netip.Prefix]time.Time
}

// OpenBorrowed reads what was remembered in a folder. What cannot be read is not known.
func OpenBorrowed(dir string, log *slog.Logger) *Borrowed {
	b := &Borrowed{dir: dir, log: log, now: time.Now, noted: map[netip.Prefix]time.Time{}}
	text, err := os.ReadFile(filepath.Join(dir, borrowedFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("not known which blocks addresses were borrowed from", logattr.Err, err)
	}
	for line := range strings.Lines(string(text)) {
		block, err := netip.ParsePrefix(strings.TrimSpace(line))
		if err != nil {
			log.Warn("ignored a block from which addresses were borrowed", logattr.Err, err)
			continue
		}
		b.noted[block] = b.now()
	}
	return b
}

// Note remembers a block. A disk that cannot be written is no reason to refuse an address:
// until the next restart the block is known all the same.
func (b *Borrowed) Note(block netip.Prefix) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, known := b.noted[block]
	if b.noted[block] = b.now(); !known {
		b.write()
	}
}

// write replaces the file.
func (b *Borrowed) write() {
	var text bytes.Buffer
	for _, block := range slices.SortedFunc(maps.Keys(b.noted), netip.Prefix.Compare) {
		text.WriteString(block.String() + "\n")
	}
	if err := hostrecord.Keep(b.dir, borrowedFile, text.Bytes()); err != nil {
		b.log.Warn("not remembered which blocks addresses were borrowed from", logattr.Err, err)
	}
}

// holdings lists the addresses that the node has in these blocks, and forgets the blocks in
// which it has none. What is in the damaged ones is not known.
func (b *Borrowed) holdings(ctx context.Context, pool *ipam.Client, node string) (held []ipam.Holding, damaged []netip.Prefix, err error) {
	b.mu.Lock()
	blocks := slices.Collect(maps.Keys(b.noted))
	b.mu.Unlock()
	if len(blocks) == 0 {
		return nil, nil, nil
	}
	held, damaged, err = pool.Borrowed(ctx, node, blocks)
	if err != nil {
		return nil, nil, err
	}
	b.forget(slices.DeleteFunc(blocks, func(p netip.Prefix) bool { return slices.Contains(damaged, p) }), held)
	return held, damaged, nil
}

// forget drops those of some blocks in which nothing is held, and nothing may be about to.
func (b *Borrowed) forget(blocks []netip.Prefix, holdings []ipam.Holding) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := len(b.noted)
	for _, block := range blocks {
		held := slices.ContainsFunc(holdings, func(h ipam.Holding) bool { return h.Block == block })
		if !held && b.now().Sub(b.noted[block]) > borrowedGrace {
			delete(b.noted, block)
		}
	}
	if len(b.noted) < before {
		b.write()
	}
}
