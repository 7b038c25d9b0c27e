package daemon_test

import (
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/model"
	felixv1 "calico.internal/proto/felix/v1"
)

func TestWaitEndpoint(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.startInSync()
	a := h.attach("aaaa", "net1", "192.168.0.1")
	h.refuses(a, 0, codes.DeadlineExceeded, "etcd has no such endpoint")
	h.refuses(a, 1<<40, codes.DeadlineExceeded, "felix has read etcd up to revision")
	other := *a
	other.key.Node = "elsewhere"
	h.refuses(&other, 0, codes.InvalidArgument, "not of this host")

	a.value.Interface = "calinothere"
	rev := w.put(a.key, a.value)
	h.refuses(a, rev, codes.DeadlineExceeded, "interface calinothere does not exist")
	a.value.Interface = "caliaaaa"
	h.Run("ip", "link", "set", "caliaaaa", "down")
	rev = w.put(a.key, a.value)
	h.refuses(a, rev, codes.DeadlineExceeded, "interface caliaaaa is down")
	h.Run("ip", "link", "set", "caliaaaa", "up")
	if err := h.wait(a, rev, patience); err != nil {
		t.Error(err)
	}

	// Of what felix does not serve the reason is told.
	twin := *a
	twin.key.Name, twin.value = "twin", new(model.WorkloadEndpoint)
	*twin.value = *a.value
	rev = w.put(twin.key, twin.value) // the later one has the interface
	h.refuses(a, rev, codes.DeadlineExceeded, "caliaaaa")
	list, err := h.client.ListEndpoints(t.Context(), &felixv1.ListEndpointsRequest{})
	if err != nil || len(list.GetEndpoints()) != 2 || list.GetEndpoints()[0].GetInForce() || !strings.Contains(list.GetEndpoints()[0].GetWhy(), "caliaaaa") {
		t.Errorf("listed are %v, %v", list.GetEndpoints(), err)
	}
	h.refuses(&twin, w.raw(model.Paths(twin.key)[0], "{"), codes.DeadlineExceeded, "its last valid version stays in force")
	w.remove(twin.key)
	h.await(a)

	// A felix that hangs is the caller's deadline.
	if err := h.felix.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b := h.attach("bbbb", "net1", "192.168.0.2")
	rev = w.put(b.key, b.value)
	h.refuses(b, rev, codes.DeadlineExceeded, "")
	if got := h.Run("ip", "route"); strings.Contains(got, "calibbbb") {
		t.Errorf("routes are %s", got)
	}
	if err := h.felix.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := h.wait(b, rev, patience); err != nil {
		t.Error(err)
	}
	w.canReach(a, b)
}
