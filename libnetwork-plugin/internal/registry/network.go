package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/config"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/endpoint"
)

// OptionMTU is the network option with the MTU of its containers' interfaces.
const OptionMTU = "com.docker.network.driver.mtu"

// Network is what the plugin needs to know of one of its networks.
type Network struct {
	ID, Name string
	// MTU is 0 when the network does not choose one.
	MTU int
	// Labels are the endpoint labels that the network gives all its containers.
	Labels map[string]string
}

// CheckOptions refuses the network options that mean nothing to us. What a user asks
// for is done or refused, never ignored.
func CheckOptions(options map[string]string) error {
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(options)) {
		switch {
		case name == OptionMTU:
			if _, err := config.ParseMTU(options[name]); err != nil {
				return fmt.Errorf("network option %s=%s: want %w", name, options[name], err)
			}
		case strings.HasPrefix(name, endpoint.LabelPrefix):
		default:
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("network options that the calico driver does not have: %s (it has %s and %s<name>)",
			strings.Join(unknown, ", "), OptionMTU, endpoint.LabelPrefix)
	}
	return nil
}

// fromOptions is a network with the given options, which were checked when it was made.
func fromOptions(id, name string, options map[string]string) Network {
	mtu, err := config.ParseMTU(options[OptionMTU])
	if err != nil {
		mtu = 0
	}
	return Network{ID: id, Name: name, MTU: mtu, Labels: endpoint.Labels(options)}
}

// record is the store's form of a network as the engine of a node shows it.
func record(n dockerapi.Network, node string) *model.DockerNetwork {
	r := &model.DockerNetwork{
		IDs:      map[string]string{node: n.ID},
		Options:  n.Options,
		Labels:   n.Labels,
		Internal: n.Internal,
		Scope:    n.Scope,
	}
	for _, c := range n.IPAM.Config {
		switch {
		case strings.Contains(c.Subnet, ":") && r.IPv6Pool == "":
			r.IPv6Pool = c.Subnet
		case !strings.Contains(c.Subnet, ":") && r.IPv4Pool == "":
			r.IPv4Pool = c.Subnet
		}
	}
	return r
}

// merge adds what a node's engine says to what is stored. While other nodes have the
// network too, their word on everything but this node's id stands.
func merge(stored, seen *model.DockerNetwork, node string) *model.DockerNetwork {
	merged := *stored
	others := maps.Clone(stored.IDs)
	delete(others, node)
	if len(others) == 0 {
		merged = *seen
		merged.Meta = stored.Meta
	}
	merged.IDs = others
	if merged.IDs == nil {
		merged.IDs = make(map[string]string)
	}
	merged.IDs[node] = seen.IDs[node]
	return &merged
}

// without takes an id out of a record, on all nodes: an engine's id names one network,
// and nodes share it only where the engines share the network. changed is false when
// the record does not have it.
func without(stored *model.DockerNetwork, id string) (left *model.DockerNetwork, changed bool) {
	rest := *stored
	rest.IDs = make(map[string]string)
	for node, other := range stored.IDs {
		if other != id {
			rest.IDs[node] = other
		}
	}
	return &rest, len(rest.IDs) < len(stored.IDs)
}

// same reports whether two records are stored alike.
func same(a, b *model.DockerNetwork) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
