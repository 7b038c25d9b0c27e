package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	docker "github.com/docker/go-plugins-helpers/network"

	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/ipam"
	"calico.internal/libnetwork-plugin/internal/registry"
)

// The options of Docker's calls that mean something to us.
const (
	optionGeneric  = "com.docker.network.generic"
	optionInternal = "com.docker.network.internal"
	optionPorts    = "com.docker.network.portmap"
)

// checkNetwork refuses a network that would not do what its creator asked for. Options
// of the engine's own that are not known are accepted: each new engine adds some.
func checkNetwork(r docker.CreateNetworkRequest) error {
	if internal, _ := r.Options[optionInternal].(bool); internal {
		return errors.New("internal networks (--internal) are not supported by the calico driver: " +
			"leave the option out and deny egress with a policy")
	}
	if err := registry.CheckOptions(userOptions(r.Options)); err != nil {
		return err
	}
	for _, pool := range append(r.IPv4Data, r.IPv6Data...) {
		if err := checkPool(pool); err != nil {
			return err
		}
	}
	return nil
}

// checkPool refuses addresses that are not ours to give.
func checkPool(pool *docker.IPAMData) error {
	if !ipam.OwnSpace(pool.AddressSpace) {
		return errors.New("the calico network driver works with Calico's addresses only: add --ipam-driver calico-ipam")
	}
	if len(pool.AuxAddresses) > 0 {
		return errors.New("--aux-address is not supported by calico-ipam: keep addresses out of use with an IPReservation")
	}
	return nil
}

// userOptions returns the -o options of a network as texts.
func userOptions(options map[string]any) map[string]string {
	generic, _ := options[optionGeneric].(map[string]any)
	return texts(generic)
}

// texts returns the options whose values are texts.
func texts(options map[string]any) map[string]string {
	out := make(map[string]string)
	for k, v := range options {
		if s, ok := v.(string); ok {
			out[k] = s
		}
	}
	return out
}

// wanted is an endpoint as Docker asks for it.
type wanted struct {
	ID, NetworkID string
	IPv4, IPv6    netip.Addr
	// MAC is empty unless the user chose one.
	MAC    string
	Labels map[string]string
}

// parseEndpoint reads a CreateEndpoint call.
func parseEndpoint(r docker.CreateEndpointRequest) (wanted, error) {
	w := wanted{ID: r.EndpointID, NetworkID: r.NetworkID, Labels: endpoint.Labels(texts(r.Options))}
	if err := checkID(r.EndpointID); err != nil {
		return wanted{}, err
	}
	if r.Interface == nil {
		r.Interface = &docker.EndpointInterface{}
	}
	var err error
	if w.IPv4, err = parseAddress(r.Interface.Address); err != nil {
		return wanted{}, err
	}
	if w.IPv6, err = parseAddress(r.Interface.AddressIPv6); err != nil {
		return wanted{}, err
	}
	if !w.IPv4.IsValid() && !w.IPv6.IsValid() {
		return wanted{}, errors.New("the endpoint has no address: create the network with --ipam-driver calico-ipam")
	}
	if r.Interface.MacAddress != "" {
		if w.MAC, err = parseMAC(r.Interface.MacAddress); err != nil {
			return wanted{}, err
		}
	}
	return w, nil
}

// checkID refuses an endpoint id from which no interface name can be made.
func checkID(id string) error {
	if len(id) < 11 || strings.ContainsAny(id, "/ ") {
		return fmt.Errorf("endpoint id %q is not one of Docker's", id)
	}
	return nil
}

// parseAddress reads an address with a prefix length, as Docker writes it.
func parseAddress(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("endpoint address: %w", err)
	}
	return p.Addr(), nil
}

// parseMAC reads a hardware address that a container's interface can have.
func parseMAC(s string) (string, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return "", fmt.Errorf("%q is not a hardware address (--mac-address)", s)
	}
	if hw[0]&1 != 0 {
		return "", fmt.Errorf("%s is a multicast address: a container's interface cannot have it (--mac-address)", s)
	}
	return hw.String(), nil
}

// countPorts counts the published ports of a call.
func countPorts(options map[string]any) int {
	list, _ := options[optionPorts].([]any)
	return len(list)
}
