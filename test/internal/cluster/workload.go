package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc"

	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	felixv1 "calico.internal/proto/felix/v1"
)

// EchoPort is the UDP and TCP port at which each workload answers.
const EchoPort = 7777

// Workload is a container with its endpoint in the store.
type Workload struct {
	*nettest.Container

	Host  *Host
	Key   model.WorkloadEndpointKey
	Value *model.WorkloadEndpoint
	// IP and IP6 are its addresses.
	IP, IP6 netip.Addr
	// Revision is that of the endpoint's last write.
	Revision int64
}

// Add gives a host a container of a network, as the Docker plugin would: address,
// profile, endpoint, pair, and no more.
func (h *Host) Add(name, network string) *Workload {
	t := h.cluster.T
	t.Helper()
	h.cluster.Profile(network)
	w := h.Prepare(name, network)
	w.Put()
	return w
}

// Prepare makes a container and the value of its endpoint, with addresses of its own,
// without writing the endpoint.
func (h *Host) Prepare(name, network string) *Workload {
	h.cluster.T.Helper()
	w := h.Pair(name, network)
	w.Enter()
	return w
}

// Pair makes a container, the value of its endpoint, and the pair of interfaces, whose far
// end is still outside of the container: as things are when the plugin waits for felix.
func (h *Host) Pair(name, network string) *Workload {
	t := h.cluster.T
	t.Helper()
	id := fmt.Sprintf("%s%060d", strings.ToLower(name), 0)
	addrs, err := ipam.New(h.cluster.Store, h.Node).AutoAssign(t.Context(), ipam.Request{IPv4: 1, IPv6: 1, Owner: ipam.Owner{Handle: id}})
	if err != nil {
		t.Fatal(err)
	}
	w := &Workload{Host: h, Key: model.WorkloadEndpointKey{Node: h.Node, Orchestrator: "libnetwork", Workload: "libnetwork", Name: id}}
	iface := "cali" + id[:11]
	w.Value = &model.WorkloadEndpoint{State: "active", Interface: iface, MAC: nettest.ContainerMAC, Profiles: []string{network}}
	for _, a := range addrs {
		own := netip.PrefixFrom(a, a.BitLen())
		if a.Is4() {
			w.IP, w.Value.IPv4Nets = a, append(w.Value.IPv4Nets, own)
		} else {
			w.IP6, w.Value.IPv6Nets = a, append(w.Value.IPv6Nets, own)
		}
	}
	w.Container = h.NewContainer(iface)
	h.makePair(iface)
	return w
}

// makePair makes both ends as the plugin does: up, with the IPv6 gateway's address on the
// host's.
func (h *Host) makePair(iface string) {
	h.cluster.T.Helper()
	h.Run("ip", "link", "add", iface, "type", "veth", "peer", "name", farEnd(iface), "address", nettest.ContainerMAC)
	h.Run("ip", "link", "set", iface, "addrgenmode", "none")
	h.SetSysctl("net/ipv4/neigh/"+iface+"/proxy_delay", "0")
	h.Run("ip", "addr", "add", "fe80::a9fe:101/64", "dev", iface, "nodad")
	h.Run("ip", "link", "set", iface, "up")
	h.Run("ip", "link", "set", farEnd(iface), "up")
}

// farEnd is the name of the far end of a pair while it is outside of the container.
func farEnd(iface string) string { return "far" + strings.TrimPrefix(iface, "cali") }

// Enter moves the far end into the container, as the engine does once the plugin has
// answered. It returns when the kernel has noticed that the host's end has a carrier again:
// until then it drops what it should send there, which takes less time than an engine needs
// to start a process.
func (w *Workload) Enter() {
	w.Host.cluster.T.Helper()
	iface := w.Value.Interface
	w.Attach(iface, farEnd(iface), w.IP, w.IP6)
	nettest.Eventually(w.Host.cluster.T, Patience, func() error {
		if link := w.Host.Run("ip", "link", "show", "dev", iface); !strings.Contains(link, "state UP") {
			return fmt.Errorf("no carrier: %s", link)
		}
		return nil
	})
	w.ServeUDP(EchoPort)
	w.ServeTCP(EchoPort)
}

// Put writes the endpoint.
func (w *Workload) Put() { w.Revision = w.Host.cluster.Put(w.Key, w.Value) }

// InForce waits until felix says that the endpoint is.
func (w *Workload) InForce() {
	w.Host.cluster.T.Helper()
	if err := w.Wait(Patience); err != nil {
		w.Host.cluster.T.Fatalf("endpoint of %s is not in force: %v", w.IP, err)
	}
}

// Wait asks felix whether the endpoint is in force, until it is or the time is over.
func (w *Workload) Wait(limit time.Duration) error { return w.WaitFor(w.Revision, limit) }

// WaitFor waits until felix has a revision in force for the endpoint.
func (w *Workload) WaitFor(revision int64, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(w.Host.cluster.T.Context(), limit)
	defer cancel()
	for {
		err := w.Host.ask("felix", func(_ context.Context, conn *grpc.ClientConn) error {
			_, err := felixv1.NewFelixClient(conn).WaitEndpoint(ctx, &felixv1.WaitEndpointRequest{
				Id:       &felixv1.EndpointID{Node: w.Key.Node, Orchestrator: w.Key.Orchestrator, Workload: w.Key.Workload, Endpoint: w.Key.Name},
				Revision: revision,
			})
			return err
		})
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "Unavailable") {
			return err
		}
	}
}

// Reaches wants a ping, a flow of its own, to come back; a TTL of 0 is any.
func (w *Workload) Reaches(to netip.Addr, ttl int) {
	w.Host.cluster.T.Helper()
	nettest.Eventually(w.Host.cluster.T, Patience, func() error {
		reply, err := w.Ping(to, Answer)
		if err == nil && ttl != 0 && reply.TTL != ttl {
			err = fmt.Errorf("TTL %d, want %d", reply.TTL, ttl)
		}
		return err
	})
}

// Cut wants pings not to come back. Whoever calls it also shows the same path open.
func (w *Workload) Cut(to netip.Addr) {
	w.Host.cluster.T.Helper()
	for range 3 {
		if _, err := w.Ping(to, NoAnswer); !errors.Is(err, nettest.ErrNoAnswer) {
			w.Host.cluster.T.Errorf("%s reaches %s: %v", w.IP, to, err)
		}
	}
}
