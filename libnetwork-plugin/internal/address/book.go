// Package address keeps the book on this node's container addresses: which Docker has
// asked for, which belong to an endpoint, and which nobody needs any more.
//
// An address goes through three hands. Docker asks for it before it knows what for:
// then it is the node's, with the time. CreateEndpoint puts it on an endpoint: from then
// on endpoint and address are written, and removed, in one transaction, so that neither
// can be without the other. Docker's own release of the address comes afterwards and
// finds it gone already; if by then another container has it, it stays there.
//
// Both of Docker's drivers work on one book, as one process serves both.
package address

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/veth"
)

// ErrHeld says that another container has an address.
var ErrHeld = errors.New("address is in use")

// Links tells whether a container uses its pair of interfaces.
type Links interface {
	State(endpoint string) (veth.State, error)
	Remove(endpoint string) (bool, error)
}

// Book is the book of one node. It is safe for concurrent use.
type Book struct {
	ipam  *ipam.Client
	store *etcdstore.Client
	links Links
	node  string
	log   *slog.Logger
	now   func() time.Time
	mem   *memory

	// hand is held while an address changes hands without being fresh, so that two
	// looks at its owner and what follows from them cannot cross.
	hand sync.Mutex
}

// New returns the book of a node.
func New(pool *ipam.Client, store *etcdstore.Client, links Links, node string, log *slog.Logger) *Book {
	return &Book{
		ipam: pool, store: store, links: links, node: node, log: log,
		now: time.Now, mem: newMemory(time.Now),
	}
}

// Pick takes any free address of a family, from a range if one is given, else from
// whatever pool.
func (b *Book) Pick(ctx context.Context, v6 bool, within netip.Prefix, name string) (netip.Addr, error) {
	request := ipam.Request{IPv4: 1, Owner: b.asker(name)}
	if v6 {
		request.IPv4, request.IPv6 = 0, 1
	}
	if within.IsValid() {
		request.Within = []netip.Prefix{within}
	}
	addrs, err := b.ipam.AutoAssign(ctx, request)
	if err != nil {
		return netip.Addr{}, err
	}
	b.mem.ask(addrs[0])
	return addrs[0], nil
}

// Take takes one address that the user chose. If it is the address of an endpoint of
// this node that no container has any more, as after a crash, the endpoint is removed.
func (b *Book) Take(ctx context.Context, addr netip.Addr, name string) error {
	b.hand.Lock()
	defer b.hand.Unlock()
	err := b.ipam.Assign(ctx, addr, b.asker(name))
	if errors.Is(err, ipam.ErrInUse) {
		if err = b.wrest(ctx, addr); err == nil {
			err = b.ipam.Assign(ctx, addr, b.asker(name))
		}
	}
	if err != nil {
		return err
	}
	b.mem.ask(addr)
	return nil
}

// Bind writes an endpoint and makes it the owner of its addresses, together with what
// else is given, in one transaction. It returns the revision.
func (b *Book) Bind(ctx context.Context, key model.WorkloadEndpointKey, ep *model.WorkloadEndpoint,
	writes ...etcdstore.Write,
) (int64, error) {
	b.mem.touch(key.Name)
	addrs := endpoint.Addresses(ep)
	rev, err := b.ipam.SetOwner(ctx, addrs, b.owner(key, ep), writes...)
	if errors.Is(err, ipam.ErrNotAssigned) {
		// Docker has an address that the store has forgotten, as after a restored backup.
		if err = b.claim(ctx, addrs); err == nil {
			rev, err = b.ipam.SetOwner(ctx, addrs, b.owner(key, ep), writes...)
		}
	}
	if err != nil {
		return 0, explain(err)
	}
	for _, a := range addrs {
		b.mem.unask(a)
	}
	return rev, nil
}

// Unbind removes an endpoint and gives its addresses back, in one transaction. An
// endpoint that does not exist is removed already, or a restored store lacks it: that it
// ends is told then.
func (b *Book) Unbind(ctx context.Context, id string) error {
	key := endpoint.Key(b.node, id)
	entry, err := b.store.Get(ctx, key)
	if errors.Is(err, etcdstore.ErrNotFound) {
		err := errors.Join(b.tellEnd(ctx, key), b.ipam.ReleaseByHandle(ctx, id))
		b.mem.untouch(id)
		return err
	}
	if err != nil {
		return err
	}
	remove, err := etcdstore.DeleteWrite(key, 0)
	if err != nil {
		return err
	}
	if _, err := b.ipam.ReleaseOf(ctx, id, remove); err != nil {
		return err
	}
	b.mem.untouch(id)
	for _, a := range endpoint.Addresses(entry.Value.(*model.WorkloadEndpoint)) {
		b.mem.free(a)
	}
	return nil
}

// tellEnd leaves the deletion of an endpoint that the store does not have in the store's
// history: hosts that knew it, before the store was restored to an older state, keep it until
// they see that. An empty store is left as it is.
func (b *Book) tellEnd(ctx context.Context, key model.WorkloadEndpointKey) error {
	setUp, err := etcdstore.ExistsWrite(model.ReadyKey{})
	if err != nil {
		return err
	}
	ep := endpoint.New(key.Name, endpoint.DefaultMAC, netip.Addr{}, netip.Addr{})
	ep.State = "inactive"
	create, err := etcdstore.CreateWrite(key, ep)
	if err != nil {
		return err
	}
	rev, err := b.store.Commit(ctx, setUp, create)
	if err == nil {
		_, err = b.store.Delete(ctx, key, rev)
	}
	if errors.Is(err, etcdstore.ErrNotFound) {
		return nil
	}
	return err
}

// Release gives back an address that Docker releases on its own: one that came to no
// endpoint, or, long after the fact, one that went with its endpoint.
func (b *Book) Release(ctx context.Context, addr netip.Addr) error {
	if b.mem.unfree(addr) {
		return nil
	}
	b.hand.Lock()
	defer b.hand.Unlock()
	if !b.mem.unask(addr) {
		keep, err := b.mustKeep(ctx, addr)
		if err != nil || keep {
			return err
		}
	}
	_, err := b.ipam.Release(ctx, addr)
	return err
}

// Touch notes that Docker deals with an endpoint at the moment.
func (b *Book) Touch(endpoint string) { b.mem.touch(endpoint) }

// Busy reports whether Docker may be in the middle of something with an endpoint, whose
// absence from the engine's lists then means nothing.
func (b *Book) Busy(endpoint string) bool { return b.mem.touchedLately(endpoint) }

// Asked reports whether Docker is about to put an address on an endpoint.
func (b *Book) Asked(addr netip.Addr) bool { return b.mem.askedLately(addr) }

// asker is the owner of an address that Docker has asked for: this node, at this time,
// which ipam adds. It has no handle yet: an endpoint can become the owner only of what
// is not another's.
func (b *Book) asker(name string) ipam.Owner {
	if name == "" {
		return ipam.Owner{}
	}
	return ipam.Owner{Attrs: map[string]string{ipam.AttrContainer: name}}
}

// owner is an endpoint as the owner of its addresses; the time stays that at which
// Docker asked for them.
func (b *Book) owner(key model.WorkloadEndpointKey, ep *model.WorkloadEndpoint) ipam.Owner {
	attrs := map[string]string{ipam.AttrEndpoint: key.Name}
	for attr, annotation := range map[string]string{
		ipam.AttrNetwork: endpoint.Network, ipam.AttrContainer: endpoint.ContainerName,
	} {
		if v := ep.Annotations[annotation]; v != "" {
			attrs[attr] = v
		}
	}
	return ipam.Owner{Handle: key.Name, Attrs: attrs}
}

// claim makes sure that addresses are assigned, to whomever.
func (b *Book) claim(ctx context.Context, addrs []netip.Addr) error {
	for _, a := range addrs {
		if err := b.ipam.Assign(ctx, a, b.asker("")); err != nil && !errors.Is(err, ipam.ErrInUse) {
			return err
		}
	}
	return nil
}

// wrest makes an address free that somebody of this node has left behind. Any other
// owner keeps it.
func (b *Book) wrest(ctx context.Context, addr netip.Addr) error {
	who, err := b.ipam.Lookup(ctx, addr)
	if errors.Is(err, ipam.ErrNotAssigned) {
		return nil
	}
	if err != nil {
		return err
	}
	if who.Attrs[ipam.AttrNode] != b.node {
		return held(addr, who)
	}
	id := who.Attrs[ipam.AttrEndpoint]
	if id == "" {
		if b.mem.askedLately(addr) || b.young(who) {
			return held(addr, who)
		}
		_, err := b.ipam.Release(ctx, addr)
		return err
	}
	dead, err := b.dead(id)
	if err != nil {
		return err
	}
	if !dead {
		return held(addr, who)
	}
	b.log.Info("address taken from an endpoint that no container has", logattr.Addr, addr, logattr.Endpoint, id)
	return b.Bury(ctx, id)
}

// Bury removes all that is left of an endpoint that no container has.
func (b *Book) Bury(ctx context.Context, id string) error {
	if _, err := b.links.Remove(id); err != nil {
		return err
	}
	return b.Unbind(ctx, id)
}

// dead reports whether an endpoint of this node belongs to no container: none holds
// the far end of its pair, and Docker is not dealing with it.
func (b *Book) dead(id string) (bool, error) {
	if b.mem.touchedLately(id) {
		return false, nil
	}
	state, err := b.links.State(id)
	return state != veth.InUse, err
}

// young reports whether Docker may still put an address on an endpoint that it asked
// for before this process started.
func (b *Book) young(who ipam.Owner) bool {
	since, err := time.Parse(time.RFC3339, who.Attrs[ipam.AttrTimestamp])
	return err == nil && b.now().Sub(since) < settle
}

// mustKeep decides about an address that Docker releases and that this process knows
// nothing of: it is kept for an endpoint that exists, and for other nodes.
func (b *Book) mustKeep(ctx context.Context, addr netip.Addr) (bool, error) {
	who, err := b.ipam.Lookup(ctx, addr)
	if errors.Is(err, ipam.ErrNotAssigned) || errors.Is(err, ipam.ErrNotInPool) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	node, id := who.Attrs[ipam.AttrNode], who.Attrs[ipam.AttrEndpoint]
	if node != "" && node != b.node {
		b.log.Warn("address not released: another node has it", logattr.Addr, addr, logattr.Node, node)
		return true, nil
	}
	if id == "" {
		return false, nil
	}
	_, err = b.store.Get(ctx, endpoint.Key(b.node, id))
	if errors.Is(err, etcdstore.ErrNotFound) {
		return false, nil
	}
	if err == nil {
		b.log.Warn("address not released: an endpoint has it", logattr.Addr, addr, logattr.Endpoint, id)
	}
	return true, err
}

// held words that an address has an owner.
func held(addr netip.Addr, who ipam.Owner) error {
	switch node, id := who.Attrs[ipam.AttrNode], who.Attrs[ipam.AttrEndpoint]; {
	case id != "":
		return fmt.Errorf("%s: %w by endpoint %s on node %s", addr, ErrHeld, id, node)
	case node != "":
		return fmt.Errorf("%s: %w by a container that is being started on node %s", addr, ErrHeld, node)
	default:
		return fmt.Errorf("%s: %w; `calicoctl ipam show --ip=%s` tells by whom", addr, ErrHeld, addr)
	}
}

// explain words an error that names an address's owner.
func explain(err error) error {
	if inUse := (*ipam.InUseError)(nil); errors.As(err, &inUse) {
		return held(inUse.Addr, inUse.Owner)
	}
	return err
}
