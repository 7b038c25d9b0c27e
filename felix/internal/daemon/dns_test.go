package daemon_test

import (
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

const dnsPort = 53

// answerNames has the host answer at the port for names of an address, by both protocols.
func (h *host) answerNames(at netip.Addr) {
	h.w.Helper()
	var udp *net.UDPConn
	var tcp *net.TCPListener
	var err error
	to := netip.AddrPortFrom(at, dnsPort)
	h.Do(func() {
		if udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(to)); err == nil {
			tcp, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(to))
		}
	})
	if err != nil {
		h.w.Fatal(err)
	}
	h.w.Cleanup(func() { _, _ = udp.Close(), tcp.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
}

// zone is an interface's index as the zone of an address; names are of the test's own space.
func zone(t *testing.T, of *nettest.Space, iface string) string {
	t.Helper()
	var link *net.Interface
	var err error
	of.Do(func() { link, err = net.InterfaceByName(iface) })
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(link.Index)
}

// TestTheGatewayIsAskedForNames has containers whose policy denies all, and one on Docker's
// bridge, ask the gateway, with connection tracking and without; another host does not
// reach it, though it sends its packets here, and nothing else of the host is open.
func TestTheGatewayIsAskedForNames(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		peer := w.net.AddHost(nettest.HostSpec{Name: "peer", Addrs: []netip.Prefix{netip.MustParsePrefix("172.28.8.200/24")}})
		peer.Run("ip", "route", "add", nettest.Gateway.String()+"/32", "via", h.Addr(false).String())
		h.docker()
		bridged := h.addBridge("docker0", 1, false)
		for path, value := range goodValues() {
			if path == pool4Path || path == pool6Path || path == openPath {
				w.raw(path, value)
			}
		}
		w.put(model.ProfileKey{Name: "shut"}, &model.Profile{})
		// It closes the host itself, to containers on bridges too.
		w.put(model.HostEndpointKey{Node: h.Name, Name: "all"}, &model.HostEndpoint{Interface: "*"})
		h.startInSync("LOGSEVERITYSCREEN=ERROR")
		a := h.container("aaaa", "shut", "192.168.0.1")
		open := h.container("bbbb", "open", "192.168.0.2")
		h.ServeTCP(tcpPort)
		h.ServeUDP(udpPort)
		gateway6 := netip.MustParseAddr("fe80::a9fe:101")
		h.answerNames(nettest.Gateway)
		h.answerNames(gateway6.WithZone(zone(t, h.Space, "caliaaaa")))

		asks := func(when string, from *nettest.Space, to netip.Addr, passes bool) {
			t.Helper()
			at := netip.AddrPortFrom(to, dnsPort)
			if err := verdictFault(from.UDP(at, waitFor(passes)), passes); err != nil {
				t.Errorf("%s: %s by UDP: %v", when, to, err)
			}
			if err := verdictFault(dials(from, at, waitFor(passes)), passes); err != nil {
				t.Errorf("%s: %s by TCP: %v", when, to, err)
			}
		}
		inside := gateway6.WithZone(zone(t, a.Space, "cali0"))
		all := func(when string) {
			t.Helper()
			asks(when+": a closed container", a.Space, nettest.Gateway, true)
			asks(when+": a closed container", a.Space, inside, true)
			asks(when+": a container of Docker's", bridged.Space, nettest.Gateway, true)
			asks(when+": another host", peer.Space, nettest.Gateway, false)
		}
		all("at first")
		for _, c := range []struct {
			what string
			err  error
		}{
			{"another port of the gateway by TCP", a.TCP(netip.AddrPortFrom(nettest.Gateway, tcpPort), noAnswer)},
			{"another port of the gateway by UDP", a.UDP(netip.AddrPortFrom(nettest.Gateway, udpPort), noAnswer)},
			{"another address of the host", a.TCP(netip.AddrPortFrom(h.Addr(false), tcpPort), noAnswer)},
			{"another port, from a bridge", bridged.TCP(netip.AddrPortFrom(nettest.Gateway, tcpPort), noAnswer)},
		} {
			if err := verdictFault(c.err, false); err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
		}

		param := model.FelixConfigKey{Name: "WorkloadDNSEnabled"}
		w.put(param, &model.Setting{Of: model.KindFelixConfig, Value: "false"})
		nettest.Eventually(t, patience, func() error {
			return verdictFault(a.UDP(netip.AddrPortFrom(nettest.Gateway, dnsPort), noAnswer), false)
		})
		asks("off: a closed container", a.Space, nettest.Gateway, false)
		asks("off: an open container", open.Space, nettest.Gateway, true)
		w.put(param, &model.Setting{Of: model.KindFelixConfig, Value: "true"})
		nettest.Eventually(t, patience, func() error { return a.UDP(netip.AddrPortFrom(nettest.Gateway, dnsPort), time.Second) })

		for _, ipt := range []string{"iptables-" + variant, "ip6tables-" + variant} {
			for _, proto := range []string{"udp", "tcp"} {
				h.Run(ipt, "-w", "-t", "raw", "-I", "PREROUTING", "-p", proto, "--dport", "53", "-j", "CT", "--notrack")
				h.Run(ipt, "-w", "-t", "raw", "-I", "OUTPUT", "-p", proto, "--sport", "53", "-j", "CT", "--notrack")
			}
		}
		all("without connections")
	})
}
