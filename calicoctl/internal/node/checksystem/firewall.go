package checksystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// The variants of iptables.
const (
	variantNFT    = "nft"
	variantLegacy = "legacy"
)

// feature is a match or a target that felix's rules use, with a rule that uses it. SET stands
// for a set, ADDRESS for an address.
type feature struct {
	name, table, rule string
	// essential says that felix can filter nothing without it.
	essential bool
	// v4 and v6 have the rule when it differs.
	v6 string
	// cost says what its absence means.
	cost string
}

const nothing = "nothing can be filtered"

var features = []feature{
	{name: "match comment", table: "filter", rule: `-A FORWARD -m comment --comment "a word" -j ACCEPT`, essential: true, cost: nothing},
	{name: "match mark", table: "filter", rule: `-A FORWARD -m mark --mark 0x1/0x1 -j ACCEPT`, essential: true, cost: nothing},
	{name: "target MARK", table: "filter", rule: `-A FORWARD -j MARK --set-xmark 0x1/0x1`, essential: true, cost: nothing},
	{name: "match conntrack", table: "filter", rule: `-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`, essential: true, cost: nothing},
	{name: "match set", table: "filter", rule: `-A FORWARD -m set --match-set SET src -j ACCEPT`, essential: true, cost: nothing},
	{name: "match rpfilter", table: "raw", rule: `-A PREROUTING -m rpfilter --validmark --invert -j DROP`, essential: true, cost: "containers could use addresses of others, so nothing is let through"},
	{name: "match multiport", table: "filter", rule: `-A FORWARD -p tcp -m multiport --destination-ports 80,443,8000:8010 -j ACCEPT`, cost: "policies with ports allow nothing"},
	{name: "match addrtype", table: "filter", rule: `-A FORWARD -m addrtype --dst-type LOCAL -j ACCEPT`, cost: "containers reach no BGP port anywhere"},
	{name: "match icmp", table: "filter", rule: `-A FORWARD -p icmp -m icmp --icmp-type 8 -j ACCEPT`, v6: `-A FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT`, cost: "policies with ICMP allow nothing"},
	{name: "match socket", table: "raw", rule: `-A PREROUTING -m socket --nowildcard -j ACCEPT`, cost: "what doNotTrack policies allow to the host is tracked all the same"},
	{name: "target LOG", table: "filter", rule: `-A FORWARD -j LOG --log-level 5 --log-prefix "a: "`, cost: "rules that log are left out"},
	{name: "target REJECT", table: "filter", rule: `-A FORWARD -j REJECT`, cost: "what should be rejected is dropped"},
	{name: "target CT", table: "raw", rule: `-A PREROUTING -j CT --notrack`, cost: "what doNotTrack policies allow is tracked all the same"},
	{name: "target MASQUERADE", table: "nat", rule: `-A POSTROUTING -j MASQUERADE`, cost: "outgoing NAT of pools does not work"},
	{name: "target DNAT", table: "nat", rule: `-A PREROUTING -d ADDRESS -j DNAT --to-destination ADDRESS`, cost: "floating addresses do not work"},
	{name: "target SNAT", table: "nat", rule: `-A POSTROUTING -s ADDRESS -j SNAT --to-source ADDRESS`, cost: "a container does not reach its own floating address"},
}

// text is the rule for a family.
func (f feature) text(fam family) string {
	rule := f.rule
	if fam.v6() && f.v6 != "" {
		rule = f.v6
	}
	return strings.NewReplacer("SET", setName(fam, setTypes[1]), "ADDRESS", fam.a.String()).Replace(rule)
}

// document is an input of iptables-restore with the rules of features.
func document(fam family, list []feature) string {
	var out strings.Builder
	for _, table := range []string{"raw", "filter", "nat"} {
		var rules []string
		for _, f := range list {
			if f.table == table {
				rules = append(rules, f.text(fam))
			}
		}
		if len(rules) > 0 {
			fmt.Fprintf(&out, "*%s\n%s\nCOMMIT\n", table, strings.Join(rules, "\n"))
		}
	}
	return out.String()
}

// iptables tries the rules that felix writes, in one variant and family. used is the variant
// that felix uses on this host.
func iptables(ctx context.Context, t tools, fam family, variant, used string) Finding {
	name := "iptables-" + variant + "-restore"
	if fam.v6() {
		name = "ip6tables-" + variant + "-restore"
	}
	f := Finding{Check: "iptables-" + variant + " " + fam.name, Tried: fmt.Sprintf("wrote rules with the %d matches and targets of felix, by %s", len(features), t.where)}
	refused, err := refusals(ctx, t, fam, name)
	switch {
	case errors.Is(err, exec.ErrNotFound) && variant == used:
		return f.is(Untried, "install Debian's package iptables on the host, or start calico-node, whose image has it, and try again", "%s is not installed", name)
	case errors.Is(err, exec.ErrNotFound):
		return f.ok("not installed, and not used here: felix uses %s", used)
	case err == nil && len(refused) == 0:
		return f.ok("written")
	case variant != used:
		return f.ok("not used here, where felix uses %s; refused: %s (%v)", used, strings.Join(namesOf(refused), ", "), err)
	}
	return f.refused(fam, refused, err)
}

// refused says what it means that rules were refused.
func (f Finding) refused(fam family, refused []feature, err error) Finding {
	if len(refused) == 0 || len(refused) == len(features) {
		return f.is(fam.needed(), "run the command as root of the host; if it is, see the kernel's log (dmesg)", "all rules are refused: %v", err)
	}
	state := Warning
	var costs []string
	for _, r := range refused {
		if r.essential {
			state = fam.needed()
		}
		costs = append(costs, r.name+" ("+r.cost+")")
	}
	return f.is(state, "load the module (modprobe xt_NAME), or install a kernel that has it", "refused: %s: %v", strings.Join(costs, ", "), err)
}

func namesOf(list []feature) (names []string) {
	for _, f := range list {
		names = append(names, f.name)
	}
	return names
}

// refusals tries all features at once, and one by one when that is refused.
func refusals(ctx context.Context, t tools, fam family, name string) (refused []feature, err error) {
	write := func(list ...feature) error {
		_, err := t.run(ctx, document(fam, list), name, "--wait", "2")
		return err
	}
	all := write(features...)
	if all == nil || errors.Is(all, exec.ErrNotFound) || errors.Is(all, errStuck) {
		return nil, all
	}
	for _, f := range features {
		if e := write(f); e != nil {
			refused = append(refused, f)
			if err == nil {
				err = e
			}
		}
	}
	if err == nil {
		err = all
	}
	return refused, err
}

// usedVariant is the one that felix chooses: where Docker's chains stand, else the system's
// default. It looks in the host's own namespace and changes nothing.
func usedVariant(ctx context.Context, t tools) string {
	system := variantLegacy
	if out, err := t.run(ctx, "", "iptables", "--version"); err == nil && strings.Contains(out, "nf_tables") {
		system = variantNFT
	}
	var holders []string
	for _, v := range []string{variantLegacy, variantNFT} {
		if v == variantLegacy && !legacyFilter() { // to ask would make the table
			continue
		}
		if out, err := t.run(ctx, "", "iptables-"+v, "-w", "2", "-S"); err == nil && strings.Contains(out, "-N DOCKER") {
			holders = append(holders, v)
		}
	}
	if len(holders) == 1 {
		return holders[0]
	}
	return system
}

// legacyFilter says whether this namespace has the filter table of the legacy variant.
func legacyFilter() bool {
	names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	return err == nil && slices.Contains(strings.Fields(string(names)), "filter")
}

// nftables tries what nft itself writes. Nothing of felix needs the program.
func nftables(ctx context.Context, t tools) Finding {
	f := Finding{Check: "nftables", Tried: "wrote a table with a chain, marks, connections and a set by nft"}
	const ruleset = `table inet calicheck {
	set s { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 } }
	chain c {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept
		ip saddr @s meta mark set mark or 0x1
		fib saddr . iif oif 0 drop
	}
}
`
	_, err := t.run(ctx, ruleset, "nft", "-f", "-")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return f.ok("nft is not installed, and not needed")
	case err != nil:
		return f.is(Warning, "use the legacy variant of iptables (FELIX_IPTABLESBACKEND=legacy), or a newer kernel", "refused: %v", err)
	}
	return f.ok("written")
}
