package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

const bgpPort = 179

// dials looks whether a connection can be opened; the error is [nettest.ErrNoAnswer] when
// nothing came in time.
func dials(from *nettest.Space, to netip.AddrPort, wait time.Duration) (err error) {
	from.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		var conn net.Conn
		if conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", to.String()); err == nil {
			_ = conn.Close()
		}
	})
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		err = nettest.ErrNoAnswer
	}
	return err
}

// TestWorkloadsDoNotReachTheControlPlane has a container whose policy allows everything try
// etcd, and BGP, on its own host and on another one, directly, masqueraded and by a
// published port.
func TestWorkloadsDoNotReachTheControlPlane(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		here, there := w.addHost(0, variant), w.addHost(1, variant)
		for _, h := range []*host{here, there} {
			w.put(model.NodeKey{Name: h.Name}, &model.Node{
				IPv4: h.Addr(false), IPv4Net: netip.MustParsePrefix("172.28.8.0/24"), IPv6: h.Addr(true), IPv6Net: netip.MustParsePrefix("fd00:28::/64"),
			})
			h.ServeTCP(bgpPort)
			h.ServeTCP(tcpPort)
		}
		for path, value := range goodValues() {
			if path == pool4Path || path == pool6Path || path == openPath {
				w.raw(path, value)
			}
		}
		const etcdPort = 12379
		for _, a := range []netip.Addr{there.Addr(false), there.Addr(true)} {
			there.Relay(netip.AddrPortFrom(a, etcdPort).String(), w.etcd.Addr())
		}
		here.Relay(netip.AddrPortFrom(here.Addr(false), 2379).String(), w.etcd.Addr())
		here.Run("iptables-"+variant, "-w", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "8080",
			"-j", "DNAT", "--to-destination", netip.AddrPortFrom(there.Addr(false), etcdPort).String())
		here.endpoints = fmt.Sprintf("http://127.0.0.1:2379,http://%s:%d,http://[%s]:%d", there.Addr(false), etcdPort, there.Addr(true), etcdPort)
		here.startInSync("LOGSEVERITYSCREEN=ERROR", "DEFAULTENDPOINTTOHOSTACTION=ACCEPT", "PROMETHEUSMETRICSENABLED=true")
		here.Relay("169.254.1.1:2379", w.etcd.Addr())
		a := here.container("aaaa", "open", "192.168.0.1")

		guarded := map[string]netip.AddrPort{
			"BGP there":                      netip.AddrPortFrom(there.Addr(false), bgpPort),
			"BGP there by IPv6":              netip.AddrPortFrom(there.Addr(true), bgpPort),
			"BGP here":                       netip.AddrPortFrom(here.Addr(false), bgpPort),
			"BGP here by IPv6":               netip.AddrPortFrom(here.Addr(true), bgpPort),
			"BGP at the gateway":             netip.AddrPortFrom(nettest.Gateway, bgpPort),
			"etcd there":                     netip.AddrPortFrom(there.Addr(false), etcdPort),
			"etcd there by IPv6":             netip.AddrPortFrom(there.Addr(true), etcdPort),
			"etcd here at another address":   netip.AddrPortFrom(here.Addr(false), 2379),
			"etcd here at the gateway":       netip.AddrPortFrom(nettest.Gateway, 2379),
			"etcd there by a port published": netip.AddrPortFrom(here.Addr(false), 8080),
		}
		open := map[string]netip.AddrPort{
			"another port there":         netip.AddrPortFrom(there.Addr(false), tcpPort),
			"another port there by IPv6": netip.AddrPortFrom(there.Addr(true), tcpPort),
			"another port here":          netip.AddrPortFrom(here.Addr(false), tcpPort),
		}
		expect := func(when string, passes bool) {
			t.Helper()
			for what, to := range guarded {
				if err := verdictFault(dials(a.Space, to, waitFor(passes)), passes); err != nil {
					t.Errorf("%s: %s: %v", when, what, err)
				}
			}
			for what, to := range open {
				if err := dials(a.Space, to, answer); err != nil {
					t.Errorf("%s: %s: %v", when, what, err)
				}
			}
		}
		expect("guarded", false)
		// The host itself goes on.
		if err := dials(here.Space, guarded["etcd there"], answer); err != nil {
			t.Errorf("the host: %v", err)
		}
		param := model.FelixConfigKey{Name: "WorkloadsReachControlPlane"}
		set := func(value string) {
			t.Helper()
			if err := here.wait(a, w.put(param, &model.Setting{Of: model.KindFelixConfig, Value: value}), patience); err != nil {
				t.Fatal(err)
			}
		}
		set("true")
		expect("opened", true)
		set("false")
		expect("guarded again", false)

		// A node that goes, and comes, is a member more or less: no rule is written.
		before, _ := here.changes("chains")
		w.remove(model.NodeKey{Name: there.Name})
		nettest.Eventually(t, patience, func() error { return dials(a.Space, guarded["BGP there"], noAnswer) })
		if after, _ := here.changes("chains"); after != before {
			t.Errorf("a node that goes writes %d chains", after-before)
		}
		w.put(model.NodeKey{Name: there.Name}, &model.Node{IPv4: there.Addr(false), IPv4Net: netip.MustParsePrefix("172.28.8.0/24")})
		nettest.Eventually(t, patience, func() error {
			return verdictFault(dials(a.Space, guarded["BGP there"], noAnswer), false)
		})
	})
}

// TestAHostEndpointDoesNotCutFelixFromEtcd closes the host by a host endpoint without any
// policy, with etcd at a port of its own and no failsafe port, cuts the connection to etcd
// and starts felix again: it hears that the host endpoint is deleted.
func TestAHostEndpointDoesNotCutFelixFromEtcd(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		for _, ipv6 := range []bool{false, true} {
			w := newWorld(t, nil)
			h := w.addHost(0, variant)
			peer := w.net.AddHost(nettest.HostSpec{Name: "peer", Addrs: []netip.Prefix{
				netip.MustParsePrefix("172.28.8.200/24"), netip.MustParsePrefix("fd00:28::200/64"),
			}})
			etcd := netip.AddrPortFrom(peer.Addr(ipv6), 12379)
			relay := peer.Relay(etcd.String(), w.etcd.Addr())
			peer.ServeTCP(tcpPort)
			h.endpoints = "http://" + etcd.String()
			h.ServeTCP(tcpPort)
			closed := netip.AddrPortFrom(h.Addr(ipv6), tcpPort)
			key := model.HostEndpointKey{Node: h.Name, Name: "eth0"}
			for _, name := range []string{"FailsafeInboundHostPorts", "FailsafeOutboundHostPorts"} {
				w.put(model.FelixConfigKey{Name: name}, &model.Setting{Of: model.KindFelixConfig, Value: "none"})
			}
			h.startInSync("LOGSEVERITYSCREEN=ERROR")
			if err := peer.TCP(closed, answer); err != nil {
				t.Fatal(err)
			}
			rev := w.put(key, &model.HostEndpoint{Interface: "eth0", Labels: map[string]string{"under": "host"}})
			w.put(model.NewPolicyKey("", "raw"), &model.Policy{
				Selector: "has(under)", DoNotTrack: true, Order: new(1.0),
				InboundRules: []model.Rule{{Action: model.ActionDeny}}, OutboundRules: []model.Rule{{Action: model.ActionDeny}},
			})
			nettest.Eventually(t, patience, func() error {
				return verdictFault(peer.TCP(closed, noAnswer), false)
			})
			relay.Cut()
			h.awaitDisconnected()
			relay.Mend()
			nettest.Eventually(t, patience, func() error { return h.has(rev) })
			h.felix.Kill()
			h.startInSync("LOGSEVERITYSCREEN=ERROR")
			if err := verdictFault(peer.TCP(closed, noAnswer), false); err != nil {
				t.Errorf("IPv6 %v: after the restart: %v", ipv6, err)
			}
			if err := verdictFault(h.TCP(netip.AddrPortFrom(peer.Addr(ipv6), tcpPort), noAnswer), false); err != nil {
				t.Errorf("IPv6 %v: another port of etcd's host: %v", ipv6, err)
			}
			w.remove(key)
			nettest.Eventually(t, patience, func() error { return peer.TCP(closed, noAnswer) })
		}
	})
}

// has looks whether felix is connected to etcd, at or past a revision.
func (h *host) has(rev int64) error {
	st, err := h.status()
	if err == nil && (!st.GetDatastoreConnected() || st.GetRevision() < rev) {
		err = fmt.Errorf("felix is at revision %d, connected: %v", st.GetRevision(), st.GetDatastoreConnected())
	}
	return err
}

// TestEtcdByNameIsGuarded has felix configured with a name.
func TestEtcdByNameIsGuarded(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, "nft")
	h.endpoints = "http://localhost:2379"
	h.startInSync("LOGSEVERITYSCREEN=ERROR")
	if rules := h.Run("iptables-nft", "-w", "-t", "mangle", "-S", "cali-from-wl-guard"); !strings.Contains(rules, "--dports 2379") {
		t.Errorf("the guard is %s", rules)
	}
}

// TestWhatCannotBeLocatedIsAProblem has a member of etcd go by a name that nobody knows.
func TestWhatCannotBeLocatedIsAProblem(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t, etcdtest.Args("--advertise-client-urls=http://nobody.invalid:2379")))
	h := w.addHost(0, "nft")
	h.startInSync("LOGSEVERITYSCREEN=ERROR")
	nettest.Eventually(t, patience, func() error {
		why, err := h.problemOf("control plane")
		if err == nil && (!strings.Contains(why, "nobody.invalid") || strings.Contains(why, "->")) {
			err = fmt.Errorf("the problem is %q", why)
		}
		return err
	})
}
