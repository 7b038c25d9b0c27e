package daemon_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// probing sends a UDP packet every millisecond until the test ends, and counts the
// answers whenever they come.
type probing struct {
	t        testing.TB
	to       netip.AddrPort
	sent     atomic.Int64
	answered atomic.Int64
}

func startProbing(t testing.TB, from *nettest.Space, to netip.AddrPort) *probing {
	t.Helper()
	p := &probing{t: t, to: to}
	var conn *net.UDPConn
	var err error
	from.Do(func() { conn, err = net.ListenUDP("udp", nil) })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { close(done); _ = conn.Close() })
	go p.send(conn, done)
	go p.receive(conn)
	return p
}

func (p *probing) send(conn *net.UDPConn, done <-chan struct{}) {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case <-pace.C:
			if _, err := conn.WriteToUDPAddrPort([]byte("probe"), p.to); err == nil {
				p.sent.Add(1)
			}
		case <-done:
			return
		}
	}
}

func (p *probing) receive(conn *net.UDPConn) {
	buf := make([]byte, 64)
	for {
		_, _, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.answered.Add(1)
		}
	}
}

// awaitMore waits until n more probes are sent.
func (p *probing) awaitMore(n int64) {
	p.t.Helper()
	want := p.sent.Load() + n
	nettest.Eventually(p.t, patience, func() error {
		if sent := p.sent.Load(); sent < want {
			return fmt.Errorf("%d probes to %s of %d are sent", sent, p.to, want)
		}
		return nil
	})
}

// TestAColdStartWithManyRulesNeverOpens has a stranger knock at a container from before
// felix starts until well after it is in sync with 10,000 rules: no packet ever gets an
// answer, until a policy lets the stranger in.
func TestAColdStartWithManyRulesNeverOpens(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		stranger := w.net.AddHost(nettest.HostSpec{
			Name: "stranger", Addrs: []netip.Prefix{netip.MustParsePrefix("172.28.8.200/24"), netip.MustParsePrefix("fd00:28::200/64")},
			Default: []netip.Addr{h.Addr(false), h.Addr(true)},
		})
		w.network("net2")
		w.manyPolicies(20000) // half of them stand in the datastore
		c := h.attach("cccc", "net2", "192.168.0.3")
		w.put(c.key, c.value)
		var probes []*probing
		for _, a := range []netip.Addr{c.addr, c.addr6} {
			probes = append(probes, startProbing(t, stranger.Space, netip.AddrPortFrom(a, udpPort)))
		}
		expectSilence := func(when string) {
			t.Helper()
			for _, p := range probes {
				p.awaitMore(300)
				if n := p.answered.Load(); n > 0 {
					t.Errorf("%s: %d of %d probes to %s were answered", when, n, p.sent.Load(), p.to)
				}
			}
		}
		expectSilence("before the start")
		h.startInSync("LOGSEVERITYSCREEN=WARNING")
		h.await(c)
		expectSilence("after the start")

		rev := w.put(model.NewPolicyKey("", "stranger"), &model.Policy{
			Selector: "has(net2)", Types: []string{model.PolicyTypeIngress},
			InboundRules: []model.Rule{
				{Action: model.ActionAllow, Source: model.Match{Nets: []netip.Prefix{netip.PrefixFrom(stranger.Addr(false), 32)}}},
				{Action: model.ActionAllow, Source: model.Match{Nets: []netip.Prefix{netip.PrefixFrom(stranger.Addr(true), 128)}}},
			},
		})
		if err := h.wait(c, rev, patience); err != nil {
			t.Fatal(err)
		}
		for _, p := range probes {
			nettest.Eventually(t, patience, func() error {
				if p.answered.Load() == 0 {
					return fmt.Errorf("probes to %s are not answered although a policy allows them", p.to)
				}
				return nil
			})
		}
	})
}
