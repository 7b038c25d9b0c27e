package localnet

import (
	"slices"
	"strings"
)

// DockerBridges are the names of the bridges that Docker makes for itself.
func DockerBridges() []string { return []string{"docker0", "docker_gwbridge"} }

// IsDockerBridge reports whether an interface has the name of a bridge that Docker makes when
// nobody names it: one of [DockerBridges], or, of a network, br- and the first 12 hexadecimal
// digits of the network's id. Bridges of the host's own, such as its uplink, begin with br- too.
// What an operator calls a bridge of Docker's no name tells.
func IsDockerBridge(name string) bool {
	id, ofNetwork := strings.CutPrefix(name, "br-")
	return slices.Contains(DockerBridges(), name) || ofNetwork && len(id) == 12 && strings.Trim(id, "0123456789abcdef") == ""
}
