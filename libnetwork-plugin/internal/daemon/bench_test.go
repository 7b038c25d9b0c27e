package daemon

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"calico.internal/libnetwork-plugin/internal/enginetest"
)

// BenchmarkContainerStart is the plugin's share of a container's start, with a felix
// that is ready at once: RequestAddress, CreateEndpoint and Join, with etcd, the kernel
// and the engine's answers. Percentiles are reported besides the mean.
func BenchmarkContainerStart(b *testing.B) {
	h := newHost(b, enginetest.Docker29)
	h.quiet = true
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		c := web
		c.endpoint = fmt.Sprintf("%012d%s", i, strings.Repeat("e", 52))
		begun := time.Now()
		addr := h.create(c)
		h.ok("NetworkDriver.Join", "%s", joinBody(c))
		took = append(took, time.Since(begun))
		b.StopTimer()
		h.running(c, addr)
		h.remove(c, addr)
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
