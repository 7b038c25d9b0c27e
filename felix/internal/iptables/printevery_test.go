package iptables

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
)

// sample is one rule with its text, and with what iptables-save makes of that where it differs.
type sample struct {
	rule rules.Rule
	text string
	// saved is what iptables-save prints instead of text, empty when it prints the same.
	saved string
	// table is where the kernel takes the rule, the filter table when empty.
	table rules.Table
}

// family is what rules of a family are written with.
type family struct {
	rules.Family

	icmp                          desired.Protocol
	icmpMatch, icmpOption         string
	net, host, netText, hostText  string
	set, rejectWith, savedICMPNum string
}

var printFamilies = []family{
	{rules.V4, desired.ICMPv4, "icmp", "--icmp-type", "10.1.0.0/16", "10.1.2.3/32", "10.1.0.0/16", "10.1.2.3/32", "cali4-x", "icmp-port-unreachable", "icmp"},
	{rules.V6, desired.ICMPv6, "icmp6", "--icmpv6-type", "fd00:1::/32", "fd00:1::5/128", "fd00:1::/32", "fd00:1::5/128", "cali6-x", "icmp6-port-unreachable", "ipv6-icmp"},
}

func portRanges(list ...uint16) []desired.PortRange {
	var out []desired.PortRange
	for i := 0; i+1 < len(list); i += 2 {
		out = append(out, desired.PortRange{First: list[i], Last: list[i+1]})
	}
	return out
}

// matchSamples are rules with each match, alone and denied, that drop.
func (f family) matchSamples() []sample {
	m := func(m rules.Match, text, saved string) sample {
		s := sample{rule: rules.Rule{Match: m, Action: accept}, text: text + " -j ACCEPT"}
		if saved != "" {
			s.saved = saved + " -j ACCEPT"
		}
		return s
	}
	tcp := func(list ...rules.Ports) rules.Match { return rules.Match{Protocol: desired.TCP, Ports: list} }
	set := func(s rules.Set) rules.Match { s.Name = f.set; return rules.Match{Sets: []rules.Set{s}} }
	net, host := rules.Net{Prefix: netip.MustParsePrefix(f.net)}, rules.Net{Prefix: netip.MustParsePrefix(f.host)}
	notNet := rules.Net{Prefix: net.Prefix, Not: true}
	icmp := func(list ...rules.ICMP) rules.Match { return rules.Match{Protocol: f.icmp, ICMP: list} }
	icmpText := func(types ...string) string {
		list := []string{fmt.Sprintf("-p %d", f.icmp)}
		for _, typ := range types {
			not, typ := cutNot(typ)
			list = append(list, "-m "+f.icmpMatch+not, f.icmpOption, typ)
		}
		return strings.Join(list, " ")
	}
	icmpSaved := func(types ...string) string {
		return strings.Replace(icmpText(types...), fmt.Sprintf("-p %d", f.icmp), "-p "+f.savedICMPNum, 1)
	}
	return []sample{
		m(rules.Match{In: rules.Interface{Name: "eth0"}}, "-i eth0", ""),
		m(rules.Match{In: rules.Interface{Name: "eth0", Not: true}}, "! -i eth0", ""),
		m(rules.Match{In: rules.Interface{Name: "cali", Prefix: true}}, "-i cali+", ""),
		m(rules.Match{In: rules.Interface{Name: "cali", Prefix: true, Not: true}}, "! -i cali+", ""),
		m(rules.Match{Out: rules.Interface{Name: "0123456789abcde"}}, "-o 0123456789abcde", ""),
		m(rules.Match{Out: rules.Interface{Name: "0123456789abcd", Prefix: true, Not: true}}, "! -o 0123456789abcd+", ""),
		m(rules.Match{Protocol: desired.TCP}, "-p 6", "-p tcp"),
		m(rules.Match{Protocol: 255}, "-p 255", ""),
		m(rules.Match{NotProtocol: desired.UDP}, "! -p 17", "! -p udp"),
		m(rules.Match{Source: net}, "-s "+f.netText, ""),
		m(rules.Match{Source: notNet}, "! -s "+f.netText, ""),
		m(rules.Match{Destination: host}, "-d "+f.hostText, ""),
		m(rules.Match{Destination: notNet}, "! -d "+f.netText, ""),
		m(rules.Match{Mark: rules.Mark{Value: 0xffffffff, Mask: 0xffffffff}}, "-m mark --mark 0xffffffff/0xffffffff", "-m mark --mark 0xffffffff"),
		m(rules.Match{Mark: rules.Mark{Mask: 0x80000000}}, "-m mark --mark 0x0/0x80000000", ""),
		m(set(rules.Set{Side: rules.Src}), "-m set --match-set "+f.set+" src", ""),
		m(set(rules.Set{Side: rules.Dst, Not: true}), "-m set ! --match-set "+f.set+" dst", ""),
		m(set(rules.Set{Side: rules.Src, WithPort: true}), "-m set --match-set "+f.set+" src,src", ""),
		m(set(rules.Set{Side: rules.Dst, WithPort: true, Not: true}), "-m set ! --match-set "+f.set+" dst,dst", ""),
		m(tcp(rules.Ports{Side: rules.Dst, Ranges: portRanges(0, 0, 65535, 65535)}), "-p 6 -m multiport --dports 0,65535", "-p tcp -m multiport --dports 0,65535"),
		m(tcp(rules.Ports{Side: rules.Src, Not: true, Ranges: portRanges(0, 65535)}), "-p 6 -m multiport ! --sports 0:65535", "-p tcp -m multiport ! --sports 0:65535"),
		m(rules.Match{Protocol: desired.SCTP, Ports: []rules.Ports{{Ranges: portRanges(9, 9)}}}, "-p 132 -m multiport --sports 9", "-p sctp -m multiport --sports 9"),
		m(rules.Match{Protocol: desired.UDPLite, Ports: []rules.Ports{{Ranges: portRanges(9, 9)}}}, "-p 136 -m multiport --sports 9", "-p udplite -m multiport --sports 9"),
		m(icmp(rules.ICMP{Type: 0}), icmpText("0"), icmpSaved("0")),
		m(icmp(rules.ICMP{Type: 3, Code: new(uint8(0)), Not: true}), icmpText("!3/0"), icmpSaved("!3/0")),
		m(icmp(rules.ICMP{Type: 254, Code: new(uint8(254))}, rules.ICMP{Type: 1, Not: true}), icmpText("254/254", "!1"), icmpSaved("254/254", "!1")),
		m(rules.Match{Conn: rules.New}, "-m conntrack --ctstate NEW", ""),
		m(rules.Match{Conn: rules.Invalid}, "-m conntrack --ctstate INVALID", ""),
		m(rules.Match{Conn: rules.New | rules.Established | rules.Related | rules.Invalid | rules.UntrackedState},
			"-m conntrack --ctstate RELATED,ESTABLISHED,INVALID,NEW,UNTRACKED", "-m conntrack --ctstate INVALID,NEW,RELATED,ESTABLISHED,UNTRACKED"),
		m(rules.Match{DNAT: rules.Yes}, "-m conntrack --ctstate DNAT", ""),
		m(rules.Match{DNAT: rules.No}, "-m conntrack ! --ctstate DNAT", ""),
		m(rules.Match{SourceLocal: rules.Yes}, "-m addrtype --src-type LOCAL", ""),
		m(rules.Match{SourceLocal: rules.No}, "-m addrtype ! --src-type LOCAL", ""),
		m(rules.Match{DestinationLocal: rules.Yes}, "-m addrtype --dst-type LOCAL", ""),
		m(rules.Match{SourceLocal: rules.No, DestinationLocal: rules.No}, "-m addrtype ! --src-type LOCAL ! --dst-type LOCAL", ""),
		inTable(rules.Raw, m(rules.Match{Socket: true}, "-m socket --nowildcard", "")),
		inTable(rules.Raw, m(rules.Match{RPFilterFails: true}, "-m rpfilter --validmark --invert", "")),
	}
}

func inTable(t rules.Table, s sample) sample {
	s.table = t
	return s
}

func cutNot(text string) (not, rest string) {
	if rest, negated := strings.CutPrefix(text, "!"); negated {
		return " !", rest
	}
	return "", text
}

// actionSamples are rules with each action.
func (f family) actionSamples() []sample {
	a := func(t rules.Table, action rules.Action, text, saved string) sample {
		return sample{rule: rules.Rule{Action: action}, text: text, saved: saved, table: t}
	}
	to := netip.MustParsePrefix(f.host).Addr()
	return []sample{
		a("", rules.Action{Verb: rules.Drop}, "-j DROP", ""),
		a("", rules.Action{Verb: rules.Accept}, "-j ACCEPT", ""),
		a("", rules.Action{Verb: rules.Return}, "-j RETURN", ""),
		a("", rules.Action{Verb: rules.Reject}, "-j REJECT", "-j REJECT --reject-with "+f.rejectWith),
		a("", rules.Action{Verb: rules.Jump, Chain: "cali-other"}, "-j cali-other", ""),
		a("", rules.Action{Verb: rules.Goto, Chain: "cali-other"}, "-g cali-other", ""),
		a("", rules.Action{Verb: rules.SetMark, Mark: 0x10000}, "-j MARK --set-xmark 0x10000/0x10000", ""),
		a(rules.Mangle, rules.Action{Verb: rules.ClearMark, Mark: 0xffff0000}, "-j MARK --set-xmark 0x0/0xffff0000", ""),
		a("", rules.Action{Verb: rules.Log}, "-j LOG --log-level 5", ""),
		a("", rules.Action{Verb: rules.Log, Prefix: "calico-packet: "}, `-j LOG --log-level 5 --log-prefix "calico-packet: "`, `-j LOG --log-prefix "calico-packet: " --log-level 5`),
		a(rules.Raw, rules.Action{Verb: rules.NoTrack}, "-j CT --notrack", ""),
		a(rules.NAT, rules.Action{Verb: rules.Masquerade}, "-j MASQUERADE", ""),
		a(rules.NAT, rules.Action{Verb: rules.DNAT, To: to}, "-j DNAT --to-destination "+to.String(), ""),
		a(rules.NAT, rules.Action{Verb: rules.SNAT, To: to}, "-j SNAT --to-source "+to.String(), ""),
	}
}

// TestEachMatchAndActionIsPrintedInBothFamilies compares each text with what the hash and the
// kernel get to see.
func TestEachMatchAndActionIsPrintedInBothFamilies(t *testing.T) {
	t.Parallel()
	for _, f := range printFamilies {
		verbs, asked := map[rules.Verb]bool{}, map[extension]bool{}
		for _, s := range append(f.matchSamples(), f.actionSamples()...) {
			got, err := printed(f.Family, s.rule)
			if err != nil || got != s.text {
				t.Errorf("IPv%d: got %q, %v\nwant %q", f.Family, got, err, s.text)
			}
			verbs[s.rule.Action.Verb] = true
			for _, e := range needs(&s.rule) {
				asked[e] = true
				if kind := map[bool]string{true: "-j ", false: "-m "}[e.target]; !strings.Contains(s.text, kind+e.name) {
					t.Errorf("%q is said to need the %s", s.text, e)
				}
			}
		}
		for v := rules.Drop; v <= rules.SNAT; v++ {
			if !verbs[v] {
				t.Errorf("IPv%d: action %d is not printed here", f.Family, v)
			}
		}
		if _, err := printed(f.Family, rules.Rule{Action: rules.Action{Verb: rules.SNAT + 1}}); err == nil {
			t.Error("there is an action that this test does not know")
		}
		other := map[rules.Family]extension{rules.V4: matchICMPv6, rules.V6: matchICMP}[f.Family]
		for e := range costs {
			if e != matchComment && e != other && !asked[e] {
				t.Errorf("IPv%d: no rule needs the %s", f.Family, e)
			}
		}
	}
}

// TestARuleWithAllConditions prints all of them, in an order that must not change: hashes would.
func TestARuleWithAllConditions(t *testing.T) {
	t.Parallel()
	r := rules.Rule{
		Comment: "all", Action: rules.Action{Verb: rules.Goto, Chain: "cali-x"},
		Match: rules.Match{
			In: rules.Interface{Name: "a"}, Out: rules.Interface{Name: "b"}, Protocol: desired.TCP, NotProtocol: desired.UDP,
			Source: rules.Net{Prefix: prefix("10.1.2.3/8")}, Destination: rules.Net{Prefix: prefix("10.0.0.1/32")},
			Mark: rules.Mark{Value: 1, Mask: 3}, Sets: []rules.Set{{Name: "s"}, {Name: "s", Side: rules.Dst}},
			Ports: []rules.Ports{{Ranges: portRanges(1, 2)}}, Conn: rules.New, DNAT: rules.Yes, SourceLocal: rules.Yes, Socket: true, RPFilterFails: true,
		},
	}
	const want = `-m comment --comment "all" -i a -o b -p 6 ! -p 17 -s 10.0.0.0/8 -d 10.0.0.1/32 -m mark --mark 0x1/0x3 ` +
		`-m set --match-set s src -m set --match-set s dst -m multiport --sports 1:2 -m conntrack --ctstate NEW -m conntrack --ctstate DNAT ` +
		`-m addrtype --src-type LOCAL -m socket --nowildcard -m rpfilter --validmark --invert -g cali-x`
	if got, err := printed(rules.V4, r); err != nil || got != want {
		t.Errorf("got %q, %v\nwant %q", got, err, want)
	}
}

// TestValuesAtTheirLimits has values that just fit, and those that are one too long.
func TestValuesAtTheirLimits(t *testing.T) {
	t.Parallel()
	set := func(n int) rules.Rule {
		return rules.Rule{Match: rules.Match{Sets: []rules.Set{{Name: strings.Repeat("s", n)}}}}
	}
	iface := func(n int, prefix bool) rules.Rule {
		return rules.Rule{Match: rules.Match{Out: rules.Interface{Name: strings.Repeat("i", n), Prefix: prefix}}}
	}
	chain := func(n int) rules.Rule {
		return rules.Rule{Action: rules.Action{Verb: rules.Goto, Chain: strings.Repeat("c", n)}}
	}
	slots := func(ranges, single int) rules.Rule {
		var list []desired.PortRange
		for range ranges {
			list = append(list, desired.PortRange{First: 1, Last: 2})
		}
		for range single {
			list = append(list, desired.PortRange{First: 7, Last: 7})
		}
		return rules.Rule{Match: rules.Match{Protocol: desired.UDP, Ports: []rules.Ports{{Ranges: list}}}}
	}
	for name, c := range map[string]struct{ fits, not rules.Rule }{
		"set": {set(31), set(32)}, "interface": {iface(15, false), iface(16, false)}, "beginning of an interface": {iface(14, true), iface(15, true)},
		"chain": {chain(28), chain(29)}, "ports": {slots(0, 15), slots(0, 16)}, "ranges": {slots(7, 1), slots(8, 0)},
	} {
		if text, err := printed(rules.V4, c.fits); err != nil {
			t.Errorf("%s: %q: %v", name, text, err)
		}
		if text, err := printed(rules.V4, c.not); !errors.Is(err, errUnsafe) {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

// TestAnotherFamilysValuesAreRefused has addresses and messages of one family in a rule of the
// other, and addresses that name an interface.
func TestAnotherFamilysValuesAreRefused(t *testing.T) {
	t.Parallel()
	address := func(verb rules.Verb, to string) rules.Rule {
		return rules.Rule{Action: rules.Action{Verb: verb, To: netip.MustParseAddr(to)}}
	}
	network := func(p string) rules.Rule {
		return rules.Rule{Match: rules.Match{Destination: rules.Net{Prefix: prefix(p)}}}
	}
	icmp := func(p desired.Protocol) rules.Rule {
		return rules.Rule{Match: rules.Match{Protocol: p, ICMP: []rules.ICMP{{Type: 1}}}}
	}
	for name, c := range map[string]struct {
		family rules.Family
		rule   rules.Rule
	}{
		"an IPv6 destination in IPv4":        {rules.V4, address(rules.DNAT, "fd00::1")},
		"an IPv6 source in IPv4":             {rules.V4, address(rules.SNAT, "fd00::1")},
		"an IPv4 destination in IPv6":        {rules.V6, address(rules.DNAT, "10.0.0.1")},
		"an IPv4 source in IPv6":             {rules.V6, address(rules.SNAT, "10.0.0.1")},
		"an IPv4 address in IPv6's clothes":  {rules.V4, address(rules.DNAT, "::ffff:10.0.0.1")},
		"an address with a zone":             {rules.V6, address(rules.DNAT, "fe80::1%eth0")},
		"no address":                         {rules.V4, rules.Rule{Action: rules.Action{Verb: rules.SNAT}}},
		"an IPv4 network in IPv6":            {rules.V6, network("10.0.0.0/8")},
		"an IPv4 network in IPv6's clothes":  {rules.V4, network("::ffff:10.0.0.0/104")},
		"an ICMP type in IPv6":               {rules.V6, icmp(desired.ICMPv4)},
		"an ICMPv6 type in IPv4":             {rules.V4, icmp(desired.ICMPv6)},
		"an ICMP type of another protocol":   {rules.V4, icmp(desired.TCP)},
		"an ICMPv6 type of another protocol": {rules.V6, icmp(0)},
	} {
		text, err := printed(c.family, c.rule)
		if !errors.Is(err, errUnsafe) {
			t.Errorf("%s: printed as %q, %v", name, text, err)
		}
	}
}

// TestNamesThatAreNoWords tries each byte in a chain's name, at its beginning and inside.
func TestNamesThatAreNoWords(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		b := string([]byte{byte(c)})
		plain := c > ' ' && c < 0x7f && !strings.ContainsAny(b, "\"'\\#`")
		if got := safeWord("a" + b); got != plain {
			t.Errorf("byte %#x inside a word: %v", c, got)
		}
		if got, want := safeWord(b+"a"), plain && !strings.ContainsAny(b, "-!:*"); got != want {
			t.Errorf("byte %#x at the beginning of a word: %v", c, got)
		}
	}
	if safeWord("") {
		t.Error("nothing is a word")
	}
}

func TestTextsAreCutToTheirLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		limit      int
		want       string
	}{
		{"just fits", "12345", 5, "12345"},
		{"one too long", "123456", 5, "12345"},
		{"wide letters count once", "äöü45", 5, "___45"},
		{"wide letters are not cut apart", "aäöüß€x", 5, "a____"},
		{"bytes that are no letters", "a\xff\xfeb", 9, "a__b"},
		{"all that ends a quotation", "\"'\\`\x00\n\r\x7f", 20, "________"},
		{"what a shell would take is harmless", "$(id); -j ACCEPT #", 30, "$(id); -j ACCEPT #"},
		{"nothing", "", 5, ""},
	} {
		if got := cleanText(c.text, c.limit); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	r := rules.Rule{Comment: strings.Repeat("c", 500), Action: rules.Action{Verb: rules.Log, Prefix: strings.Repeat("p", 500)}}
	want := `-m comment --comment "` + strings.Repeat("c", 200) + `" -j LOG --log-level 5 --log-prefix "` + strings.Repeat("p", 29) + `"`
	if got, err := printed(rules.V6, r); err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestHashesAreTheseForEver has literal hashes: with others, each felix that is updated would
// write all its rules anew.
func TestHashesAreTheseForEver(t *testing.T) {
	t.Parallel()
	chain := func(f rules.Family, name string, list ...rules.Rule) (hashes []string) {
		c, err := NewChain(f, rules.Chain{ChainID: rules.ChainID{Name: name}, Rules: list})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range c.Rules {
			hashes = append(hashes, r.Hash)
			if want := `-m comment --comment "cali:` + r.Hash + `" `; !strings.HasPrefix(r.Text, want) || !isHash([]byte(r.Hash)) || len(r.Hash) != hashLength {
				t.Errorf("the rule %q has the hash %q", r.Text, r.Hash)
			}
		}
		return hashes
	}
	first := chain(rules.V4, "cali-a", marked(1, accept), marked(2, accept), marked(1, accept))
	if d := cmp.Diff([]string{"6obmDChGua6b0nrS", "HQzdisr7DJrHOvFT", "6obmDChGua6b0nrS"}, first); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if other := chain(rules.V4, "cali-b", marked(1, accept)); other[0] == first[0] {
		t.Error("rules of two chains have one hash")
	}
	if commented := chain(rules.V4, "cali-a", rules.Rule{Match: marked(1, accept).Match, Action: accept, Comment: "x"}); commented[0] == first[0] {
		t.Error("a comment does not change the hash")
	}
	if both := chain(rules.V6, "cali-a", marked(1, accept)); both[0] != first[0] {
		t.Error("the same text has two hashes")
	}
	// The name and the text are kept apart: one must not be taken for the other.
	x, err := NewChain(rules.V4, rules.Chain{ChainID: rules.ChainID{Name: "cali-a-j"}, Rules: []rules.Rule{{}}})
	if y := chain(rules.V4, "cali-a", rules.Rule{}); err != nil || x.Rules[0].Hash == y[0] {
		t.Errorf("%+v is %v, %v", x, y, err)
	}
}

// TestAChainThatCannotBePrintedSaysWhere has the fault in a rule behind others, in the name of the
// chain, and in a hook.
func TestAChainThatCannotBePrintedSaysWhere(t *testing.T) {
	t.Parallel()
	bad := rules.Rule{Action: rules.Action{Verb: rules.Jump, Chain: "a b"}}
	_, err := NewChain(rules.V4, rules.Chain{ChainID: rules.ChainID{Name: "cali-a"}, Rules: []rules.Rule{{}, {}, bad, bad}})
	if want := `chain cali-a: rule 3: chain "a b": value not allowed in a rule`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
	if _, err = NewChain(rules.V4, rules.Chain{ChainID: rules.ChainID{Name: "cali a"}}); !errors.Is(err, errUnsafe) {
		t.Errorf("the chain's name: got %v", err)
	}
	hook := func(chain string, r rules.Rule) []rules.Hook {
		return []rules.Hook{{ChainID: rules.ChainID{Name: chain}, Rule: r}}
	}
	if _, err := NewHooks(rules.V4, hook("INPUT", bad)); err == nil || !strings.HasPrefix(err.Error(), "hook in chain INPUT: ") {
		t.Errorf("the hook: got %v", err)
	}
	if _, err := NewHooks(rules.V4, hook("IN\nPUT", rules.Rule{})); !errors.Is(err, errUnsafe) {
		t.Errorf("the hook's chain: got %v", err)
	}
}

// TestHooksAreInOrderOfPosition keeps the order of those that share one.
func TestHooksAreInOrderOfPosition(t *testing.T) {
	t.Parallel()
	hook := func(mark uint32, p rules.Position, ifExists bool) rules.Hook {
		return rules.Hook{ChainID: rules.ChainID{Name: "X"}, Rule: marked(mark, accept), Position: p, IfExists: ifExists}
	}
	given := []rules.Hook{hook(3, rules.Last, false), hook(1, rules.First, false), hook(4, rules.Last, true), hook(2, rules.First, false)}
	c, err := NewHooks(rules.V4, given)
	if err != nil || c.Lead != 2 || !c.IfExists || len(c.Rules) != 4 {
		t.Fatalf("got %+v, %v", c, err)
	}
	for i, r := range c.Rules {
		if want := fmt.Sprintf("--mark 0x%x/0xff -j ACCEPT", i+1); !strings.HasSuffix(r.Text, want) {
			t.Errorf("rule %d is %q, want %q", i+1, r.Text, want)
		}
	}
	if given[0].Rule.Match.Mark.Value != 3 {
		t.Error("the hooks that were given have changed places")
	}
	if none, err := NewHooks(rules.V4, nil); err != nil || len(none.Rules) != 0 || none.Lead != 0 {
		t.Errorf("no hooks are %+v, %v", none, err)
	}
}
