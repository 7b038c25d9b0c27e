package rules

import "strings"

// dockerBridges are the names of the bridges that Docker makes for itself.
func dockerBridges() []string { return []string{"docker0", "docker_gwbridge"} }

// IsDockerBridge reports whether an interface has the name of a bridge that Docker makes for
// a network: br- and the first 12 hexadecimal digits of the network's id. A rule that
// matched "br-" alone would also mean bridges of the host's own, such as its uplink.
func IsDockerBridge(name string) bool {
	id, ok := strings.CutPrefix(name, "br-")
	return ok && len(id) == 12 && strings.Trim(id, "0123456789abcdef") == ""
}

// ForwardWorkload is the chain for packets of workloads that their policies allowed. They are
// accepted, but not between a workload and a bridge of Docker's: there Docker's own chains,
// which come next, decide, so that no workload reaches a port that is not published, or a
// network that Docker keeps internal. bridges are those of Docker's other networks.
func (r *Renderer) ForwardWorkload(bridges []string) Chain {
	c := Chain{ChainID: ChainID{Filter, chainForwardWorkload}}
	for _, name := range append(dockerBridges(), bridges...) {
		c.add(
			Rule{Match: Match{In: Interface{Name: name}}, Action: goTo(chainToDocker)},
			Rule{Match: Match{Out: Interface{Name: name}}, Action: goTo(chainToDocker)},
		)
	}
	if r.cfg.FilterAllow == Accept {
		c.add(Rule{Action: do(Accept), Comment: "Allowed by policy"})
	}
	return c
}

// toDocker leaves a packet to Docker: what felix allowed counts no more.
func (r *Renderer) toDocker() Chain {
	return Chain{ChainID: ChainID{Filter, chainToDocker}, Rules: []Rule{{Action: clearMark(r.marks.accept)}}}
}
