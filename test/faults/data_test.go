package faults

import (
	"fmt"
	"strings"
	"testing"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	"calico.internal/test/internal/cluster"
)

// hostileValues are values that nobody means well with, by path.
func hostileValues() map[string]string {
	name := strings.Repeat("x", 200)
	deep := strings.Repeat("!(", 10000) + "all()" + strings.Repeat(")", 10000)
	labels := make([]string, 100000)
	for i := range labels {
		labels[i] = fmt.Sprintf("%q:%q", fmt.Sprintf("label%d", i), "x")
	}
	endpoint := func(iface, net string) string {
		return fmt.Sprintf(`{"state":"active","name":%q,"mac":"ee:ee:ee:ee:ee:ee","profile_ids":["net1"],"ipv4_nets":[%q]}`, iface, net)
	}
	const (
		workload = "/calico/v1/host/node00/workload/libnetwork/libnetwork/endpoint/"
		policies = "/calico/v1/policy/tier/default/policy/"
	)
	return map[string]string{
		policies + "huge":                        `{"selector":"has(net2)","inbound_rules":"` + strings.Repeat("a", 1<<20) + `"}`,
		policies + "not-json":                    "\x00\xff{{{",
		policies + "shell":                       `{"selector":"has(net2)","inbound_rules":[{"action":"allow","src_tag":"x\" -j ACCEPT; touch /pwned; #"}]}`,
		policies + "newline":                     `{"selector":"role == 'a\nCOMMIT\n*filter\n-A FORWARD -j ACCEPT'","inbound_rules":[{"action":"allow"}]}`,
		policies + "deep":                        fmt.Sprintf(`{"selector":%q,"inbound_rules":[{"action":"allow"}]}`, deep),
		policies + "port":                        `{"selector":"has(net2)","inbound_rules":[{"action":"allow","protocol":"tcp","dst_ports":[70000]}]}`,
		policies + "%2e%2e%2f%2e%2e":             `{"selector":"has(net2)","inbound_rules":[{"action":"deny"}]}`,
		"/calico/v1/policy/profile/../tags":      `["net1"]`,
		"/calico/v1/policy/profile/a\x00b/rules": `{}`,
		workload + "nul":                         endpoint("cali\x00", "192.168.0.99/32"),
		workload + "slash":                       endpoint("cali/../../x", "192.168.0.98/32"),
		workload + "longname":                    endpoint("cali"+name, "192.168.0.97/32"),
		workload + "everything":                  endpoint("calieverything", "0.0.0.0/0"),
		workload + "mapped":                      endpoint("calimapped", "::ffff:192.168.0.96/128"),
		workload + "labels":                      strings.TrimSuffix(endpoint("calilabels", "192.168.0.95/32"), "}") + `,"labels":{` + strings.Join(labels[:20000], ",") + "}}",
		"/calico/v1/host/node00/endpoint/eth9":   `{"name":"eth9;reboot","expected_ipv4_addrs":["1.2.3.4; DROP"]}`,
		"/calico/v1/ipam/v4/pool/0.0.0.0-0":      `{"cidr":"0.0.0.0/0"}`,
		"/calico/bgp/v1/host/node00/peer_v4/x":   `{"ip":"10.77.0.250","as_num":"65001\nlog_level = \"debug\""}`,
		"/calico/bgp/v1/host/\"\n/ip_addr_v4":    "10.77.0.251",
		"/calico/bgp/v1/global/as_num":           `64512"]; touch /pwned`,
		"/calico/v1/config/LogSeverityScreen":    "$(touch /pwned)",
		"/calico/v1/host/node00/config/Nonsense": name,
		"/calico/v1/policy/tier//policy//":       "{}",
	}
}

// TestHostileData: values of all kinds that no tool of ours writes. Each is put aside by
// itself and named; what was allowed and denied stays so, and what is written after them is
// in force.
func TestHostileData(t *testing.T) {
	c := cluster.New(t, 2)
	c.StartAll()
	a, b := c.Hosts[0].Add("a", "net1"), c.Hosts[1].Add("b", "net1")
	d := c.Hosts[1].Add("d", "net2")
	for _, w := range []*cluster.Workload{a, b, d} {
		w.InForce()
	}
	a.Reaches(b.IP, 62)
	a.Reaches(b.IP6, 62)
	hold := a.Hold(b, d)
	values := hostileValues()
	for path, value := range values {
		c.Raw(path, value)
	}
	e := c.Hosts[0].Add("e", "net1")
	e.InForce()
	e.Reaches(a.IP, 0)
	c.Hosts[0].AwaitProblem("not-json")
	hold.Await(100)
	hold.End()
	// Some of them are policies that select net2 and cannot be used: these deny.
	c.Profile("net2", "net1")
	c.Hosts[0].Add("f", "net1").InForce()
	a.Cut(d.IP)
	a.Cut(d.IP6)
	for path := range values {
		c.Unset(path)
	}
	a.Reaches(d.IP, 62)
	a.Reaches(d.IP6, 62)
	for _, h := range c.Hosts {
		for name, p := range map[string]*nettest.Process{"felix": h.Felix, "bgpd": h.BGPD, "confd": h.Confd} {
			select {
			case <-p.Done():
				t.Errorf("%s of %s has ended", name, h.Node)
			default:
			}
		}
		if rules := h.Run("iptables-nft-save") + h.Run("iptables-legacy-save"); strings.Contains(rules, "pwned") {
			t.Errorf("text of a value is in the rules of %s:\n%s", h.Node, rules)
		}
	}
}

// TestATighterPolicyAndWhatIsConnected states the rule for connections that exist when a
// policy forbids them: they go on, as connection tracking has it; new ones do not.
func TestATighterPolicyAndWhatIsConnected(t *testing.T) {
	c := cluster.New(t, 1)
	h := c.Hosts[0]
	h.StartFelix()
	a, b := h.Add("a", "net1"), h.Add("b", "net1")
	a.InForce()
	b.InForce()
	flow := dial(t, a.Space, b.IP)
	flow.exchange(t)
	rev := c.Put(model.NewPolicyKey("", "closed"), &model.Policy{
		Selector: "has(net1)", Types: []string{model.PolicyTypeIngress}, InboundRules: []model.Rule{{Action: model.ActionDeny}},
	})
	if err := b.WaitFor(rev, cluster.Patience); err != nil {
		t.Fatal(err)
	}
	flow.exchange(t)
	a.Cut(b.IP)
	a.Cut(b.IP6)
}
