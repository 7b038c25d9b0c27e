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
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// Taking access away waits for nothing: forbidden packets end so long after the write at
// most. Of several revocations one may take longer, on a machine that has other things to do.
const (
	revoked     = 50 * time.Millisecond
	revocations = 5
)

// revocation is a container c that admits whoever has a label, and b which has it.
type revocation struct {
	*world

	h    *host
	b, c *endpoint
}

func newRevocation(t *testing.T, variant string, before ...func(*host)) *revocation {
	t.Helper()
	w := newWorld(t, nil)
	h := w.addHost(0, variant)
	for _, f := range before {
		f(h)
	}
	w.network("net1")
	w.network("net2")
	w.put(model.NewPolicyKey("", "labelled"), &model.Policy{
		Selector: "has(net2)", Types: []string{model.PolicyTypeIngress},
		InboundRules: []model.Rule{{Action: model.ActionAllow, Source: model.Match{Selector: "role == 'x'"}}},
	})
	h.startInSync()
	r := &revocation{world: w, h: h}
	r.b = h.container("bbbb", "net1", "192.168.0.2")
	r.c = h.container("cccc", "net2", "192.168.0.3")
	return r
}

// label gives b the label, or takes it.
func (r *revocation) label(has bool) {
	r.b.value.Labels = nil
	if has {
		r.b.value.Labels = map[string]string{"role": "x"}
	}
	r.put(r.b.key, r.b.value)
}

// expectSoon takes the label several times.
func (r *revocation) expectSoon(when string) {
	r.Helper()
	r.mostlySoon(when, func(int) (*endpoint, func()) {
		r.label(true)
		nettest.Eventually(r, patience, func() error { return r.b.UDP(netip.AddrPortFrom(r.c.addr, udpPort), noAnswer) })
		return r.c, func() { r.label(false) }
	})
}

// mostlySoon revokes several times, as next says, what lets b reach an endpoint. One time may be
// late, when others had the processor.
func (r *revocation) mostlySoon(when string, next func(i int) (*endpoint, func())) {
	r.Helper()
	late := 0
	for i := range revocations {
		to, revoke := next(i)
		took := verdictChange(r, r.b, to, false, func() {
			revoke()
			<-time.After(2 * revoked)
		})
		r.Logf("%s: forbidden packets passed for %v", when, took)
		if took > revoked {
			late++
		}
	}
	if late > 1 {
		r.Errorf("%s: %d of %d times forbidden packets passed for more than %v", when, late, revocations, revoked)
	}
}

func TestARevokedLabelWaitsForNoLock(t *testing.T) {
	r := newRevocation(t, iptables.Legacy)
	d := r.h.attach("dddd", "net1", "192.168.0.4")
	var removed [revocations]*endpoint
	for i := range removed {
		removed[i] = r.h.container(fmt.Sprintf("e%03d", i), "net1", fmt.Sprintf("192.168.0.%d", 5+i))
	}
	release := r.h.holdLock()
	r.opening() // which needs the lock, for chains
	last := r.put(d.key, d.value)
	r.h.awaitProblem("xtables lock")
	r.expectSoon("while another program holds the lock")
	r.mostlySoon("an endpoint is removed", func(i int) (*endpoint, func()) {
		return removed[i], func() { r.remove(removed[i].key) }
	})
	release()
	start := time.Now()
	if err := r.h.wait(d, last, recovery); err != nil {
		t.Error(err)
	}
	t.Logf("in force %v after the lock is free", time.Since(start))
}

// TestALabelThatAPolicyDeniesIsLostAfterThePolicy replaces a label that is denied by another
// one, which the policy is made to deny first, while the policy cannot be written.
func TestALabelThatAPolicyDeniesIsLostAfterThePolicy(t *testing.T) {
	r := newRevocation(t, iptables.Legacy)
	denies := func(roles ...string) int64 {
		var list []model.Rule
		for _, role := range roles {
			list = append(list, model.Rule{Action: model.ActionDeny, Source: model.Match{Selector: "role == '" + role + "'"}})
		}
		return r.put(model.NewPolicyKey("", "labelled"), &model.Policy{
			Selector: "has(net2)", Types: []string{model.PolicyTypeIngress}, InboundRules: append(list, model.Rule{Action: model.ActionAllow}),
		})
	}
	r.b.value.Labels = map[string]string{"role": "bad"}
	r.put(r.b.key, r.b.value)
	if err := r.h.wait(r.c, denies("bad"), patience); err != nil {
		t.Fatal(err)
	}
	r.cannotReach(r.b, r.c)
	release := r.h.holdLock()
	denies("bad", "worse")
	r.b.value.Labels["role"] = "worse"
	last := r.put(r.b.key, r.b.value)
	r.h.awaitProblem("xtables lock")
	r.cannotReach(r.b, r.c)
	release()
	if err := r.h.wait(r.c, last, recovery); err != nil {
		t.Error(err)
	}
	r.cannotReach(r.b, r.c)
}

func TestARevokedLabelWaitsForNoRoute(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		r := newRevocation(t, variant)
		d := r.h.attach("dddd", "net1", "192.168.0.4")
		r.h.Run("ip", "link", "set", "calidddd", "mtu", "1000") // too little for IPv6: its routes are refused
		r.put(d.key, d.value)
		r.h.awaitProblem("no such device")
		r.expectSoon("beside a route that fails")
	})
}

// refuseRestore has iptables-restore refuse input in which a text stands.
func refuseRestore(text string) func(*host) {
	return func(h *host) {
		input := filepath.Join(h.w.TempDir(), "input")
		h.shimRestore(fmt.Sprintf(`t=$(mktemp %s.XXXXXX); cat > $t
if grep -q '%s' $t; then echo refused >&2; exit 2; fi
exec < $t; rm $t`, input, text))
	}
}

func TestARevokedLabelWaitsForNoChain(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		r := newRevocation(t, variant, refuseRestore("4242"))
		r.network("net3")
		r.h.container("dddd", "net3", "192.168.0.4")
		r.put(model.NewPolicyKey("", "refused"), &model.Policy{
			Selector: "has(net3)", Types: []string{model.PolicyTypeEgress},
			OutboundRules: []model.Rule{{Action: model.ActionDeny, Protocol: "tcp", Destination: model.Match{Ports: []model.Port{{First: 4242, Last: 4242}}}}},
		})
		r.h.awaitProblem("refused")
		r.expectSoon("beside a chain that is refused")
	})
}

// TestARevokedLabelWaitsForNoStorm takes interfaces of endpoints down and up without an end,
// on a host that has many routes.
func TestARevokedLabelWaitsForNoStorm(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		r := newRevocation(t, variant)
		r.h.foreignRoutes(3000)
		var batch strings.Builder
		for i := range 10 {
			e := r.h.container(fmt.Sprintf("s%03d", i), "net1", fmt.Sprintf("192.168.1.%d", i))
			fmt.Fprintf(&batch, "link set cali%[1]s down\nlink set cali%[1]s up\n", e.value.Interface[len("cali"):])
		}
		path := filepath.Join(t.TempDir(), "batch")
		if err := os.WriteFile(path, []byte(batch.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		p := r.h.Start("sh", "-c", "while :; do ip -batch "+path+"; sleep 0.01; done")
		t.Cleanup(p.Kill)
		r.expectSoon("in a storm of link events")
	})
}

// foreignRoutes makes routes as bgpd does.
func (h *host) foreignRoutes(n int) {
	h.w.Helper()
	var batch strings.Builder
	for i := range n {
		fmt.Fprintf(&batch, "route add blackhole 10.%d.%d.0/26 proto 12\n", i/256, i%256)
	}
	h.ipBatch(1, batch.String()+"# %d")
}
