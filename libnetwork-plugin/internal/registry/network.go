package registry

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"calico.internal/libnetwork-plugin/internal/config"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/networks"
)

// OptionMTU is the network option with the MTU of its containers' interfaces.
const OptionMTU = "com.docker.network.driver.mtu"

// Network is what the plugin needs to know of one of its networks.
type Network struct {
	ID, Name string
	// Profile is the name of its profile.
	Profile string
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
	return Network{ID: id, Name: name, Profile: networks.Key(name), MTU: mtu, Labels: endpoint.Labels(options)}
}
