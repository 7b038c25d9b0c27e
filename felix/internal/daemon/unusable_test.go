package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/nettest"
)

// unusable is a host with a container and a peer, both families. Each kind of resource that
// policy reads takes part in keeping the peer out.
type unusable struct {
	*world
	h    *host
	a, b *endpoint
	peer *nettest.Host
}

func newUnusable(t *testing.T, variant string) *unusable {
	w := newWorld(t, nil)
	u := &unusable{world: w, h: w.addHost(0, variant)}
	u.peer = w.net.AddHost(nettest.HostSpec{
		Name:    "peer",
		Addrs:   []netip.Prefix{netip.MustParsePrefix("172.28.8.200/24"), netip.MustParsePrefix("fd00:28::200/64")},
		Default: []netip.Addr{u.h.Addr(false), u.h.Addr(true)},
	})
	for path, value := range goodValues() {
		w.raw(path, value)
	}
	u.h.startInSync("LOGSEVERITYSCREEN=ERROR")
	u.a = u.h.attach("aaaa", "open", "192.168.0.1")
	u.a.value.Labels = map[string]string{"role": "server"}
	w.put(u.a.key, u.a.value)
	u.h.await(u.a)
	u.b = u.h.container("bbbb", "open", "192.168.0.2")
	u.h.ServeTCP(tcpPort)
	u.h.ServeTCP(22)
	return u
}

// The paths of what the test spoils.
const (
	setPath    = "/calico/v1/netset/blocklist"
	tierPath   = "/calico/v1/policy/tier/guard/metadata"
	guardPath  = "/calico/v1/policy/tier/guard/policy/block"
	blockPath  = "/calico/v1/policy/tier/default/policy/block"
	openPath   = "/calico/v1/policy/profile/open/rules"
	hostPath   = "/calico/v1/host/node00/endpoint/eth0"
	pool4Path  = "/calico/v1/ipam/v4/pool/192.168.0.0-16"
	pool6Path  = "/calico/v1/ipam/v6/pool/fd00:80::-32"
	serverPath = "/calico/v1/host/node00/workload/libnetwork/libnetwork/endpoint/aaaa"
)

// goodValues is a store in which the tier guard denies UDP, a policy denies the networks of
// a set, and the rest is open.
func goodValues() map[string]string {
	return map[string]string{
		openPath:  `{"inbound_rules":[{"action":"allow"}],"outbound_rules":[{"action":"allow"}]}`,
		setPath:   `{"nets":["172.28.8.200/32","fd00:28::200/128"],"labels":{"role":"bad"}}`,
		tierPath:  `{"order":5}`,
		guardPath: `{"selector":"role == 'server'","types":["ingress"],"inbound_rules":[{"action":"deny","protocol":"udp"},{"action":"next-tier"}],"outbound_rules":[]}`,
		blockPath: `{"selector":"role == 'server'","types":["ingress"],"inbound_rules":[{"action":"deny","src_selector":"role == 'bad'"},{"action":"allow"}],"outbound_rules":[]}`,
		hostPath:  `{"name":"eth0","labels":{"is":"host"}}`,
		pool4Path: `{"cidr":"192.168.0.0/16","masquerade":true,"ipam":true}`,
		pool6Path: `{"cidr":"fd00:80::/32","masquerade":true,"ipam":true}`,
	}
}

// badValues are values of the same that cannot be used.
func badValues() map[string]string {
	return map[string]string{
		openPath:   `{"inbound_rules":[{"action":"open"}],"outbound_rules":[]}`,
		setPath:    `{"nets":["172.28.8.200/32","fd00:28::200/128","everywhere"],"labels":{"role":"bad"}}`,
		tierPath:   `{"order":5,"default_action":"Perhaps"}`,
		blockPath:  `{"selector":"role == 'server'","inbound_rules":[{"action":"allow","src_net":"everywhere"}]}`,
		hostPath:   `{"name":"eth0","expected_ipv4_addrs":["here"]}`,
		pool4Path:  `nonsense`,
		pool6Path:  `{"cidr":"fd00:80::/32","masquerade":"yes"}`,
		serverPath: `{"state":"sleeping","name":"caliaaaa"}`,
	}
}

// raw writes a value as it is, and returns the revision.
func (w *world) raw(path, value string) int64 {
	w.Helper()
	resp, err := w.store.Raw().Put(w.Context(), path, value)
	if err != nil {
		w.Fatal(err)
	}
	return resp.Header.Revision
}

func (w *world) rawDelete(path string) int64 {
	w.Helper()
	resp, err := w.store.Raw().Delete(w.Context(), path)
	if err != nil {
		w.Fatal(err)
	}
	if resp.Deleted == 0 { // felix hears nothing then, and the revision is that of a key that it does not read
		return 0
	}
	return resp.Header.Revision
}

// spoil writes the bad value of each path and waits until felix has taken it over.
func (u *unusable) spoil(paths ...string) {
	u.Helper()
	var rev int64
	for _, p := range paths {
		rev = u.raw(p, badValues()[p])
	}
	u.awaitRevision(rev)
}

func (u *unusable) mend(paths ...string) {
	u.Helper()
	var rev int64
	for _, p := range paths {
		rev = u.raw(p, goodValues()[p])
	}
	u.awaitRevision(rev)
}

func (u *unusable) awaitRevision(rev int64) {
	u.Helper()
	if err := u.h.wait(u.b, rev, patience); err != nil {
		u.Fatal(err)
	}
}

// restart starts felix anew, so that it has no older version of anything.
func (u *unusable) restart() {
	u.Helper()
	u.h.felix.Kill()
	u.h.startInSync("LOGSEVERITYSCREEN=ERROR")
}

// probes are, by IP version, the ways whose fate the test looks at.
func (u *unusable) probes(ipv6 bool) map[string]func(time.Duration) error {
	a, b, here := u.a.addr, u.b.addr, u.h.Addr(ipv6)
	if ipv6 {
		a, b = u.a.addr6, u.b.addr6
	}
	tcp := func(from *nettest.Space, to netip.Addr, port uint16) func(time.Duration) error {
		return func(wait time.Duration) error { return from.TCP(netip.AddrPortFrom(to, port), wait) }
	}
	return map[string]func(time.Duration) error{
		"peer to server":         tcp(u.peer.Space, a, tcpPort),
		"container to server":    tcp(u.b.Space, a, tcpPort),
		"UDP to server":          func(wait time.Duration) error { return u.b.UDP(netip.AddrPortFrom(a, udpPort), wait) },
		"peer to open container": tcp(u.peer.Space, b, tcpPort),
		"peer to host":           tcp(u.peer.Space, here, tcpPort),
		"peer to failsafe port":  tcp(u.peer.Space, here, 22),
	}
}

// expect looks which of the ways are open; all others are closed.
func (u *unusable) expect(when string, open ...string) {
	u.Helper()
	var wg sync.WaitGroup
	for _, ipv6 := range []bool{false, true} {
		for what, try := range u.probes(ipv6) {
			wg.Go(func() {
				passes := strings.Contains(" "+strings.Join(open, ", ")+",", " "+what+",")
				if err := verdictFault(try(waitFor(passes)), passes); err != nil {
					u.Errorf("%s: %s (IPv6 %v): %v", when, what, ipv6, err)
				}
			})
		}
	}
	wg.Wait()
}

// masquerades reports whether the kernel masquerades the pools.
func (u *unusable) masquerades(when string, want bool) {
	u.Helper()
	for set, pool := range map[string]string{"cali4-masq-ipam-pools": "192.168.0.0/16", "cali6-masq-ipam-pools": "fd00:80::/32"} {
		if got := strings.Contains(u.h.Run("ipset", "list", set), pool); got != want {
			u.Errorf("%s: set %s has the pool: %v, want %v", when, set, got, want)
		}
	}
}

const (
	asWritten = "container to server, peer to open container, peer to failsafe port"
	failsafe  = "peer to failsafe port"
)

// TestAValueThatTurnsUnusableOpensAndClosesNothing spoils each kind of value that policy
// reads, while felix runs: the version before stays in force. Then it is mended, spoilt
// again and deleted.
func TestAValueThatTurnsUnusableOpensAndClosesNothing(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		u := newUnusable(t, variant)
		u.expect("as written", asWritten)
		u.masquerades("as written", true)
		all := []string{openPath, setPath, tierPath, blockPath, hostPath, pool4Path, pool6Path, serverPath}
		u.spoil(all...)
		u.expect("spoilt", asWritten)
		u.masquerades("spoilt", true)
		nettest.Eventually(t, patience, func() error {
			var errs []error
			for _, name := range []string{"profile(", "networkSet(", "tier(", "policy(", "hostEndpoint(", "ipPool(cidr=192", "ipPool(cidr=fd00", "workloadEndpoint("} {
				errs = append(errs, u.h.saysOf(name, "its last valid version stays in force"))
			}
			return errors.Join(errs...)
		})
		if err := u.h.ready(true); err != nil {
			t.Error(err)
		}
		u.mend(openPath, setPath, tierPath, blockPath, hostPath, pool4Path, pool6Path)
		u.put(u.a.key, u.a.value)
		u.expect("mended", asWritten)
		u.spoil(setPath, tierPath, hostPath, pool4Path, pool6Path)
		u.awaitRevision(max(u.rawDelete(setPath), u.rawDelete(hostPath), u.rawDelete(pool4Path), u.rawDelete(pool6Path)))
		u.expect("deleted", asWritten+", peer to server, peer to host")
		u.masquerades("deleted", false)
	})
}

// TestAnUnusableValueClosesWhatItCouldOpen starts felix where values cannot be used, of
// which it has no older version, one kind after the other, and mends them.
func TestAnUnusableValueClosesWhatItCouldOpen(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		u := newUnusable(t, variant)
		for _, c := range []struct {
			what, path, open, reason string
		}{
			{"a network set", setPath, "peer to open container, " + failsafe, "policies that would let more pass without them deny"},
			{"a tier", tierPath, "peer to open container, " + failsafe, "its policies deny what they select"},
			{"a policy", blockPath, "peer to open container, " + failsafe, "it denies what it selects"},
			{"a host endpoint", hostPath, asWritten, "interface eth0 is closed but for failsafe ports"},
			{"a profile", openPath, failsafe, "it denies what reaches it"},
			{"an IPv4 pool", pool4Path, asWritten, "its range counts as a pool's"},
			{"an IPv6 pool", pool6Path, asWritten, "its range counts as a pool's"},
		} {
			u.spoil(c.path)
			u.restart()
			u.expect(c.what, c.open)
			u.masquerades(c.what, true)
			nettest.Eventually(t, patience, func() error { return u.h.says(c.reason) })
			if err := u.h.ready(true); err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
			u.mend(c.path)
			u.expect(c.what+" is mended", asWritten)
		}
		// A host endpoint of which nothing can be read closes all interfaces.
		u.awaitRevision(u.raw(hostPath, "nonsense"))
		u.restart()
		u.expect("a host endpoint of which nothing can be read", asWritten)
		u.awaitRevision(u.rawDelete(hostPath))
		u.expect("it is deleted", asWritten+", peer to host")
	})
}

// TestAPolicyThatSelectsNothingReadableIsNamed has a policy without a selector that can be
// read: nothing can stand in for it, so felix is not ready.
func TestAPolicyThatSelectsNothingReadableIsNamed(t *testing.T) {
	u := newUnusable(t, "nft")
	const path = "/calico/v1/policy/tier/default/policy/lost"
	for _, value := range []string{`{"selector":"role ==","inbound_rules":[]}`, `{"sel`} {
		u.raw(path, value)
		nettest.Eventually(t, patience, func() error {
			return errors.Join(u.h.saysOf("policy(name=lost)", "it is not in force"), u.h.ready(false))
		})
		u.restart()
		nettest.Eventually(t, patience, func() error { return u.h.ready(false) })
		u.expect("with a policy that is not in force", asWritten)
		u.awaitRevision(u.rawDelete(path))
		nettest.Eventually(t, patience, func() error { return u.h.ready(true) })
	}
	// With an older version it is in force, and felix ready.
	u.awaitRevision(u.raw(path, `{"selector":"role == 'server'","order":1,"types":["ingress"],"inbound_rules":[{"action":"deny"}],"outbound_rules":[]}`))
	u.awaitRevision(u.raw(path, `{"sel`))
	u.expect("its last version stays", "peer to open container, "+failsafe)
	if err := u.h.ready(true); err != nil {
		t.Error(err)
	}
}

// saysOf looks for a text among the problems that felix tells of an object.
func (h *host) saysOf(object, text string) error {
	st, err := h.status()
	if err != nil {
		return err
	}
	for _, p := range st.GetProblems() {
		if strings.Contains(p.GetObject(), object) && strings.Contains(p.GetReason(), text) {
			return nil
		}
	}
	return fmt.Errorf("no %q of %s among the problems: %v", text, object, st.GetProblems())
}

// ready looks whether felix says that it is ready.
func (h *host) ready(want bool) error {
	conn, err := grpcsock.Dial(filepath.Join(h.runDir, "felix.sock"))
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	ctx, cancel := context.WithTimeout(h.w.Context(), answer)
	defer cancel()
	resp, err := healthgrpc.NewHealthClient(conn).Check(ctx, &healthgrpc.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err == nil && (resp.GetStatus() == healthgrpc.HealthCheckResponse_SERVING) != want {
		err = fmt.Errorf("felix says that it is %s", resp.GetStatus())
	}
	return err
}

// lan is a network behind the host, by lan0, that is no workload's.
func (h *host) lan() *endpoint {
	h.w.Helper()
	e := &endpoint{addr: netip.MustParseAddr("10.66.0.2"), addr6: netip.MustParseAddr("fd66::2")}
	e.Container = h.AddContainer("lan0", e.addr, e.addr6)
	e.ServeTCP(tcpPort)
	for _, a := range []netip.Addr{e.addr, e.addr6} {
		h.Run("ip", "route", "add", a.String(), "dev", "lan0")
	}
	return e
}

// at is the address of a family.
func (e *endpoint) at(ipv6 bool) netip.Addr {
	if ipv6 {
		return e.addr6
	}
	return e.addr
}

// TestAnUnreadableHostEndpointClosesWhatTheHostForwards starts felix where nothing of a host
// endpoint can be read, or not its labels: any policy for forwarded packets might select it.
func TestAnUnreadableHostEndpointClosesWhatTheHostForwards(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		u := newUnusable(t, variant)
		u.peer.ServeTCP(tcpPort)
		lan := u.h.lan()
		forwards := func(when string, in, out, fromContainer, toContainer bool) {
			t.Helper()
			for _, ipv6 := range []bool{false, true} {
				for _, way := range []struct {
					what   string
					from   *nettest.Space
					to     netip.Addr
					passes bool
				}{
					{"peer to the network behind", u.peer.Space, lan.at(ipv6), in},
					{"the network behind to peer", lan.Space, u.peer.Addr(ipv6), out},
					{"container to peer", u.b.Space, u.peer.Addr(ipv6), fromContainer},
					{"peer to container", u.peer.Space, u.b.at(ipv6), toContainer},
				} {
					if err := verdictFault(way.from.TCP(netip.AddrPortFrom(way.to, tcpPort), waitFor(way.passes)), way.passes); err != nil {
						t.Errorf("%s: %s (IPv6 %v): %v", when, way.what, ipv6, err)
					}
				}
			}
		}
		const forwardPath = "/calico/v1/policy/tier/default/policy/forward"
		forwards("as written", true, true, true, true)
		for _, bad := range []string{"nonsense", `{"name":"eth0","labels":7}`} {
			u.awaitRevision(u.rawDelete(forwardPath))
			u.raw(hostPath, bad)
			u.restart()
			forwards(bad+": no policy is for forwarded packets", true, true, true, true)
			u.expect(bad, asWritten)
			// Any that is might select it; it denies what containers send to this port.
			u.awaitRevision(u.raw(forwardPath, fmt.Sprintf(
				`{"selector":"is == 'host'","apply_on_forward":true,"inbound_rules":[],"outbound_rules":[{"action":"deny","protocol":"tcp","dst_ports":[%d]}]}`, tcpPort)))
			forwards(bad+": a policy is", false, false, false, true)
			if _, err := u.b.Ping(u.peer.Addr(false), answer); err != nil {
				t.Errorf("%s: what no policy denies to a container: %v", bad, err)
			}
			u.expect(bad+": a policy is", asWritten)
			nettest.Eventually(t, patience, func() error { return u.h.says("only packets of workloads pass") })
			// One that is asked before DNAT may have denied what comes in.
			u.awaitRevision(u.raw(forwardPath, `{"selector":"is == 'host'","pre_dnat":true,"apply_on_forward":true,"types":["ingress"],"inbound_rules":[{"action":"deny"}],"outbound_rules":[]}`))
			everywhere := bad == "nonsense"
			forwards(bad+": a policy before DNAT is", false, !everywhere, true, true)
		}
		u.awaitRevision(u.rawDelete(forwardPath))
		u.mend(hostPath)
		forwards("mended", true, true, true, true)
	})
}
