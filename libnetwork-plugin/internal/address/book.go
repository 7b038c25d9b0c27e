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
	"slices"
	"sync"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/liveness"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/veth"
	"calico.internal/libnetwork-plugin/internal/zone"
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
	host  model.Identity
	log   *slog.Logger
	now   func() time.Time
	mem   *memory
	open  *unfinished
	// borrowed is where the node may have addresses outside of its own blocks.
	borrowed *Borrowed

	// hands holds an address while it changes hands without being fresh, so that two
	// looks at its owner and what follows from them cannot cross.
	hands hands

	damagedMu sync.Mutex
	// damaged are the blocks that were damaged when the addresses were last listed.
	damaged []netip.Prefix
}

// On says which host the book is kept on, for [Book.Sole].
func (b *Book) On(host model.Identity) *Book {
	b.host = host
	return b
}

// Sole makes sure that the node's name is this host's alone. What this host does not know may
// be in use on another one that has the name; it must not be removed then. The error is a
// [*liveness.TakenError].
func (b *Book) Sole(ctx context.Context) error {
	_, err := b.sole(ctx)
	return err
}

// sole is Sole, with the conditions that it is still so, for the transaction that removes.
func (b *Book) sole(ctx context.Context) ([]etcdstore.Write, error) {
	return liveness.Sole(ctx, b.store, b.node, b.host)
}

// New returns the book of a node. borrowed is told by pool ([ipam.Borrowing]).
func New(pool *ipam.Client, borrowed *Borrowed, store *etcdstore.Client, links Links, node string, log *slog.Logger) *Book {
	return &Book{
		ipam: pool, borrowed: borrowed, store: store, links: links, node: node, log: log,
		now: time.Now, mem: newMemory(time.Now), open: newUnfinished(),
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
	b.given(addrs[0])
	if err := context.Cause(ctx); err != nil { // nobody hears of it any more
		b.mem.unask(addrs[0])
		b.open.addAddr(addrs[0])
		return netip.Addr{}, err
	}
	return addrs[0], nil
}

// Take takes one address that the user chose. If it is the address of an endpoint of
// this node that no container has any more, as after a crash, the endpoint is removed.
func (b *Book) Take(ctx context.Context, addr netip.Addr, name string) error {
	done, err := b.hands.take(ctx, addr)
	if err != nil {
		return err
	}
	defer done()
	err = b.ipam.Assign(ctx, addr, b.asker(name))
	if errors.Is(err, ipam.ErrInUse) {
		if err = b.wrest(ctx, addr); err == nil {
			err = b.ipam.Assign(ctx, addr, b.asker(name))
		}
	}
	if err != nil {
		return err
	}
	b.given(addr)
	return nil
}

// given notes that Docker has an address.
func (b *Book) given(addr netip.Addr) {
	b.open.keepAddr(addr)
	b.mem.ask(addr)
}

// Bind writes an endpoint and makes it the owner of its addresses, together with what
// else is given, in one transaction. It returns the revision.
func (b *Book) Bind(ctx context.Context, key model.WorkloadEndpointKey, ep *model.WorkloadEndpoint,
	writes ...etcdstore.Write,
) (int64, error) {
	b.mem.touch(key.Name)
	if !b.open.keepEndpoint(key.Name) {
		return 0, errBeingRemoved
	}
	addrs := endpoint.Addresses(ep)
	for _, a := range addrs {
		// From here on an endpoint may have it, whatever the answer: a release must look.
		b.mem.unask(a)
	}
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
	return rev, nil
}

// Note writes what was learned of an endpoint since it was bound, as long as its addresses are
// its own. It takes none and brings nothing back: the endpoint may be removed at the moment.
func (b *Book) Note(ctx context.Context, key model.WorkloadEndpointKey, ep *model.WorkloadEndpoint, writes ...etcdstore.Write) error {
	_, err := b.ipam.SetOwner(ctx, endpoint.Addresses(ep), b.owner(key, ep), writes...)
	return explain(err)
}

// Unbind removes an endpoint and gives its addresses back, in one transaction. An
// endpoint that does not exist is removed already, or a restored store lacks it: that it
// ends is told then. Docker releases the addresses once more, each on its own.
func (b *Book) Unbind(ctx context.Context, id string) error {
	addrs, err := b.unbind(ctx, id)
	for _, a := range addrs {
		b.mem.free(a)
	}
	return err
}

// unbind does the work of Unbind, if the conditions hold, and returns the addresses that the
// endpoint had.
func (b *Book) unbind(ctx context.Context, id string, still ...etcdstore.Write) (addrs []netip.Addr, err error) {
	for range attempts {
		addrs, err = b.unbindOnce(ctx, id, still...)
		if !changed(err, endpoint.Key(b.node, id)) {
			break
		}
	}
	return addrs, err
}

// attempts is how often an endpoint that others write at the same time is read again.
const attempts = 10

// changed reports whether an error is that a resource is not as it was read.
func changed(err error, key model.Key) bool {
	conflict := (*etcdstore.ConflictError)(nil)
	return errors.As(err, &conflict) && slices.Contains(conflict.Keys, key)
}

func (b *Book) unbindOnce(ctx context.Context, id string, still ...etcdstore.Write) ([]netip.Addr, error) {
	key := endpoint.Key(b.node, id)
	entry, err := b.store.Get(ctx, key)
	if errors.Is(err, etcdstore.ErrNotFound) {
		_, err := b.ipam.ReleaseOf(ctx, id, still...)
		err = errors.Join(b.tellEnd(ctx, key), err)
		b.mem.untouch(id)
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	ep := entry.Value.(*model.WorkloadEndpoint)
	writes := slices.Clone(still)
	// With other names than those that were read, these would stay.
	remove, err := etcdstore.DeleteWrite(key, entry.Revision)
	if err != nil {
		return nil, err
	}
	writes = append(writes, remove)
	for _, k := range nameKeys(key, ep) {
		remove, err := etcdstore.DeleteWrite(k, 0)
		if err != nil {
			return nil, err
		}
		writes = append(writes, remove)
	}
	if _, err := b.ipam.ReleaseOf(ctx, id, writes...); err != nil {
		return nil, err
	}
	b.mem.untouch(id)
	return endpoint.Addresses(ep), nil
}

// nameKeys lists the keys of an endpoint's names.
func nameKeys(key model.WorkloadEndpointKey, ep *model.WorkloadEndpoint) []model.Key {
	var keys []model.Key
	for _, k := range zone.Gone(key, ep, nil) {
		keys = append(keys, k)
	}
	return keys
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
// endpoint, or, long after the fact, one that went with its endpoint. Docker does not ask
// a second time: what fails is tried again until it is done.
func (b *Book) Release(ctx context.Context, addr netip.Addr) error {
	if b.mem.unfree(addr) {
		return nil
	}
	err := b.release(ctx, addr)
	if err != nil {
		b.open.addAddr(addr)
	}
	return err
}

// release frees an address if it is nobody's any more, as long as it still has the owner
// that was looked at.
func (b *Book) release(ctx context.Context, addr netip.Addr) error {
	done, err := b.hands.take(ctx, addr)
	if err != nil {
		return err
	}
	defer done()
	asked := b.mem.unask(addr)
	who, err := b.ipam.Lookup(ctx, addr)
	if errors.Is(err, ipam.ErrNotAssigned) || errors.Is(err, ipam.ErrNotInPool) {
		return nil
	}
	if err != nil {
		return err
	}
	if !asked {
		keep, err := b.mustKeep(ctx, addr, who)
		if err != nil || keep {
			return err
		}
	}
	return b.free(ctx, addr, who)
}

// free frees an address, unless it has another owner by then, if the conditions hold.
func (b *Book) free(ctx context.Context, addr netip.Addr, who ipam.Owner, still ...etcdstore.Write) error {
	return b.ipam.ReleaseHeld(ctx, []ipam.Holding{{Addr: addr, Owner: who}}, still...)
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
		if err := b.ipam.Keep(ctx, a, b.asker("")); err != nil && !errors.Is(err, ipam.ErrInUse) {
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
		return b.free(ctx, addr, who)
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

// Bury removes all that is left of an endpoint that no container has. Docker knows nothing of
// it, and will not release its addresses: a release that comes is of who took one since.
func (b *Book) Bury(ctx context.Context, id string) error {
	still, err := b.sole(ctx)
	if err != nil {
		return err
	}
	if _, err := b.links.Remove(id); err != nil {
		return err
	}
	_, err = b.unbind(ctx, id, still...)
	return err
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
	return err == nil && b.now().Sub(since) < Settle
}

// mustKeep decides about an address that Docker releases and that this process knows
// nothing of: it is kept for an endpoint that exists, and for other nodes.
func (b *Book) mustKeep(ctx context.Context, addr netip.Addr, who ipam.Owner) (bool, error) {
	node, id := who.Attrs[ipam.AttrNode], who.Attrs[ipam.AttrEndpoint]
	if node != "" && node != b.node {
		b.log.Warn("address not released: another node has it", logattr.Addr, addr, logattr.Node, node)
		return true, nil
	}
	if id == "" {
		return false, nil
	}
	_, err := b.store.Get(ctx, endpoint.Key(b.node, id))
	if errors.Is(err, etcdstore.ErrNotFound) {
		return false, nil
	}
	if err == nil && !b.open.released(id, addr) {
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
