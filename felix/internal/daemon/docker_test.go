package daemon_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// bridge is a network of Docker's: a bridge with its rules, as Docker 26 writes them, and a
// container on it, of which one port is published.
type bridge struct {
	*nettest.Container
	name, subnet string
	gateway      netip.Addr
	addr         netip.Addr
	published    uint16
}

// docker makes the host one with Docker's chains, of which FORWARD drops.
func (h *host) docker() {
	h.w.Helper()
	ipt := h.iptables
	for _, chain := range []string{"DOCKER", "DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2", "DOCKER-USER"} {
		ipt("-N", chain)
		ipt("-A", chain, "-j", "RETURN")
	}
	ipt("-P", "FORWARD", "DROP")
	ipt("-I", "FORWARD", "-j", "DOCKER-ISOLATION-STAGE-1")
	ipt("-I", "FORWARD", "-j", "DOCKER-USER")
	ipt("-t", "nat", "-N", "DOCKER")
	ipt("-t", "nat", "-A", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "DOCKER")
}

func (h *host) iptables(args ...string) {
	h.w.Helper()
	h.Run("iptables-"+h.variant, append([]string{"-w"}, args...)...)
}

// addBridge makes a network of Docker's, the nth. An internal one reaches nothing else.
func (h *host) addBridge(name string, n int, internal bool) *bridge {
	h.w.Helper()
	b := h.bridge(name, n)
	h.bridgeRules(b, internal)
	return b
}

// bridge makes a bridge with a container on it, and no rules.
func (h *host) bridge(name string, n int) *bridge {
	h.w.Helper()
	b := &bridge{
		name: name, subnet: fmt.Sprintf("172.%d.0.0/16", 16+n),
		gateway: netip.AddrFrom4([4]byte{172, byte(16 + n), 0, 1}), addr: netip.AddrFrom4([4]byte{172, byte(16 + n), 0, 2}),
		published: uint16(8000 + n),
	}
	h.Run("ip", "link", "add", name, "type", "bridge")
	h.Run("ip", "addr", "add", b.gateway.String()+"/16", "dev", name)
	h.Run("ip", "link", "set", name, "up")
	b.Container = h.NewContainer(fmt.Sprintf("bridged%d", n))
	far := fmt.Sprintf("peer%d", n)
	h.Run("ip", "link", "add", fmt.Sprintf("veth%d", n), "type", "veth", "peer", "name", far)
	h.Run("ip", "link", "set", fmt.Sprintf("veth%d", n), "master", name, "up")
	var err error
	h.Do(func() {
		var link netlink.Link
		if link, err = netlink.LinkByName(far); err == nil {
			err = netlink.LinkSetNsFd(link, b.FD())
		}
	})
	if err != nil {
		h.w.Fatal(err)
	}
	b.Run("ip", "addr", "add", b.addr.String()+"/16", "dev", far)
	b.Run("ip", "link", "set", far, "up")
	b.Run("ip", "route", "add", "default", "via", b.gateway.String())
	b.ServeTCP(tcpPort)
	b.ServeUDP(udpPort)
	return b
}

func (h *host) bridgeRules(b *bridge, internal bool) {
	h.w.Helper()
	ipt := h.iptables
	if internal {
		ipt("-I", "DOCKER-ISOLATION-STAGE-1", "!", "-s", b.subnet, "-o", b.name, "-j", "DROP")
		ipt("-I", "DOCKER-ISOLATION-STAGE-1", "!", "-d", b.subnet, "-i", b.name, "-j", "DROP")
		ipt("-A", "FORWARD", "-i", b.name, "-o", b.name, "-j", "ACCEPT")
		return
	}
	ipt("-I", "DOCKER-ISOLATION-STAGE-1", "-i", b.name, "!", "-o", b.name, "-j", "DOCKER-ISOLATION-STAGE-2")
	ipt("-I", "DOCKER-ISOLATION-STAGE-2", "-o", b.name, "-j", "DROP")
	ipt("-A", "FORWARD", "-o", b.name, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
	ipt("-A", "FORWARD", "-o", b.name, "-j", "DOCKER")
	ipt("-A", "FORWARD", "-i", b.name, "!", "-o", b.name, "-j", "ACCEPT")
	ipt("-A", "FORWARD", "-i", b.name, "-o", b.name, "-j", "ACCEPT")
	to := netip.AddrPortFrom(b.addr, tcpPort).String()
	ipt("-t", "nat", "-A", "DOCKER", "!", "-i", b.name, "-p", "tcp", "--dport", fmt.Sprint(b.published), "-j", "DNAT", "--to-destination", to)
	ipt("-I", "DOCKER", "-d", b.addr.String()+"/32", "!", "-i", b.name, "-o", b.name, "-p", "tcp", "--dport", fmt.Sprint(tcpPort), "-j", "ACCEPT")
}

// TestDockersNetworksKeepTheirIsolation has a container whose policy allows everything call
// containers on Docker's bridges, of which one comes while felix runs, and be called by them.
func TestDockersNetworksKeepTheirIsolation(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		for _, action := range []string{"ACCEPT", "RETURN"} {
			w := newWorld(t, nil)
			h := w.addHost(0, variant)
			peer := w.net.AddHost(nettest.HostSpec{Name: "peer", Addrs: []netip.Prefix{netip.MustParsePrefix("172.28.8.200/24")}, Default: []netip.Addr{h.Addr(false)}})
			peer.ServeTCP(tcpPort)
			h.docker()
			// Of those that are there, one has a name of the operator's choice.
			bridges := []*bridge{h.addBridge("docker0", 1, false), h.addBridge("web0", 4, false)}
			own := h.bridge("br-lan", 7)
			w.raw(openPath, goodValues()[openPath])
			w.raw(pool4Path, goodValues()[pool4Path])
			w.network("net1")
			h.startInSync("LOGSEVERITYSCREEN=ERROR", "IPTABLESFILTERALLOWACTION="+action)
			a := h.container("aaaa", "open", "192.168.0.1")
			closed := h.container("cccc", "net1", "192.168.0.3")
			bridges = append(bridges, h.addBridge("br-0123456789ab", 2, false))
			bridges = append(bridges, h.addBridge("web1", 5, false))
			inner := h.addBridge("br-ba9876543210", 3, true)
			chosen := h.addBridge("inside0", 6, true)

			tcp := func(from *nettest.Space, to netip.Addr, port uint16) func(time.Duration) error {
				return func(wait time.Duration) error { return from.TCP(netip.AddrPortFrom(to, port), wait) }
			}
			expect := func(what string, passes bool, try func(time.Duration) error) {
				t.Helper()
				if err := verdictFault(try(waitFor(passes)), passes); err != nil {
					t.Errorf("%s: %s: %v", action, what, err)
				}
			}
			// Of a bridge that comes, felix hears by the kernel.
			nettest.Eventually(t, patience, func() error {
				return verdictFault(a.UDP(netip.AddrPortFrom(inner.addr, udpPort), noAnswer), false)
			})
			// One that has another name is known by Docker's rules, which felix reads.
			nettest.Eventually(t, patience, func() error {
				return verdictFault(a.UDP(netip.AddrPortFrom(chosen.addr, udpPort), noAnswer), false)
			})
			for _, b := range bridges {
				expect("a workload to a port that is not published on "+b.name, false, func(wait time.Duration) error {
					return a.UDP(netip.AddrPortFrom(b.addr, udpPort), wait)
				})
				expect("a workload to a published port on "+b.name, true, tcp(a.Space, h.Addr(false), b.published))
				expect("a container on "+b.name+" to an open workload", true, tcp(b.Space, a.addr, tcpPort))
				expect("a container on "+b.name+" to a closed workload", false, tcp(b.Space, closed.addr, tcpPort))
				expect("a container on "+b.name+" to the outside", true, tcp(b.Space, peer.Addr(false), tcpPort))
				expect("the outside to a published port on "+b.name, true, tcp(peer.Space, h.Addr(false), b.published))
				expect("the host to "+b.name, true, tcp(h.Space, b.addr, tcpPort))
			}
			for _, b := range []*bridge{inner, chosen} {
				expect("a workload into the internal network on "+b.name, false, tcp(a.Space, b.addr, tcpPort))
				expect("the internal network on "+b.name+" to a workload", false, tcp(b.Space, a.addr, tcpPort))
			}
			expect("a workload to a bridge that is not Docker's", true, tcp(a.Space, own.addr, tcpPort))
			expect("a workload to the outside", true, tcp(a.Space, peer.Addr(false), tcpPort))
			expect("the outside to a workload", true, tcp(peer.Space, a.addr, tcpPort))
		}
	})
}

// TestAContainerOnABridgeAndACalicoNetwork has a container with both networks use each.
func TestAContainerOnABridgeAndACalicoNetwork(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		h.docker()
		b := h.addBridge("docker0", 1, false)
		w.raw(openPath, goodValues()[openPath])
		w.raw(pool4Path, goodValues()[pool4Path])
		h.startInSync("LOGSEVERITYSCREEN=ERROR")
		other := h.container("bbbb", "open", "192.168.0.2")
		// The second network of the container on the bridge, whose default route stays.
		own := netip.MustParseAddr("192.168.0.1")
		h.Run("ip", "link", "add", "caliboth", "type", "veth", "peer", "name", "cali0")
		h.Run("ip", "link", "set", "caliboth", "up")
		var err error
		h.Do(func() {
			var link netlink.Link
			if link, err = netlink.LinkByName("cali0"); err == nil {
				err = netlink.LinkSetNsFd(link, b.FD())
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		b.Run("ip", "link", "set", "cali0", "address", nettest.ContainerMAC)
		b.Run("ip", "addr", "add", own.String()+"/32", "dev", "cali0")
		b.Run("ip", "link", "set", "cali0", "up")
		b.Run("ip", "route", "add", nettest.Gateway.String(), "dev", "cali0", "scope", "link")
		b.Run("ip", "route", "add", "192.168.0.0/16", "via", nettest.Gateway.String(), "dev", "cali0", "onlink")
		key := model.WorkloadEndpointKey{Node: h.Name, Orchestrator: "libnetwork", Workload: "libnetwork", Name: "both"}
		w.put(key, &model.WorkloadEndpoint{
			State: "active", Interface: "caliboth", MAC: nettest.ContainerMAC, Profiles: []string{"open"}, IPv4Nets: []netip.Prefix{netip.PrefixFrom(own, 32)},
		})
		nettest.Eventually(t, patience, func() error { return other.TCP(netip.AddrPortFrom(own, tcpPort), noAnswer) })
		for what, try := range map[string]func() error{
			"to the other workload":                       func() error { return b.TCP(netip.AddrPortFrom(other.addr, tcpPort), answer) },
			"from the host":                               func() error { return h.TCP(netip.AddrPortFrom(own, tcpPort), answer) },
			"from the host, at its address on the bridge": func() error { return h.TCP(netip.AddrPortFrom(b.addr, tcpPort), answer) },
			"by its published port":                       func() error { return other.TCP(netip.AddrPortFrom(h.Addr(false), b.published), answer) },
		} {
			if err := try(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := verdictFault(other.UDP(netip.AddrPortFrom(b.addr, udpPort), noAnswer), false); err != nil {
			t.Errorf("at its address on the bridge, where nothing is published: %v", err)
		}
	})
}
