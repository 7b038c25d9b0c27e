package daemon_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// TestTheHostReachesItsContainersWhateverTheAllowAction has a host and its container call
// each other where an allowed packet is accepted, and where it returns to the host's rules.
func TestTheHostReachesItsContainersWhateverTheAllowAction(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		for _, action := range []string{"ACCEPT", "RETURN"} {
			w := newWorld(t, nil)
			h := w.addHost(0, variant)
			w.network("net1")
			h.ServeTCP(tcpPort)
			h.startInSync("IPTABLESFILTERALLOWACTION="+action, "LOGSEVERITYSCREEN=WARNING")
			a := h.container("aaaa", "net1", "192.168.0.1")
			for _, to := range []netip.Addr{a.addr, a.addr6} {
				if err := h.TCP(netip.AddrPortFrom(to, tcpPort), answer); err != nil {
					t.Errorf("%s: the host to its container: %v", action, err)
				}
				if err := h.UDP(netip.AddrPortFrom(to, udpPort), answer); err != nil {
					t.Errorf("%s: the host to its container: %v", action, err)
				}
			}
			for _, to := range []netip.Addr{h.Addr(false), h.Addr(true)} {
				if err := a.TCP(netip.AddrPortFrom(to, tcpPort), noAnswer); !errors.Is(err, nettest.ErrNoAnswer) {
					t.Errorf("%s: the container to its host: %v", action, err)
				}
			}
			if _, err := a.Ping(nettest.Gateway, answer); err != nil {
				t.Errorf("%s: the container to its gateway: %v", action, err)
			}
		}
	})
}

// TestAClosedHostReportsItsGroups lets reports of the groups that a host listens to leave
// it, without which a switch that looks for them stops sending it neighbour solicitations.
func TestAClosedHostReportsItsGroups(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.put(model.HostEndpointKey{Node: h.Name, Name: "eth0"}, &model.HostEndpoint{Interface: "eth0", Labels: map[string]string{"under": "host"}})
		w.put(model.NewPolicyKey("", "raw"), &model.Policy{Selector: "has(under)", DoNotTrack: true, InboundRules: []model.Rule{{Action: model.ActionDeny}}, OutboundRules: []model.Rule{{Action: model.ActionDeny}}})
		h.startInSync("LOGSEVERITYSCREEN=WARNING")
		ip6tables := "ip6tables-" + variant
		h.Run(ip6tables, "-w", "-t", "mangle", "-A", "POSTROUTING", "-p", "icmpv6", "--icmpv6-type", "143", "-m", "comment", "--comment", "reports")
		sent := func() (n int) {
			for line := range strings.Lines(h.Run(ip6tables, "-w", "-t", "mangle", "-L", "POSTROUTING", "-v", "-x", "-n")) {
				if strings.Contains(line, "reports") {
					_, _ = fmt.Sscan(line, &n)
				}
			}
			return n
		}
		before := sent()
		var conn *net.UDPConn
		var err error
		h.Do(func() {
			var eth0 *net.Interface
			if eth0, err = net.InterfaceByName("eth0"); err == nil {
				conn, err = net.ListenMulticastUDP("udp6", eth0, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[ff02::1234]:5000")))
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() //nolint:errcheck // nothing was written
		nettest.Eventually(t, answer, func() error {
			if sent() == before {
				return errors.New("no report left the host")
			}
			return nil
		})
	})
}
