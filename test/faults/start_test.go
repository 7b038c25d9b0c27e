package faults

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"calico.internal/test/internal/cluster"
)

// otherHosts is how long another host's felix may take longer than the container's own to
// know of a new container. The engine takes longer from the plugin's answer to the
// container's first instruction.
const otherHosts = 50 * time.Millisecond

// TestFirstPackets: containers that send from their first instruction on. No packet to
// where they must not get there ever arrives; once their start has returned, which is when
// felix says that they are in force, none that is allowed is lost.
func TestFirstPackets(t *testing.T) {
	c := cluster.New(t, 2)
	c.StartAll()
	b, d := c.Hosts[1].Add("b", "net1"), c.Hosts[1].Add("d", "net2")
	b.InForce()
	d.InForce()
	warm := c.Hosts[0].Add("warm", "net1")
	warm.Reaches(b.IP, 62)
	warm.Reaches(b.IP6, 62)
	for i := range starts() {
		w := c.Hosts[0].Pair(fmt.Sprintf("s%dx", i), "net1")
		w.Put()
		w.InForce()
		w.Enter()
		denied := []*cluster.Stream{
			cluster.NewStream(t, w.Space, "denied", d.IP), cluster.NewStream(t, w.Space, "denied IPv6", d.IP6),
		}
		near := []*cluster.Stream{
			cluster.NewStream(t, w.Space, "allowed", warm.IP), cluster.NewStream(t, w.Space, "allowed IPv6", warm.IP6),
		}
		far := []*cluster.Stream{
			cluster.NewStream(t, w.Space, "allowed on another host", b.IP), cluster.NewStream(t, w.Space, "allowed IPv6 on another host", b.IP6),
		}
		for _, s := range slices.Concat(near, far, denied) {
			s.Await(20)
			s.Stop()
		}
		for _, s := range near {
			s.Passed()
		}
		for _, s := range far {
			s.GapAtMost(otherHosts)
		}
		for _, s := range denied {
			s.Denied()
		}
		c.Delete(w.Key)
		w.Remove()
	}
}

// TestManyStartAndDieAtOnce: many endpoints come in one instant and go in another, while
// other traffic goes on. The slowest of them is not more than a few times the time of all
// of the work divided by its number behind, and nothing is left.
func TestManyStartAndDieAtOnce(t *testing.T) {
	const count = 150
	c := cluster.New(t, 2)
	c.StartAll()
	h := c.Hosts[0]
	a, b, d := h.Add("a", "net1"), c.Hosts[1].Add("b", "net1"), c.Hosts[1].Add("d", "net2")
	for _, w := range []*cluster.Workload{a, b, d} {
		w.InForce()
	}
	a.Reaches(b.IP, 62)
	a.Reaches(b.IP6, 62)
	before := leftOvers(h)
	var all []*cluster.Workload
	for i := range count {
		all = append(all, h.Prepare(fmt.Sprintf("m%dx", i), "net1"))
	}
	hold := a.Hold(b, d)
	began := time.Now()
	for _, w := range all {
		w.Put()
	}
	for _, w := range all {
		w.InForce()
	}
	t.Logf("%d endpoints in force %v after the first was written", count, time.Since(began))
	began = time.Now()
	for _, w := range all {
		c.Delete(w.Key)
	}
	for _, w := range all {
		w.Remove()
	}
	awaitLeftOvers(t, h, before)
	t.Logf("%d endpoints gone after %v", count, time.Since(began))
	hold.End()
}
