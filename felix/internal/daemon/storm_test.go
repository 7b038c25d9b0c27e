package daemon_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// ipBatch runs many commands of ip at once; each is a format for a number.
func (h *host) ipBatch(n int, formats ...string) {
	h.w.Helper()
	var batch strings.Builder
	for i := range n {
		for _, f := range formats {
			fmt.Fprintf(&batch, f+"\n", i)
		}
	}
	path := filepath.Join(h.w.TempDir(), "batch")
	if err := os.WriteFile(path, []byte(batch.String()), 0o600); err != nil {
		h.w.Fatal(err)
	}
	h.Run("ip", "-batch", path)
}

// TestManyInterfacesThatDieAreNoReasonToReadAllRoutes has 200 containers end at once on a
// host with 5,000 routes of others, while a policy changes.
func TestManyInterfacesThatDieAreNoReasonToReadAllRoutes(t *testing.T) {
	const many = 200
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	w.network("net2")
	h.foreignRoutes(5000)
	h.startInSync("PROMETHEUSMETRICSENABLED=true", "LOGSEVERITYSCREEN=WARNING")
	a := h.container("aaaa", "net1", "192.168.0.1")
	c := h.container("cccc", "net2", "192.168.0.3")
	add := []string{"link add calis%[1]d type veth peer name calip%[1]d", "link set calis%[1]d up", "link set calip%[1]d up"}
	h.ipBatch(many, add...)
	endpoints := make([]*endpoint, many)
	for first := 0; first < many; first += 100 {
		var writes []etcdstore.Write
		for i := first; i < first+100; i++ {
			e := dying(h, i)
			endpoints[i] = e
			write, err := etcdstore.PutWrite(e.key, e.value)
			if err != nil {
				t.Fatal(err)
			}
			writes = append(writes, write)
		}
		if _, err := w.store.Commit(t.Context(), writes...); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range endpoints {
		h.await(e)
	}
	lists := func() (n int) {
		for _, table := range []string{"routes", "neighbours", "gateways", "settings"} {
			n += h.metric(fmt.Sprintf("felix_kernel_lists_total{table=%q} ", table))
		}
		return n
	}
	before := lists()
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ipBatch(many, "link del calis%d")
	}()
	start := time.Now()
	if err := h.wait(c, w.opening(), patience); err != nil {
		t.Fatal(err)
	}
	t.Logf("a policy was in force after %v", time.Since(start))
	if took := time.Since(start); took > time.Second {
		t.Errorf("a policy was in force after %v, while interfaces died", took)
	}
	<-done
	w.canReach(a, c)
	nettest.Eventually(t, patience, func() error {
		if left := strings.Count(h.Run("ip", "route")+h.Run("ip", "-6", "route"), "dev calis"); left > 0 {
			return fmt.Errorf("%d routes are left", left)
		}
		return nil
	})
	if n := lists() - before; n > 2 {
		t.Errorf("all of something was read from the kernel %d times", n)
	}
	// Interfaces that come back get all that they had.
	h.ipBatch(1, add...)
	h.await(endpoints[0])
	if got := h.Run("ip", "neigh", "show", "nud", "permanent", "dev", "calis0") + h.Run("ip", "route", "show", "dev", "calis0"); strings.Count(got, "192.168.2.0") != 2 {
		t.Errorf("got %s", got)
	}
	if got := h.Sysctl("net/ipv4/conf/calis0/proxy_arp"); got != "1" {
		t.Errorf("proxy_arp is %s", got)
	}
}

// dying is an endpoint without a container.
func dying(h *host, i int) *endpoint {
	addr := netip.AddrFrom4([4]byte{192, 168, 2, byte(i)})
	return &endpoint{
		key: model.WorkloadEndpointKey{Node: h.Name, Orchestrator: "libnetwork", Workload: "libnetwork", Name: fmt.Sprint("s", i)},
		value: &model.WorkloadEndpoint{
			State: "active", Interface: fmt.Sprint("calis", i), MAC: nettest.ContainerMAC, Profiles: []string{"net1"},
			IPv4Nets: []netip.Prefix{netip.PrefixFrom(addr, 32)},
			IPv6Nets: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fd00:80::2:%x", i)), 128)},
		},
	}
}
