package iptables

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// printed is a rule's text.
func printed(f rules.Family, r rules.Rule) (string, error) {
	out, err := appendRule(nil, f, &r)
	return string(out), err
}

func TestPrintRule(t *testing.T) {
	type match = rules.Match
	drop := rules.Action{}
	for _, c := range []struct {
		name   string
		family rules.Family
		rule   rules.Rule
		want   string
	}{
		{"an empty rule drops everything", rules.V4, rules.Rule{}, "-j DROP"},
		{
			"interfaces", rules.V4,
			rules.Rule{Match: match{In: rules.Interface{Name: "cali", Prefix: true}, Out: rules.Interface{Name: "eth0", Not: true}}},
			"-i cali+ ! -o eth0 -j DROP",
		},
		{
			"networks and protocol", rules.V4,
			rules.Rule{Match: match{Protocol: desired.TCP, Source: rules.Net{Prefix: prefix("10.0.0.0/8")}, Destination: rules.Net{Prefix: prefix("10.1.0.0/16"), Not: true}}, Action: rules.Action{Verb: rules.Accept}},
			"-p 6 -s 10.0.0.0/8 ! -d 10.1.0.0/16 -j ACCEPT",
		},
		{
			"the network of all addresses", rules.V6,
			rules.Rule{Match: match{Source: rules.Net{Prefix: prefix("::/0")}}},
			"-s ::/0 -j DROP",
		},
		{
			"ports", rules.V4,
			rules.Rule{Match: match{Protocol: desired.UDP, Ports: []rules.Ports{
				{Side: rules.Dst, Ranges: []desired.PortRange{{First: 53, Last: 53}, {First: 1000, Last: 2000}}},
				{Side: rules.Src, Ranges: []desired.PortRange{{First: 1, Last: 1}}, Not: true},
			}}},
			"-p 17 -m multiport --dports 53,1000:2000 -m multiport ! --sports 1 -j DROP",
		},
		{
			"sets", rules.V4,
			rules.Rule{Match: match{Sets: []rules.Set{{Name: "cali4-s:abc", Side: rules.Src}, {Name: "cali4-n:http", Side: rules.Dst, WithPort: true, Not: true}}}},
			"-m set --match-set cali4-s:abc src -m set ! --match-set cali4-n:http dst,dst -j DROP",
		},
		{
			"ICMP", rules.V4,
			rules.Rule{Match: match{Protocol: desired.ICMPv4, ICMP: []rules.ICMP{{Type: 8}, {Type: 3, Code: new(uint8(1)), Not: true}}}},
			"-p 1 -m icmp --icmp-type 8 -m icmp ! --icmp-type 3/1 -j DROP",
		},
		{
			"ICMPv6", rules.V6,
			rules.Rule{Match: match{Protocol: desired.ICMPv6, ICMP: []rules.ICMP{{Type: 128, Code: new(uint8(0))}}}},
			"-p 58 -m icmp6 --icmpv6-type 128/0 -j DROP",
		},
		{
			"connection states", rules.V4,
			rules.Rule{Match: match{Conn: rules.Established | rules.Related, DNAT: rules.No}, Action: rules.Action{Verb: rules.Accept}},
			"-m conntrack --ctstate RELATED,ESTABLISHED -m conntrack ! --ctstate DNAT -j ACCEPT",
		},
		{
			"marks", rules.V4,
			rules.Rule{Match: match{Mark: rules.Mark{Mask: 0x1000000}}, Action: rules.Action{Verb: rules.SetMark, Mark: 0x2000000}},
			"-m mark --mark 0x0/0x1000000 -j MARK --set-xmark 0x2000000/0x2000000",
		},
		{"clear marks", rules.V4, rules.Rule{Action: rules.Action{Verb: rules.ClearMark, Mark: 0xf}}, "-j MARK --set-xmark 0x0/0xf"},
		{"socket", rules.V6, rules.Rule{Match: match{Socket: true}, Action: rules.Action{Verb: rules.NoTrack}}, "-m socket --nowildcard -j CT --notrack"},
		{"reverse path", rules.V4, rules.Rule{Match: match{RPFilterFails: true}}, "-m rpfilter --validmark --invert -j DROP"},
		{
			"local addresses", rules.V4,
			rules.Rule{Match: match{SourceLocal: rules.Yes, DestinationLocal: rules.No}},
			"-m addrtype --src-type LOCAL ! --dst-type LOCAL -j DROP",
		},
		{"jump", rules.V4, rules.Rule{Action: rules.Action{Verb: rules.Jump, Chain: "cali-pi-default/web"}}, "-j cali-pi-default/web"},
		{"go to", rules.V4, rules.Rule{Action: rules.Action{Verb: rules.Goto, Chain: "cali-x"}}, "-g cali-x"},
		{"no tracking", rules.V4, rules.Rule{Action: rules.Action{Verb: rules.NoTrack}}, "-j CT --notrack"},
		{"masquerade", rules.V4, rules.Rule{Action: rules.Action{Verb: rules.Masquerade}}, "-j MASQUERADE"},
		{"destination rewritten", rules.V4, rules.Rule{Action: rules.Action{Verb: rules.DNAT, To: netip.MustParseAddr("10.0.0.1")}}, "-j DNAT --to-destination 10.0.0.1"},
		{"source rewritten", rules.V6, rules.Rule{Action: rules.Action{Verb: rules.SNAT, To: netip.MustParseAddr("fd00::1")}}, "-j SNAT --to-source fd00::1"},
		{"reject", rules.V4, rules.Rule{Action: rules.Action{Verb: rules.Reject}}, "-j REJECT"},
		{"return", rules.V4, rules.Rule{Action: rules.Action{Verb: rules.Return}}, "-j RETURN"},
		{
			"a log prefix cannot leave its quotes", rules.V4,
			rules.Rule{Action: rules.Action{Verb: rules.Log, Prefix: "x\" -j ACCEPT\nCOMMIT\\"}},
			`-j LOG --log-level 5 --log-prefix "x_ -j ACCEPT_COMMIT_"`,
		},
		{
			"a comment cannot leave its quotes", rules.V4,
			rules.Rule{Action: drop, Comment: "a\"\n-A b\x00é"},
			`-m comment --comment "a__-A b__" -j DROP`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := printed(c.family, c.rule)
			if err != nil || got != c.want {
				t.Errorf("got %q, %v\nwant %q", got, err, c.want)
			}
		})
	}
}

func TestPrintRuleRefuses(t *testing.T) {
	type match = rules.Match
	many := make([]desired.PortRange, 16)
	for i := range many {
		many[i] = desired.PortRange{First: 1, Last: 1}
	}
	for name, r := range map[string]rules.Rule{
		"a set's name with a blank":        {Match: match{Sets: []rules.Set{{Name: "a b"}}}},
		"a set's name with a line break":   {Match: match{Sets: []rules.Set{{Name: "a\n-j"}}}},
		"a set's name that is an option":   {Match: match{Sets: []rules.Set{{Name: "-j"}}}},
		"a set's name that is a negation":  {Match: match{Sets: []rules.Set{{Name: "!"}}}},
		"a set without a name":             {Match: match{Sets: []rules.Set{{}}}},
		"a long set's name":                {Match: match{Sets: []rules.Set{{Name: strings.Repeat("a", 32)}}}},
		"an interface with a quote":        {Match: match{In: rules.Interface{Name: `a"b`}}},
		"an interface with a slash":        {Match: match{In: rules.Interface{Name: "a/b"}}},
		"an interface that is a pattern":   {Match: match{In: rules.Interface{Name: "cali+"}}},
		"a long interface":                 {Match: match{Out: rules.Interface{Name: "0123456789abcdef"}}},
		"a chain with a blank":             {Action: rules.Action{Verb: rules.Jump, Chain: "a b"}},
		"a chain without a name":           {Action: rules.Action{Verb: rules.Goto}},
		"a long chain":                     {Action: rules.Action{Verb: rules.Jump, Chain: strings.Repeat("a", 29)}},
		"an unknown action":                {Action: rules.Action{Verb: 200}},
		"a network of the other family":    {Match: match{Source: rules.Net{Prefix: prefix("fd00::/8")}}},
		"ports without a protocol":         {Match: match{Ports: []rules.Ports{{Ranges: many[:1]}}}},
		"an empty list of ports":           {Match: match{Protocol: desired.TCP, Ports: []rules.Ports{{}}}},
		"too many ports":                   {Match: match{Protocol: desired.TCP, Ports: []rules.Ports{{Ranges: many}}}},
		"a range of ports that goes back":  {Match: match{Protocol: desired.TCP, Ports: []rules.Ports{{Ranges: []desired.PortRange{{First: 2, Last: 1}}}}}},
		"an ICMP type without a protocol":  {Match: match{ICMP: []rules.ICMP{{Type: 8}}}},
		"an ICMPv6 type in the IPv4 table": {Match: match{Protocol: desired.ICMPv6, ICMP: []rules.ICMP{{Type: 8}}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := printed(rules.V4, r); !errors.Is(err, errUnsafe) {
				t.Errorf("got %q, %v; want an error", got, err)
			}
		})
	}
}

// words splits a line as iptables-restore does.
func words(line string) (out []string, ok bool) {
	var word strings.Builder
	quoted, escaped, any := false, false, false
	for _, c := range []byte(line) {
		switch {
		case quoted && escaped:
			word.WriteByte(c)
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
			any = true
		case !quoted && (c == ' ' || c == '\t' || c == '\n'):
			if any {
				out = append(out, word.String())
			}
			word.Reset()
			any = false
		default:
			word.WriteByte(c)
			any = true
		}
	}
	if any {
		out = append(out, word.String())
	}
	return out, !quoted && !escaped
}

// FuzzPrintRule feeds texts as they might come from the datastore into every place of
// a rule that holds a text: they must stay one word of their line, or be refused.
func FuzzPrintRule(f *testing.F) {
	for _, s := range []string{
		"web", "a b", "a\"b", "a\\", "-j ACCEPT", "\nCOMMIT\n", "x\x00y", "! -s", "ü", "#", "'", "`id`", "$(id)", "cali+", "..",
	} {
		f.Add(s, s, s, s, s)
	}
	f.Fuzz(func(t *testing.T, chain, set, iface, logPrefix, comment string) {
		r := rules.Rule{
			Match: rules.Match{
				In:   rules.Interface{Name: iface},
				Sets: []rules.Set{{Name: set, Side: rules.Dst}},
			},
			Action:  rules.Action{Verb: rules.Jump, Chain: chain},
			Comment: comment,
		}
		want := []string{"-m", "set", "--match-set", set, "dst", "-j", chain}
		if iface != "" {
			want = append([]string{"-i", iface}, want...)
		}
		checkWords(t, r, comment, want)
		r = rules.Rule{Action: rules.Action{Verb: rules.Log, Prefix: logPrefix}, Comment: comment}
		want = []string{"-j", "LOG", "--log-level", "5"}
		if logPrefix != "" {
			want = append(want, "--log-prefix", cleanText(logPrefix, maxLogPrefix))
		}
		checkWords(t, r, comment, want)
	})
}

func checkWords(t *testing.T, r rules.Rule, comment string, want []string) {
	t.Helper()
	c, err := NewChain(rules.V4, rules.Chain{ChainID: rules.ChainID{Table: rules.Filter, Name: "cali-x"}, Rules: []rules.Rule{r}})
	if err != nil {
		return
	}
	if comment != "" {
		want = append([]string{"-m", "comment", "--comment", cleanText(comment, maxComment)}, want...)
	}
	want = append([]string{"-m", "comment", "--comment", "cali:" + c.Rules[0].Hash}, want...)
	got, ok := words(c.Rules[0].Text)
	if !ok || strings.Join(got, "\x00") != strings.Join(want, "\x00") {
		t.Errorf("line %q has the words %q, want %q", c.Rules[0].Text, got, want)
	}
	if strings.ContainsAny(c.Rules[0].Text, "\n\r\x00") {
		t.Errorf("line %q breaks", c.Rules[0].Text)
	}
}
