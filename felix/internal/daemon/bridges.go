package daemon

import (
	"slices"

	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/localnet"
)

// bridgesChanged follows bridges that come and go. It reports whether a pass is due.
func (d *dataplane) bridgesChanged(e ifmonitor.Event, changed []ifmonitor.Link) bool {
	concerns := e.Snapshot || slices.ContainsFunc(changed, func(l ifmonitor.Link) bool { return l.Bridge || localnet.IsDockerBridge(l.Name) })
	return concerns && d.findBridges()
}

// findBridges finds the bridges of Docker's networks: those with a name that Docker gives, and
// those that a rule in a chain of Docker's names, whatever an operator called them. One that
// was found stays one as long as it is there, also while somebody has flushed Docker's rules.
// It reports whether they are others than before.
func (d *dataplane) findBridges() bool {
	d.dockerNames = d.chains.dockerInterfaces()
	found := d.links.Names(func(name string) bool {
		return localnet.IsDockerBridge(name) || d.links.IsBridge(name) && (slices.Contains(d.dockerNames, name) || slices.Contains(d.bridges, name))
	})
	bridges := append(localnet.DockerBridges(), found...)
	slices.Sort(bridges)
	bridges = slices.Compact(bridges)
	if slices.Equal(bridges, d.bridges) {
		return false
	}
	d.bridges = bridges
	d.renderBridges()
	return true
}

// rulesNameOthers reports whether Docker's rules name other interfaces than when its bridges
// were last looked for.
func (d *dataplane) rulesNameOthers() bool {
	return !slices.Equal(d.chains.dockerInterfaces(), d.dockerNames)
}

// dockerInterfaces are those that rules in Docker's chains name.
func (c *chains) dockerInterfaces() (names []string) {
	for _, f := range rules.Families {
		if target := c.targets[f][rules.Filter]; target != nil {
			names = append(names, target.DockerInterfaces()...)
		}
	}
	return names
}

// renderBridges renders the chains that depend on the bridges.
func (d *dataplane) renderBridges() {
	list := d.renderer.OfBridges(d.bridges)
	for _, f := range d.families {
		for _, c := range printChains(f, list, d.chains.lacks[f]) {
			d.filters.set(f, c)
		}
	}
}
