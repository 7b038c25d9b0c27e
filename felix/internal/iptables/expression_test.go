package iptables

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/nettest"
)

// TestConditionsThatABarrierDoesNotKnowAreRefused: a rule of which a part is left out would drop,
// or accept, more than it says.
func TestConditionsThatABarrierDoesNotKnowAreRefused(t *testing.T) {
	t.Parallel()
	port := rules.Ports{Ranges: portRanges(1, 1)}
	for name, m := range map[string]rules.Match{
		"all interfaces but one coming in":  {In: rules.Interface{Name: "a", Not: true}},
		"all interfaces but one going out":  {Out: rules.Interface{Name: "a", Not: true}},
		"an interface of 16 letters":        {In: rules.Interface{Name: "0123456789abcdef"}},
		"an interface of 17 letters":        {Out: rules.Interface{Name: "0123456789abcdefg"}},
		"a beginning of 16 letters":         {Out: rules.Interface{Name: "0123456789abcdef", Prefix: true}},
		"all protocols but one":             {NotProtocol: desired.TCP},
		"all sources but a network":         {Source: rules.Net{Prefix: prefix("10.0.0.0/8"), Not: true}},
		"all destinations but a network":    {Destination: rules.Net{Prefix: prefix("10.0.0.0/8"), Not: true}},
		"a source of the other family":      {Source: rules.Net{Prefix: prefix("fd00::/8")}},
		"a destination of the other family": {Destination: rules.Net{Prefix: prefix("fd00::/8")}},
		"a range of ports":                  {Protocol: desired.TCP, Ports: []rules.Ports{{Ranges: portRanges(1, 2)}}},
		"two ports":                         {Protocol: desired.TCP, Ports: []rules.Ports{{Ranges: portRanges(1, 1, 2, 2)}}},
		"no port":                           {Protocol: desired.TCP, Ports: []rules.Ports{{}}},
		"all ports but one":                 {Protocol: desired.TCP, Ports: []rules.Ports{{Ranges: portRanges(1, 1), Not: true}}},
		"a port of any protocol":            {Ports: []rules.Ports{port}},
		"a port of one that has none":       {Protocol: desired.ICMPv4, Ports: []rules.Ports{port}},
		"a set":                             {Sets: []rules.Set{{Name: "x"}}},
		"a rewritten destination":           {DNAT: rules.Yes},
		"a mark":                            {Mark: rules.Mark{Mask: 1}},
		"a reverse path":                    {RPFilterFails: true},
		"a local source":                    {SourceLocal: rules.No},
		"a local destination":               {DestinationLocal: rules.Yes},
		"a socket":                          {Socket: true},
		"all ICMP types but one":            {Protocol: desired.ICMPv4, ICMP: []rules.ICMP{{Type: 1, Not: true}}},
		"an ICMP code":                      {Protocol: desired.ICMPv4, ICMP: []rules.ICMP{{Type: 1, Code: new(uint8(1))}}},
		"an ICMP type of any protocol":      {ICMP: []rules.ICMP{{Type: 1}}},
	} {
		r := &nftReader{family: unix.AF_INET}
		if e, err := r.expressions(rules.Rule{Match: m}); !errors.Is(err, errNoExpression) {
			t.Errorf("%s: made of it is %q, %v", name, e, err)
		}
	}
	for v := rules.Drop; v <= rules.SNAT; v++ {
		_, err := (&nftReader{family: unix.AF_INET6}).expressions(rules.Rule{Action: rules.Action{Verb: v}})
		if known := v == rules.Drop || v == rules.Accept; known != (err == nil) {
			t.Errorf("action %d: %v", v, err)
		}
	}
}

func TestMasksOfNetworks(t *testing.T) {
	t.Parallel()
	for p, want := range map[string]string{
		"10.0.0.0/8": "\xff\x00\x00\x00", "10.0.0.0/9": "\xff\x80\x00\x00", "0.0.0.0/0": "\x00\x00\x00\x00", "10.0.0.0/31": "\xff\xff\xff\xfe", "10.0.0.1/32": "\xff\xff\xff\xff",
		"fd00::/12": "\xff\xf0" + strings.Repeat("\x00", 14), "::/0": strings.Repeat("\x00", 16), "fd00::/127": strings.Repeat("\xff", 15) + "\xfe",
	} {
		if got := string(maskOf(netip.MustParsePrefix(p))); got != want {
			t.Errorf("%s: %x, want %x", p, got, want)
		}
	}
}

// TestABarrierIsWhatTheKernelShows has nft print what was made of each condition that a barrier
// knows.
func TestABarrierIsWhatTheKernelShows(t *testing.T) {
	for _, f := range printFamilies {
		nftFamily, protocol := "ip", "icmp"
		if f.Family == rules.V6 {
			nftFamily, protocol = "ip6", "ipv6-icmp"
		}
		for _, c := range []struct {
			match rules.Match
			want  string
		}{
			{rules.Match{}, ""},
			{rules.Match{In: rules.Interface{Name: "eth0"}}, `iifname "eth0"`},
			{rules.Match{In: rules.Interface{Name: "0123456789abcde"}}, `iifname "0123456789abcde"`},
			{rules.Match{Out: rules.Interface{Name: "cali", Prefix: true}}, `oifname "cali*"`},
			{rules.Match{Conn: rules.Established | rules.Related}, "ct state established,related"},
			{rules.Match{Conn: rules.UntrackedState | rules.Invalid | rules.New}, "ct state invalid,new,untracked"},
			{rules.Match{Source: rules.Net{Prefix: prefix(f.net)}}, nftFamily + " saddr " + f.net},
			{rules.Match{Destination: rules.Net{Prefix: prefix(f.host)}}, nftFamily + " daddr " + prefix(f.host).Addr().String()},
			{rules.Match{Protocol: desired.TCP, Ports: []rules.Ports{{Side: rules.Dst, Ranges: portRanges(2379, 2379)}}}, "tcp dport 2379"},
			{rules.Match{Protocol: desired.UDP, Ports: []rules.Ports{{Side: rules.Src, Ranges: portRanges(53, 53)}}}, "udp sport 53"},
			{rules.Match{Protocol: f.icmp}, "meta l4proto " + protocol},
		} {
			targets := openTargets(t, NFT)
			if _, err := targets.Target(f.Family, rules.Filter); err != nil {
				t.Fatal(err)
			}
			barrier := []rules.Chain{
				{ChainID: rules.ChainID{Name: rules.BarrierInput}, Rules: []rules.Rule{{Match: c.match, Action: accept}}},
				{ChainID: rules.ChainID{Name: rules.BarrierOutput}, Rules: []rules.Rule{{Match: c.match}}},
			}
			for range 2 { // the second time it is made anew
				if err := targets.Shut(f.Family, barrier); err != nil {
					t.Fatalf("%s: %v", c.want, err)
				}
			}
			var lines []string
			for line := range strings.Lines(nettest.Run(t, "nft", "list", "table", nftFamily, closedTable)) {
				lines = append(lines, strings.TrimSpace(line))
			}
			want := strings.Join([]string{
				"table " + nftFamily + " calico-closed {",
				"chain input {", "type filter hook input priority filter; policy accept;", strings.TrimSpace(c.want + " accept"), "}", "",
				"chain output {", "type filter hook output priority filter; policy accept;", strings.TrimSpace(c.want + " drop"), "}", "}",
			}, "\n")
			if got := strings.Join(lines, "\n"); got != want {
				t.Errorf("IPv%d: got\n%s\nwant\n%s", f.Family, got, want)
			}
			for range 2 { // the second time there is none
				if err := targets.Reopen(f.Family); err != nil {
					t.Error(err)
				}
			}
			if list := nettest.Run(t, "nft", "list", "tables"); list != "" {
				t.Errorf("left is %s", list)
			}
		}
	}
}

// TestABarrierThatCannotBeMadeLeavesTheFormer has a condition that is not known, and a chain that
// the kernel refuses.
func TestABarrierThatCannotBeMadeLeavesTheFormer(t *testing.T) {
	targets := openTargets(t, NFT)
	if _, err := targets.Target(rules.V4, rules.Filter); err != nil {
		t.Fatal(err)
	}
	input := func(list ...rules.Rule) []rules.Chain {
		return []rules.Chain{{ChainID: rules.ChainID{Name: rules.BarrierInput}, Rules: list}}
	}
	if err := targets.Shut(rules.V4, input(rules.Rule{})); err != nil {
		t.Fatal(err)
	}
	before := nettest.Run(t, "nft", "list", "ruleset")
	err := targets.Shut(rules.V4, input(rules.Rule{}, marked(1, accept)))
	if err == nil || !strings.HasPrefix(err.Error(), "table calico-closed of nf_tables, chain input: ") {
		t.Errorf("got %v", err)
	}
	double := append(input(rules.Rule{}), rules.Chain{ChainID: rules.ChainID{Name: strings.Repeat("x", 300)}})
	if err := targets.Shut(rules.V4, double); err == nil || !strings.Contains(err.Error(), "write table calico-closed") {
		t.Errorf("a chain whose name is too long: got %v", err)
	}
	if now := nettest.Run(t, "nft", "list", "ruleset"); now != before {
		t.Errorf("the barrier is\n%s\nand was\n%s", now, before)
	}
	legacy := &Targets{readers: map[rules.Family]reader{rules.V4: &saveReader{}}}
	if err := errors.Join(legacy.Shut(rules.V4, input(marked(1, accept))), legacy.Reopen(rules.V4)); err != nil {
		t.Errorf("the legacy variant has a barrier: %v", err)
	}
}

// TestABarrierThatChangesStaysWhereItIs has a barrier lose a chain and a rule, and another
// program put it to sleep or make its chain another way.
func TestABarrierThatChangesStaysWhereItIs(t *testing.T) {
	targets := openTargets(t, NFT)
	if _, err := targets.Target(rules.V4, rules.Filter); err != nil {
		t.Fatal(err)
	}
	chain := func(name string, list ...rules.Rule) rules.Chain {
		return rules.Chain{ChainID: rules.ChainID{Name: name}, Rules: list}
	}
	shut := func(barrier ...rules.Chain) string {
		t.Helper()
		if err := targets.Shut(rules.V4, barrier); err != nil {
			t.Fatal(err)
		}
		return nettest.Run(t, "nft", "-a", "list", "table", "ip", closedTable)
	}
	small := []rules.Chain{chain(rules.BarrierInput, rules.Rule{})}
	before := chainLine(shut(chain(rules.BarrierForward), chain(rules.BarrierInput, rules.Rule{Action: accept}, rules.Rule{}), chain(rules.BarrierOutput, rules.Rule{})))
	after := shut(small...)
	if chainLine(after) != before || before == "" {
		t.Errorf("the chain is another one: was %s, is now\n%s", before, after)
	}
	nettest.Run(t, "nft", "add", "table", "ip", closedTable, "{ flags dormant; }")
	after += shut(small...)
	for _, wrong := range []string{"output", "accept", "dormant"} {
		if strings.Contains(strings.ReplaceAll(after, "policy accept", ""), wrong) {
			t.Errorf("there is %s in\n%s", wrong, after)
		}
	}
	nettest.Run(t, "nft", "delete table ip calico-closed; table ip calico-closed { chain input { counter; }; }")
	if list := shut(small...); !strings.Contains(list, "hook input") || strings.Contains(list, "counter") {
		t.Errorf("another's chain is left:\n%s", list)
	}
}

// chainLine is the line that begins the chain of incoming packets, with its handle.
func chainLine(list string) string {
	for line := range strings.Lines(list) {
		if strings.Contains(line, "chain input") {
			return line
		}
	}
	return ""
}
