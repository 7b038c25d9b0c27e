// Package ipam is Docker's IPAM driver "calico-ipam": it gives containers addresses out
// of Calico's pools.
package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	docker "github.com/docker/go-plugins-helpers/ipam"

	"calico.internal/libnetwork-plugin/internal/address"
	"calico.internal/libnetwork-plugin/internal/httpapi"
)

// Name is how Docker's users call the driver.
const Name = "calico-ipam"

// The address spaces, by which the network driver knows its sister's addresses.
const (
	localSpace  = "CalicoLocalAddressSpace"
	globalSpace = "CalicoGlobalAddressSpace"
)

// OwnSpace reports whether addresses of a space come from this driver.
func OwnSpace(space string) bool { return space == localSpace || space == globalSpace }

// The keys and values of Docker's options.
const (
	optionType   = "RequestAddressType"
	typeGateway  = "com.docker.network.gateway"
	optionName   = "com.docker.network.endpoint.name"
	dataGateway  = "com.docker.network.gateway"
	gatewayIPv4  = "169.254.1.1/32"
	gatewayIPv6  = "::/0"
	everyAddress = "0.0.0.0/0"
)

// Pools lists the ranges from which addresses can be given out.
type Pools interface {
	Enabled(ctx context.Context) ([]netip.Prefix, error)
}

// Driver answers Docker's calls.
type Driver struct {
	book  *address.Book
	pools Pools
	// nameservers lists those of the host.
	nameservers func() []netip.Addr
}

// New returns a driver.
func New(book *address.Book, pools Pools, nameservers func() []netip.Addr) *Driver {
	return &Driver{book: book, pools: pools, nameservers: nameservers}
}

// Register makes the server answer the driver's calls.
func (d *Driver) Register(s *httpapi.Server) {
	httpapi.Handle(s, "IpamDriver.GetCapabilities", d.GetCapabilities)
	httpapi.Handle(s, "IpamDriver.GetDefaultAddressSpaces", d.GetDefaultAddressSpaces)
	httpapi.Handle(s, "IpamDriver.RequestPool", d.RequestPool)
	httpapi.Handle(s, "IpamDriver.ReleasePool", d.ReleasePool)
	httpapi.Handle(s, "IpamDriver.RequestAddress", d.RequestAddress)
	httpapi.Handle(s, "IpamDriver.ReleaseAddress", d.ReleaseAddress)
}

// GetCapabilities says that addresses do not depend on hardware addresses.
func (d *Driver) GetCapabilities(context.Context, httpapi.Empty) (docker.CapabilitiesResponse, error) {
	return docker.CapabilitiesResponse{}, nil
}

// GetDefaultAddressSpaces names the spaces of networks of one host and of all.
func (d *Driver) GetDefaultAddressSpaces(context.Context, httpapi.Empty) (docker.AddressSpacesResponse, error) {
	return docker.AddressSpacesResponse{LocalDefaultAddressSpace: localSpace, GlobalDefaultAddressSpace: globalSpace}, nil
}

// RequestPool says what a network's addresses come from. Nothing is set aside: any
// number of networks can share a pool.
func (d *Driver) RequestPool(ctx context.Context, r docker.RequestPoolRequest) (docker.RequestPoolResponse, error) {
	if len(r.Options) > 0 {
		names := strings.Join(slices.Sorted(maps.Keys(r.Options)), ", ")
		return docker.RequestPoolResponse{}, fmt.Errorf("calico-ipam has no options, but was given %s (--ipam-opt)", names)
	}
	if r.Pool == "" && r.SubPool == "" {
		return d.anyPool(ctx, r.V6)
	}
	if r.Pool == "" {
		return docker.RequestPoolResponse{}, errors.New("--ip-range needs a --subnet that it is a part of")
	}
	p, err := d.subnet(ctx, r.Pool, r.SubPool)
	if err != nil {
		return docker.RequestPoolResponse{}, err
	}
	return answer(p, p.Subnet.String()), nil
}

// ReleasePool has nothing to give back.
func (d *Driver) ReleasePool(context.Context, docker.ReleasePoolRequest) (httpapi.Empty, error) {
	return httpapi.Empty{}, nil
}

// RequestAddress gives out an address, any or the one that the user chose.
func (d *Driver) RequestAddress(ctx context.Context, r docker.RequestAddressRequest) (docker.RequestAddressResponse, error) {
	if r.Options[optionType] == typeGateway {
		return docker.RequestAddressResponse{}, errors.New("the gateway of containers is always 169.254.1.1: leave --gateway out")
	}
	p, err := ParsePool(r.PoolID)
	if err != nil {
		return docker.RequestAddressResponse{}, err
	}
	var addr netip.Addr
	if r.Address == "" {
		addr, err = d.pick(ctx, p, r.Options[optionName])
	} else {
		addr, err = d.take(ctx, p, r.Address, r.Options[optionName])
	}
	if err != nil {
		return docker.RequestAddressResponse{}, err
	}
	return docker.RequestAddressResponse{Address: netip.PrefixFrom(addr, addr.BitLen()).String()}, nil
}

// ReleaseAddress takes an address back. Engines also release the gateway that
// RequestPool named, which is nobody's.
func (d *Driver) ReleaseAddress(ctx context.Context, r docker.ReleaseAddressRequest) (httpapi.Empty, error) {
	addr, err := netip.ParseAddr(r.Address)
	if err != nil {
		return httpapi.Empty{}, fmt.Errorf("release address: %w", err)
	}
	if addr.IsUnspecified() || addr.IsLinkLocalUnicast() {
		return httpapi.Empty{}, nil
	}
	return httpapi.Empty{}, d.book.Release(ctx, addr)
}

// pick takes any address of a pool, or of a part of one.
func (d *Driver) pick(ctx context.Context, p Pool, name string) (netip.Addr, error) {
	return d.book.Pick(ctx, p.V6, p.Within(), name)
}

// take takes the address that the user chose.
func (d *Driver) take(ctx context.Context, p Pool, text, name string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("chosen address: %w", err)
	}
	if !p.Holds(addr) {
		return netip.Addr{}, fmt.Errorf("address %s is not in the network's subnet %s", addr, p.Subnet)
	}
	return addr, d.book.Take(ctx, addr, name)
}

// subnet checks that a subnet and a range in it are Calico's to give out.
func (d *Driver) subnet(ctx context.Context, subnet, sub string) (Pool, error) {
	p, err := parseSubnet(subnet)
	if err != nil {
		return Pool{}, err
	}
	if sub != "" {
		if p.Range, err = parseRange(p, sub); err != nil {
			return Pool{}, err
		}
	}
	enabled, err := d.pools.Enabled(ctx)
	if err != nil {
		return Pool{}, err
	}
	for _, pool := range enabled {
		if contains(pool, p.Subnet) {
			return p, nil
		}
	}
	return Pool{}, fmt.Errorf("subnet %s is not inside an enabled IP pool of Calico (%s): use one of them, or make a pool "+
		"with `calicoctl create`", p.Subnet, list(enabled))
}

// anyPool answers for a network without a subnet. The engine asks again and again, for
// ever, when it is given a range in which the host has a route, or which holds one of
// the host's nameservers; 0.0.0.0/0 is safe from that, and ::/0 unless a nameserver has
// an IPv6 address.
func (d *Driver) anyPool(ctx context.Context, v6 bool) (docker.RequestPoolResponse, error) {
	if !v6 {
		return answer(Pool{}, everyAddress), nil
	}
	servers := d.nameservers()
	if !holdsAny(netip.MustParsePrefix(gatewayIPv6), servers) {
		return answer(Pool{V6: true}, gatewayIPv6), nil
	}
	enabled, err := d.pools.Enabled(ctx)
	if err != nil {
		return docker.RequestPoolResponse{}, err
	}
	for _, pool := range enabled {
		if pool.Addr().Is6() && !holdsAny(pool, servers) {
			return answer(Pool{V6: true}, pool.String()), nil
		}
	}
	return docker.RequestPoolResponse{}, errors.New("no IPv6 pool can be chosen, as the host's nameserver has an address in " +
		"each: name one with --subnet")
}

// answer tells Docker about a pool. With a gateway in it Docker asks for no address for
// one.
func answer(p Pool, subnet string) docker.RequestPoolResponse {
	gateway := gatewayIPv4
	if p.V6 {
		gateway = gatewayIPv6
	}
	return docker.RequestPoolResponse{PoolID: p.String(), Pool: subnet, Data: map[string]string{dataGateway: gateway}}
}

// holdsAny reports whether a range holds one of the addresses.
func holdsAny(p netip.Prefix, addrs []netip.Addr) bool {
	return slices.ContainsFunc(addrs, p.Contains)
}

// list names ranges for a message.
func list(prefixes []netip.Prefix) string {
	if len(prefixes) == 0 {
		return "there is none"
	}
	var names []string
	for _, p := range prefixes {
		names = append(names, p.String())
	}
	return strings.Join(names, ", ")
}

// Nameservers reads the servers out of a resolv.conf.
func Nameservers(resolvConf string) []netip.Addr {
	var servers []netip.Addr
	for line := range strings.Lines(resolvConf) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, a.WithZone(""))
		}
	}
	return servers
}
