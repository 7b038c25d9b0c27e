package resource

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// IPAMConfig reads how addresses are given out, and the revision of it, which is 0 when
// nobody has configured it.
func (s *Store) IPAMConfig(ctx context.Context) (*model.IPAMConfig, int64, error) {
	e, err := s.etcd.Get(ctx, model.IPAMConfigKey{})
	if errors.Is(err, etcdstore.ErrNotFound) {
		return &model.IPAMConfig{AutoAllocateBlocks: true}, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	return e.Value.(*model.IPAMConfig), e.Revision, nil
}

// ChangeIPAMConfig changes it; change is called again when somebody else does at the same
// time.
func (s *Store) ChangeIPAMConfig(ctx context.Context, change func(*model.IPAMConfig)) error {
	var others contest
	for {
		lost := s.changeIPAMConfig(ctx, change)
		if err := others.lost(ctx, lost); err != nil || lost == nil {
			return err
		}
	}
}

func (s *Store) changeIPAMConfig(ctx context.Context, change func(*model.IPAMConfig)) error {
	c, rev, err := s.IPAMConfig(ctx)
	if err != nil {
		return err
	}
	change(c)
	var w etcdstore.Write
	if rev == 0 {
		w, err = etcdstore.CreateWrite(model.IPAMConfigKey{}, c)
	} else {
		w, err = etcdstore.UpdateWrite(model.IPAMConfigKey{}, c, rev)
	}
	if err != nil {
		return err
	}
	return s.write(ctx, w)
}

// maxParts is how many pools a pool can be split into: as many as one transaction
// holds, with a margin.
const maxParts = 64

// Split is a pool and the pools that take its place.
type Split struct {
	Old   *model.IPPool
	Parts []*model.IPPool

	rev int64
}

// PlanSplit works out into what a pool is split. Nothing is written.
func (s *Store) PlanSplit(ctx context.Context, cidr netip.Prefix, parts int) (*Split, error) {
	if parts < 2 || parts&(parts-1) != 0 || parts > maxParts {
		return nil, fmt.Errorf("cannot split a pool into %d: the number must be a power of 2 from 2 to %d", parts, maxParts)
	}
	e, err := s.etcd.Get(ctx, model.IPPoolKey{CIDR: cidr})
	if errors.Is(err, etcdstore.ErrNotFound) {
		return nil, Missing(model.IPPoolKey{CIDR: cidr})
	}
	if err != nil {
		return nil, err
	}
	old := e.Value.(*model.IPPool)
	width := cidr.Bits() + bits.TrailingZeros(uint(parts))
	block := old.BlockSize
	if block == 0 {
		block = cidr.Addr().BitLen() - 6
	}
	if width > block {
		return nil, fmt.Errorf("cannot split pool %s into %d: each would be a /%d, smaller than its blocks (/%d)", cidr, parts, width, block)
	}
	split := &Split{Old: old, rev: e.Revision}
	part := netip.PrefixFrom(cidr.Addr(), width)
	for i := range parts {
		p := *old
		p.CIDR = part
		p.UID = ""
		if old.V3Name != "" {
			p.V3Name = fmt.Sprintf("split-%s-%d", old.V3Name, i)
		}
		split.Parts = append(split.Parts, &p)
		part = after(part)
	}
	return split, nil
}

// after is the range of the same size that follows.
func after(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	for i, carry := len(b)-1, 0; i >= 0; i-- {
		step := carry
		if i == (p.Bits()-1)/8 {
			step += 1 << (7 - (p.Bits()-1)%8)
		}
		sum := int(b[i]) + step
		b[i], carry = byte(sum), sum>>8
	}
	a, _ := netip.AddrFromSlice(b) // it has the length that it had
	return netip.PrefixFrom(a, p.Bits())
}

// Try fails as [Split.Do] would now because of the datastore.
func (sp *Split) Try(ctx context.Context, s *Store) error { return s.mayWrite(ctx) }

// Do puts the parts in the place of the pool, in one transaction, so that there is no
// moment without a pool; it fails when the pool has changed since it was planned.
// Blocks and addresses in use stay as they are.
func (sp *Split) Do(ctx context.Context, s *Store) error {
	remove, err := etcdstore.DeleteWrite(model.IPPoolKey{CIDR: sp.Old.CIDR}, sp.rev)
	writes := []etcdstore.Write{remove}
	errs := []error{err}
	for _, p := range sp.Parts {
		stamp(p, time.Now())
		w, err := etcdstore.CreateWrite(model.IPPoolKey{CIDR: p.CIDR}, p)
		writes, errs = append(writes, w), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.write(ctx, writes...)
}
