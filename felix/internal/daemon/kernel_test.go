package daemon_test

import (
	"strings"
	"testing"

	"calico.internal/libcalico/model"
)

func TestNetworksAreSeparateUntilAPolicyOpensThem(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.network("net1")
		w.network("net2")
		h.startInSync()
		a := h.container("aaaa", "net1", "192.168.0.1")
		b := h.container("bbbb", "net1", "192.168.0.2")
		c := h.container("cccc", "net2", "192.168.0.3")
		w.canReach(a, b)
		w.canReach(b, a)
		w.cannotReach(a, c)
		w.cannotReach(c, a)

		if got := h.Run("ip", "route"); !strings.Contains(got, "192.168.0.1 dev caliaaaa scope link") {
			t.Errorf("routes are %s", got)
		}
		if got := h.Sysctl("net/ipv4/conf/caliaaaa/proxy_arp"); got != "1" {
			t.Errorf("proxy_arp is %s", got)
		}

		rev := w.put(model.NewPolicyKey("", "open"), &model.Policy{
			Selector: "has(net2)", Types: []string{model.PolicyTypeIngress},
			InboundRules: []model.Rule{{Action: model.ActionAllow, Source: model.Match{Selector: "has(net1)"}}},
		})
		if err := h.wait(c, rev, patience); err != nil {
			t.Fatal(err)
		}
		w.canReach(a, c)
		w.cannotReach(c, a)

		rev = w.remove(model.NewPolicyKey("", "open"))
		if err := h.wait(c, rev, patience); err != nil {
			t.Fatal(err)
		}
		w.cannotReach(a, c)
	})
}
