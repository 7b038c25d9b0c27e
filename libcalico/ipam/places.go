package ipam

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

const (
	// placesRenew is how old what is known of hosts' networks may be before it is read
	// again on the side. It changes seldom, and in a large cluster takes long to read.
	placesRenew = time.Minute
	// storedAtClaim and hostAtClaim are how old what the store and the host said may be
	// when a block is claimed, which is seldom, and for long.
	storedAtClaim = 10 * time.Minute
	hostAtClaim   = time.Second
	// resolveTimeout bounds the search for the addresses of etcd's endpoints.
	resolveTimeout = time.Second
)

// places remembers what hosts have taken for themselves: nodes and the store by what the
// store says, the host by what it says itself. It may be used by several goroutines.
type places struct {
	store  func(context.Context) ([]localnet.Place, error)
	host   func() ([]localnet.Place, error)
	routes func() ([]localnet.Route, error)

	mu             sync.Mutex
	stored, hosts  []localnet.Place
	storedAt, seen time.Time
	renewing       bool

	// routesMu keeps who asks for the host's routes from waiting for the store.
	routesMu sync.Mutex
	routed   *routesAnswer // the last, or the one that is awaited
}

// routesAnswer is what the host says of its routes. It may be read when done is closed.
type routesAnswer struct {
	asked  time.Time
	done   chan struct{}
	routes []localnet.Route
	err    error
}

func newPlaces(store func(context.Context) ([]localnet.Place, error)) *places {
	return &places{
		store: store, host: func() ([]localnet.Place, error) { return nil, nil },
		routes: func() ([]localnet.Route, error) { return nil, nil },
	}
}

// known is everything that is taken, by what was read last.
func (p *places) known(ctx context.Context) ([]localnet.Place, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.storedAt.IsZero() {
		return p.current(ctx, 0, 0)
	}
	if time.Since(p.storedAt) > placesRenew && !p.renewing {
		p.renewing = true
		go p.renew() //nolint:contextcheck // it is for the callers to come
	}
	return slices.Concat(p.stored, p.hosts), nil
}

// atClaim is everything that is taken, as it must be known when a block is claimed.
func (p *places) atClaim(ctx context.Context) ([]localnet.Place, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current(ctx, storedAtClaim, hostAtClaim)
}

// current reads what is older than these ages.
func (p *places) current(ctx context.Context, stored, host time.Duration) ([]localnet.Place, error) {
	if time.Since(p.storedAt) > stored {
		if err := p.read(ctx); err != nil {
			return nil, err
		}
	}
	if time.Since(p.seen) > host {
		hosts, err := p.host()
		if err != nil {
			return nil, err
		}
		p.hosts, p.seen = hosts, time.Now()
	}
	return slices.Concat(p.stored, p.hosts), nil
}

// currentRoutes are the host's routes, not too old. The kernel cannot be told to stop: who
// has no time left leaves, and the answer is for the next.
func (p *places) currentRoutes(ctx context.Context) ([]localnet.Route, error) {
	answer := p.askForRoutes()
	select {
	case <-answer.done:
		return answer.routes, answer.err
	case <-ctx.Done():
		return nil, fmt.Errorf("ask this host's kernel for its routes: no answer: %w", context.Cause(ctx))
	}
}

// askForRoutes asks for the routes if the last answer is too old, or was none, and nobody
// waits for another.
func (p *places) askForRoutes() *routesAnswer {
	p.routesMu.Lock()
	defer p.routesMu.Unlock()
	if p.routed != nil {
		select {
		case <-p.routed.done:
			if p.routed.err == nil && time.Since(p.routed.asked) <= hostAtClaim {
				return p.routed
			}
		default:
			return p.routed
		}
	}
	answer := &routesAnswer{asked: time.Now(), done: make(chan struct{})}
	p.routed = answer
	go func() {
		defer close(answer.done)
		answer.routes, answer.err = p.routes()
	}()
	return answer
}

// here lists the addresses of the host's containers, by its routes.
func (p *places) here(ctx context.Context) ([]netip.Addr, error) {
	routes, err := p.currentRoutes(ctx)
	if err != nil {
		return nil, err
	}
	out := []netip.Addr{}
	for _, r := range routes {
		if !r.Elsewhere && r.Prefix.IsSingleIP() {
			out = append(out, r.Prefix.Addr())
		}
	}
	return out, nil
}

// live says which of the blocks have containers, or are a node's, by the host's routes.
func (p *places) live(ctx context.Context, blocks []netip.Prefix) (map[netip.Prefix]bool, error) {
	if len(blocks) == 0 {
		return nil, nil
	}
	routes, err := p.currentRoutes(ctx)
	if err != nil {
		return nil, err
	}
	asked, sizes := map[netip.Prefix]bool{}, map[int]bool{}
	for _, b := range blocks {
		asked[b], sizes[b.Bits()] = true, true
	}
	out := map[netip.Prefix]bool{}
	for _, r := range routes {
		for bits := range sizes {
			if block, err := r.Prefix.Addr().Prefix(bits); err == nil && bits <= r.Prefix.Bits() && asked[block] {
				out[block] = true
			}
		}
	}
	return out, nil
}

func (p *places) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	stored, err := p.store(ctx)
	if err != nil {
		return err
	}
	p.stored, p.storedAt = stored, time.Now()
	return nil
}

// renew reads what the store says while others use what is known.
func (p *places) renew() {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	stored, err := p.store(ctx)
	hosts, hostErr := p.host()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.renewing = false
	if err == nil { // else the next caller tries again
		p.stored, p.storedAt = stored, time.Now()
	}
	if hostErr == nil {
		p.hosts, p.seen = hosts, time.Now()
	}
}

const nodesPrefix = model.PrefixBGP + "host/"

// places reads the addresses and networks of all nodes, each network once.
func (e etcd) places(ctx context.Context) ([]localnet.Place, error) {
	resp, err := e.txn(ctx, []clientv3.Op{clientv3.OpGet(nodesPrefix, clientv3.WithPrefix())})
	if err != nil {
		return nil, err
	}
	seen := map[netip.Prefix]bool{}
	var out []localnet.Place
	for _, kv := range resp.Responses[0].GetResponseRange().GetKvs() {
		p, what, ok := nodePlace(string(kv.Key), string(kv.Value))
		if ok && !seen[p] {
			seen[p] = true
			out = append(out, localnet.Place{Prefix: p, What: what})
		}
	}
	for _, a := range resolve(ctx, e.Endpoints()) {
		out = append(out, localnet.Place{Prefix: netip.PrefixFrom(a, a.BitLen()), What: "etcd"})
	}
	slices.SortStableFunc(out, func(a, b localnet.Place) int { return cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()) }) // networks before addresses in them
	return out, nil
}

// nodePlace is the address or network that a key of a node says.
func nodePlace(path, value string) (p netip.Prefix, what string, ok bool) {
	i := strings.LastIndexByte(path, '/')
	value = strings.TrimSpace(value)
	var err error
	switch path[i+1:] {
	case "ip_addr_v4", "ip_addr_v6":
		var a netip.Addr
		a, err = netip.ParseAddr(value)
		p, what = netip.PrefixFrom(a, a.BitLen()), "node "
	case "network_v4", "network_v6":
		p, err = netip.ParsePrefix(value)
		p, what = p.Masked(), "network of node "
	default:
		return p, "", false
	}
	if err != nil || !p.IsValid() {
		return p, "", false // it is reported where nodes are read
	}
	node, err := url.PathUnescape(path[len(nodesPrefix):i])
	if err != nil {
		node = path[len(nodesPrefix):i]
	}
	return p, what + node, true
}

// resolve finds the addresses of URLs. A name that cannot be resolved now has none.
func resolve(ctx context.Context, urls []string) []netip.Addr {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	var out []netip.Addr
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			continue
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil {
			out = append(out, a.Unmap())
			continue
		}
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
		if err != nil {
			continue
		}
		for _, a := range found {
			out = append(out, a.Unmap())
		}
	}
	return out
}
