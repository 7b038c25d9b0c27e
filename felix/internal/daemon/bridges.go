package daemon

import (
	"slices"

	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/rules"
)

// bridgesChanged follows the bridges of Docker's networks. It reports whether a pass is due.
func (d *dataplane) bridgesChanged(e ifmonitor.Event, changed []ifmonitor.Link) bool {
	concerns := e.Snapshot || slices.ContainsFunc(changed, func(l ifmonitor.Link) bool { return rules.IsDockerBridge(l.Name) })
	if !concerns {
		return false
	}
	bridges := d.links.Names(rules.IsDockerBridge)
	if slices.Equal(bridges, d.bridges) {
		return false
	}
	d.bridges = bridges
	d.forwardWorkloads()
	return true
}

// forwardWorkloads renders the one chain that depends on the bridges.
func (d *dataplane) forwardWorkloads() {
	chain := []rules.Chain{d.renderer.ForwardWorkload(d.bridges)}
	for _, f := range d.families {
		for _, c := range printChains(f, chain, d.chains.lacks[f]) {
			d.filters.set(f, c)
		}
	}
}
