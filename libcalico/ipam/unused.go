package ipam

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"calico.internal/libcalico/model"
)

// HeldError says which endpoint has an address. It Is [ErrInUse].
type HeldError struct {
	Addr     netip.Addr
	Endpoint model.WorkloadEndpointKey
	// Owner is who has the address according to its block.
	Owner Owner
}

// Error names the address, the endpoint and, as far as it is known, the container.
func (e *HeldError) Error() string {
	text := fmt.Sprintf("address %s is that of endpoint %s on node %s", e.Addr, e.Endpoint.Name, e.Endpoint.Node)
	if e.Owner.Attrs[AttrEndpoint] != e.Endpoint.Name {
		return text
	}
	if name := e.Owner.Attrs[AttrContainer]; name != "" {
		text += ", container " + name
	}
	if name := e.Owner.Attrs[AttrNetwork]; name != "" {
		text += ", network " + name
	}
	return text
}

// Unwrap returns [ErrInUse].
func (e *HeldError) Unwrap() error { return ErrInUse }

// ReleaseUnused frees an address because an operator says that nothing uses it
// ([ErrNotAssigned] if it is free). One that an endpoint has is refused ([*HeldError])
// unless it is forced. It is not done while the store is locked ([etcdstore.ErrLocked]),
// nor if the address came to somebody else meanwhile.
func (c *Client) ReleaseUnused(ctx context.Context, addr netip.Addr, force Force) error {
	addr = addr.Unmap()
	owner, err := c.Lookup(ctx, addr)
	if err != nil {
		return err
	}
	if force != Forced {
		holder, found, err := c.holderOf(ctx, addr)
		if err != nil {
			return fmt.Errorf("look for the endpoint of %s: %w", addr, err)
		}
		if found {
			return &HeldError{Addr: addr, Endpoint: holder, Owner: owner}
		}
	}
	r, err := c.whileOpen(ctx, &release{addrs: []netip.Addr{addr}, only: &owner})
	if err != nil {
		return fmt.Errorf("release %s: %w", addr, err)
	}
	if len(r.freed) == 0 {
		return fmt.Errorf("release %s: its owner has changed meanwhile; look again: %w", addr, ErrBusy)
	}
	return nil
}

// holderOf finds an endpoint that has an address, in the whole store: what a block says
// may be out of date. Only the endpoints that name the address are decoded.
func (c *Client) holderOf(ctx context.Context, addr netip.Addr) (holder model.WorkloadEndpointKey, found bool, err error) {
	isAddr := func(n netip.Prefix) bool { return n.Addr() == addr }
	named := []byte(`"` + addr.String())
	_, _, err = c.backend.each(ctx, model.ListPrefixes(model.KindWorkloadEndpoint), func(kv *mvccpb.KeyValue) {
		if found || addr.Is4() && !bytes.Contains(kv.Value, named) {
			return
		}
		path := string(kv.Key)
		k, ok := model.ParsePath(path)
		if !ok || k.Kind() != model.KindWorkloadEndpoint {
			return
		}
		ep, _ := decode(k, path, kv.Value).(*model.WorkloadEndpoint)
		if ep != nil && slices.ContainsFunc(slices.Concat(ep.IPv4Nets, ep.IPv6Nets), isAddr) {
			holder, found = k.(model.WorkloadEndpointKey), true
		}
	})
	return holder, found, err
}
