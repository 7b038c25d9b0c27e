package calc

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// local is an endpoint of this host that all policies with the selector all() select.
const local = `put /calico/v1/host/here/workload/o/w/endpoint/a {"state":"active","name":"cali1","profile_ids":["p"],"ipv4_nets":["10.0.0.1/32"]}`

// TestWhatLetsMorePassWithoutAnUnknownAddressCloses tries each action with each kind of
// match, on both sides and in both directions, in a policy and in a profile, while the
// addresses of one endpoint are not known that the match may be meant for.
func TestWhatLetsMorePassWithoutAnUnknownAddressCloses(t *testing.T) {
	const unknown = `put /calico/v1/host/there/workload/o/w/endpoint/b {"state":"sleeping","name":"cali2","profile_ids":["z"],"ipv6_nets":["fd00::2/128"],"labels":{"zone":"out"},"ports":[{"name":"dns","protocol":"udp","port":53}]}`
	const tags = `put /calico/v1/policy/profile/z/tags ["zt"]`
	for _, action := range []string{"allow", "deny", "next-tier", "log"} {
		for _, match := range []struct {
			field, value string
			negated      bool
		}{
			{"selector", `"zone == 'out'"`, false},
			{"selector", `"zone == 'out'"`, true},
			{"selector", `"!(zone == 'in')"`, false},
			{"selector", `"!(zone == 'in')"`, true},
			{"tag", `"zt"`, false},
			{"tag", `"zt"`, true},
			{"ports", `["dns",80]`, false},
			{"ports", `["dns",80]`, true},
		} {
			for _, side := range []string{"src", "dst"} {
				field := side + "_" + match.field
				if match.negated {
					field = "!" + field
				}
				rule := fmt.Sprintf(`{"action":%q,"protocol":"udp",%q:%s}`, action, field, match.value)
				closes := match.negated && action == "allow" || !match.negated && action == "deny" || action == "next-tier"
				for d, direction := range []string{"inbound_rules", "outbound_rules"} {
					other := []string{"outbound_rules", "inbound_rules"}[d]
					rules := fmt.Sprintf(`{%q:[%s],%q:[{"action":"allow","src_net":"fd01::/64"}],"selector":"all()"}`, direction, rule, other)
					s := newScript(t)
					s.block(local + "\n" + tags + "\n" + "put /calico/v1/policy/tier/default/policy/q " + rules)
					s.block("put /calico/v1/policy/profile/p/rules " + rules)
					open := s.mirror.String()
					s.block(unknown)
					policy, profile := s.mirror.policies[model.PolicyKey{Tier: "default", Name: "q"}], s.mirror.profiles["p"]
					for of, list := range map[string][2][]desired.Rule{"policy": {policy.Ingress, policy.Egress}, "profile": {profile.Ingress, profile.Egress}} {
						if got := deniesAll(list[d]); got != closes {
							t.Errorf("%s %s with %s: closes is %v, must be %v", of, direction, rule, got, closes)
						}
						if deniesAll(list[1-d]) {
							t.Errorf("%s with %s in %s: closes the other direction too", of, rule, direction)
						}
					}
					s.block(strings.Replace(unknown, "put ", "del ", 1)[:len(pathOf(unknown))+4])
					if diff := cmp.Diff(open, s.mirror.String()); diff != "" {
						t.Errorf("%s: the unknown endpoint is gone (-before +after):\n%s", rule, diff)
					}
				}
			}
		}
	}
}

func deniesAll(rules []desired.Rule) bool {
	return len(rules) == 1 && rules[0].Action == desired.Deny &&
		cmp.Equal(rules[0].Source, desired.Match{}) && cmp.Equal(rules[0].Destination, desired.Match{}) &&
		rules[0].Protocol == 0 && rules[0].IPVersion == 0
}

// TestARuleThatCannotBeTranslatedDenies gives the engine rules that no check before it
// refused: all that the policy selects is denied, in the directions in which it has a say,
// the reason is told, and no set is left over from the rules before it.
func TestARuleThatCannotBeTranslatedDenies(t *testing.T) {
	code := 256
	for _, c := range []struct {
		rule model.Rule
		want string
	}{
		{model.Rule{Action: "open"}, `ingress rule 1: action "open": not known`},
		{model.Rule{}, `ingress rule 1: action "": not known`},
		{model.Rule{Action: "allow", Protocol: "smoke"}, `ingress rule 1: protocol "smoke": not a known name or a number from 1 to 255`},
		{model.Rule{Action: "allow", NotProtocol: "0"}, `ingress rule 1: protocol "0": not a known name or a number from 1 to 255`},
		{model.Rule{Action: "allow", ICMP: &model.ICMP{Type: 255}}, "ingress rule 1: icmp type 255: out of range"},
		{model.Rule{Action: "allow", NotICMP: &model.ICMP{Type: -1}}, "ingress rule 1: icmp type -1: out of range"},
		{model.Rule{Action: "allow", ICMP: &model.ICMP{Type: 8, Code: &code}}, "ingress rule 1: icmp type 8: out of range"},
		{model.Rule{Action: "allow", Protocol: "tcp", Source: model.Match{Ports: []model.Port{{First: 9, Last: 8}}}}, "ingress rule 1: ports 9:8: ends before it begins"},
		{model.Rule{Action: "allow", Destination: model.Match{NotPorts: []model.Port{{First: 1, Last: 2}}}}, "ingress rule 1: ports: need a protocol that has ports"},
		{model.Rule{Action: "deny", Destination: model.Match{Ports: []model.Port{{Name: "http"}}}}, "ingress rule 1: ports: need a protocol that has ports"},
		{model.Rule{Action: "allow", Protocol: "icmpv6", Source: model.Match{Ports: []model.Port{{Name: "http"}}}}, "ingress rule 1: protocol icmpv6: has no ports"},
		{model.Rule{Action: "allow", Protocol: "4", Source: model.Match{Ports: []model.Port{{First: 1, Last: 1}}}}, "ingress rule 1: protocol 4: has no ports"},
	} {
		key := model.PolicyKey{Tier: "default", Name: "q"}
		before := model.Rule{Action: "allow", Protocol: "udp", Source: model.Match{Selector: "has(x)", Ports: []model.Port{{Name: "dns"}}}}
		p := &model.Policy{Selector: "all()", InboundRules: []model.Rule{before, c.rule}, OutboundRules: []model.Rule{before}}
		endpoint := store.Event{Key: model.WorkloadEndpointKey{Node: "here", Name: "a"}, Value: &model.WorkloadEndpoint{Interface: "cali1", State: "active"}}
		for _, types := range [][]string{nil, {model.PolicyTypeIngress}} {
			p.Types = types
			e, m := New("here", "cali"), newMirror(t)
			e.Apply([]store.Event{endpoint, {Key: key, Value: p}})
			m.apply(e.Flush())
			if got := m.policies[key]; !deniesAll(got.Ingress) || deniesAll(got.Egress) != (types == nil) || len(got.Egress) > 1 {
				t.Errorf("%s: rules are %v and %v", c.want, got.Ingress, got.Egress)
			}
			if len(m.sets) != 2 || len(e.sets.all) != 2 {
				t.Errorf("%s: sets are %v", c.want, sortedText(m.sets))
			}
			want := []string{key.String() + ": " + c.want + "; it denies what it selects"}
			if diff := cmp.Diff(want, problemsText(e.Problems())); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			mended := *p
			mended.InboundRules = []model.Rule{before}
			e.Apply([]store.Event{{Key: key, Value: &mended}})
			m.apply(e.Flush())
			if deniesAll(m.policies[key].Ingress) || len(m.sets) != 4 || len(e.Problems()) != 0 {
				t.Errorf("%s: is mended, and its rules are %v, with sets %v", c.want, m.policies[key].Ingress, sortedText(m.sets))
			}
		}
	}
}

// TestWhatStandsInFollowsWhatCanBeRead edits values whose fault stays the same.
func TestWhatStandsInFollowsWhatCanBeRead(t *testing.T) {
	s := newScript(t)
	s.block(local + `
put /calico/v1/host/here/workload/o/w/endpoint/b {"state":"active","name":"cali2","profile_ids":[],"labels":{"role":"db"}}`)
	q := model.PolicyKey{Tier: "default", Name: "q"}
	has := func(name string) bool {
		tiers := s.mirror.endpoints[model.WorkloadEndpointKey{Node: "here", Orchestrator: "o", Workload: "w", Name: name}].Tiers
		return len(tiers) == 1 && slices.Contains(tiers[0].Ingress, q) && deniesAll(s.mirror.policies[q].Ingress)
	}
	for _, step := range []struct {
		selector string
		a, b     bool
	}{{`"!has(role)"`, true, false}, {`"role == 'db'"`, false, true}, {`"all()"`, true, true}, {`7`, false, false}, {`"has(role)"`, false, true}} {
		s.block(`put /calico/v1/policy/tier/default/policy/q {"selector":` + step.selector + `,"inbound_rules":[{"action":"allow","src_net":"here"}]}`)
		if has("a") != step.a || has("b") != step.b {
			t.Errorf("selector %s: denies a: %v, b: %v", step.selector, has("a"), has("b"))
		}
		notInForce := s.engine.NotInForce()
		if selects := step.a || step.b; selects != (len(notInForce) == 0) || !selects && notInForce[0] != q {
			t.Errorf("selector %s: not in force are %v", step.selector, notInForce)
		}
	}
	host := model.HostEndpointKey{Node: "here", Name: "h"}
	for _, name := range []string{"eth0", "eth1"} {
		s.block(`put /calico/v1/host/here/endpoint/h {"name":"` + name + `","labels":7}`)
		if got := s.mirror.endpoints[host]; got == nil || got.Interface != name || len(got.WorkloadsOnly) > 0 {
			t.Errorf("closed is %+v, must be %s", got, name)
		}
	}
}

// TestPoliciesThatNothingStandsInForAreNamed has policies turn unusable from the beginning,
// and later.
func TestPoliciesThatNothingStandsInForAreNamed(t *testing.T) {
	s := newScript(t)
	named := func(when string, want ...string) {
		t.Helper()
		var got []string
		for _, k := range s.engine.NotInForce() {
			got = append(got, k.Tier+"/"+k.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: not in force are %v, must be %v", when, got, want)
		}
	}
	s.block(`put /calico/v1/policy/tier/b/policy/y {
put /calico/v1/policy/tier/a/policy/z {"selector":5}
put /calico/v1/policy/tier/a/policy/known {"selector":"all()","order":"x"}
put /calico/v1/policy/tier/a/policy/fine {"selector":"all()","inbound_rules":[],"outbound_rules":[]}
put /calico/v1/policy/tier/a/metadata {
put /calico/v1/netset/n {`)
	named("from the beginning", "a/z", "b/y")
	s.block(`put /calico/v1/policy/tier/a/policy/fine {
put /calico/v1/policy/tier/b/policy/y {"selector":"all()","inbound_rules":[],"outbound_rules":[]}`)
	named("one turns bad that was good, one is mended", "a/z")
	s.block(`put /calico/v1/policy/tier/b/policy/y {
del /calico/v1/policy/tier/a/policy/z`)
	named("the mended one turns bad, the other goes")
	s.block("del /calico/v1/policy/tier/b/policy/y")
	s.block("put /calico/v1/policy/tier/b/policy/y {")
	named("it was deleted, so its good version counts no more", "b/y")
}

// TestAPoolOfWhichMasqueradingCannotBeReadStaysAsItWas says before the pools are known, or
// after it, which of them were masqueraded.
func TestAPoolOfWhichMasqueradingCannotBeReadStaysAsItWas(t *testing.T) {
	four, six, readable := netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("10.1.0.0/16")
	pool := func(n netip.Prefix, masquerade bool) *model.IPPool {
		return &model.IPPool{CIDR: n, Masquerade: masquerade}
	}
	bad := errors.New("cannot be read")
	event := func(n netip.Prefix) store.Event { return store.Event{Key: model.IPPoolKey{CIDR: n}, Err: bad} }
	rest := []store.Quarantined{
		{Key: model.IPPoolKey{CIDR: four}, Err: bad},
		{Key: model.IPPoolKey{CIDR: six}, Err: bad, Value: pool(six, false), Unreadable: []string{"masquerade"}},
		{Key: model.IPPoolKey{CIDR: readable}, Err: bad, Value: pool(readable, false), Unreadable: []string{"block_size"}},
	}
	masqueraded := func(m *mirror) string { return strings.Join(sortedText(m.sets[desired.SetMasqPools]), " ") }
	for _, first := range []bool{true, false} {
		e, m := New("here"), newMirror(t)
		adopt := func() { e.AdoptMasquerading([]netip.Prefix{readable, four, six}) }
		if first {
			adopt()
		}
		e.Apply([]store.Event{event(four), event(six), event(readable)})
		e.ApplyQuarantine(rest)
		m.apply(e.Flush())
		if !e.UnreadablePools() {
			t.Error("two pools cannot be read, and it is not told")
		}
		if !first {
			if got := masqueraded(m); got != "" {
				t.Errorf("nothing is known of the kernel: masqueraded are %s", got)
			}
			adopt()
			m.apply(e.Flush())
		}
		// What the value says counts before what the kernel had.
		if got := masqueraded(m); got != "10.0.0.0/16 fd00::/64" {
			t.Errorf("adopted first: %v: masqueraded are %s", first, got)
		}
		e.Apply([]store.Event{{Key: model.IPPoolKey{CIDR: four}, Value: pool(four, false)}, {Key: model.IPPoolKey{CIDR: six}}})
		e.ApplyQuarantine(rest[2:])
		m.apply(e.Flush())
		if got := masqueraded(m); got != "" || e.UnreadablePools() {
			t.Errorf("one is mended, one is gone: masqueraded are %s", got)
		}
		if got := len(m.sets[desired.SetAllPools]); got != 2 {
			t.Errorf("%d pools are left of 3", got)
		}
		adopt()
		if c := e.Flush(); !c.IsEmpty() {
			t.Errorf("what the kernel had counts for readable pools: %s", changesText(c))
		}
	}
}
