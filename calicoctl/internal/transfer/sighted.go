package transfer

import (
	"hash/maphash"
	"net/netip"

	"calico.internal/libcalico/model"
)

// sighted are texts that were seen, by their hashes alone: there may be hundreds of thousands.
// The zero value has seen none.
type sighted struct {
	seed   maphash.Seed
	hashes map[uint64]struct{}
}

func (s *sighted) add(text string) {
	if s.hashes == nil {
		s.seed, s.hashes = maphash.MakeSeed(), map[uint64]struct{}{}
	}
	s.hashes[maphash.String(s.seed, text)] = struct{}{}
}

func (s *sighted) has(text string) bool {
	if s.hashes == nil {
		return false
	}
	_, ok := s.hashes[maphash.String(s.seed, text)]
	return ok
}

// addStored notes an endpoint or a block that is stored. Other resources have no end of their
// own: a container ends, also while an import holds the lock.
func (s *sighted) addStored(k model.Key) {
	if ends(k) {
		s.add(model.Paths(k)[0])
	}
}

// ended says whether a resource that is not stored was.
func (s *sighted) ended(k model.Key) bool { return ends(k) && s.has(model.Paths(k)[0]) }

func ends(k model.Key) bool {
	return k.Kind() == model.KindWorkloadEndpoint || k.Kind() == model.KindBlock
}

// addInUse notes addresses that are in use, and wasInUse says whether one is of them.
func (s *sighted) addInUse(addrs []netip.Addr) {
	for _, a := range addrs {
		s.add(a.String())
	}
}

func (s *sighted) wasInUse(a netip.Addr) bool { return s.has(a.String()) }
