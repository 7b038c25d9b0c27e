package iptables

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/nlconn"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/nettest"
	"calico.internal/libcalico/reconcile"
)

// places are where iptables hooks its chains, by table.
var places = map[rules.Table][]string{
	rules.Raw:    {"PREROUTING type filter hook prerouting priority -300", "OUTPUT type filter hook output priority -300"},
	rules.Mangle: {"PREROUTING type filter hook prerouting priority -150", "INPUT type filter hook input priority -150", "FORWARD type filter hook forward priority -150", "OUTPUT type route hook output priority -150", "POSTROUTING type filter hook postrouting priority -150"},
	rules.NAT:    {"PREROUTING type nat hook prerouting priority -100", "INPUT type nat hook input priority 100", "OUTPUT type nat hook output priority -100", "POSTROUTING type nat hook postrouting priority 100"},
	rules.Filter: {"INPUT type filter hook input priority 0", "FORWARD type filter hook forward priority 0", "OUTPUT type filter hook output priority 0"},
}

func TestWhereChainsAreHooked(t *testing.T) {
	t.Parallel()
	for _, table := range rules.Tables {
		var got []string
		for _, chain := range builtin[table] {
			h, ok := hookOf(table, chain)
			if !ok {
				t.Errorf("chain %s of %s is not hooked", chain, table)
			}
			got = append(got, fmt.Sprintf("%s %v", chain, h))
		}
		if !slices.Equal(got, places[table]) {
			t.Errorf("%s: hooks are\n%q, want\n%q", table, got, places[table])
		}
		for _, other := range []string{"cali-INPUT", "input", "", "DOCKER-USER"} {
			if _, ok := hookOf(table, other); ok {
				t.Errorf("chain %q of %s is hooked", other, table)
			}
		}
	}
	for _, c := range []struct {
		table rules.Table
		chain string
	}{{rules.Raw, "FORWARD"}, {rules.Filter, "PREROUTING"}, {rules.NAT, "FORWARD"}, {"security", "INPUT"}} {
		if h, ok := hookOf(c.table, c.chain); ok {
			t.Errorf("chain %s of %s is hooked at %v", c.chain, c.table, h)
		}
	}
}

// TestIPTablesHooksItsChainsThere has iptables itself make all of its chains.
func TestIPTablesHooksItsChainsThere(t *testing.T) {
	nettest.Isolate(t)
	named := regexp.MustCompile(`chain (\w+) \{\s+(type \w+ hook \w+ priority) ([-\w]+)( [-+] \d+)?;`)
	numbers := map[string]string{"raw": "-300", "mangle": "-150", "dstnat": "-100", "filter": "0", "srcnat": "100"}
	for _, f := range rules.Families {
		for _, table := range rules.Tables {
			k := kernel{NFT, f, table}
			for _, chain := range builtin[table] {
				k.run(t, "-A", chain, "-j", "ACCEPT")
			}
			var got []string
			for _, m := range named.FindAllStringSubmatch(nettest.Run(t, "nft", "list", "table", map[rules.Family]string{rules.V4: "ip", rules.V6: "ip6"}[f], string(table)), -1) {
				priority := m[3]
				if n, ok := numbers[priority]; ok {
					priority = n
				}
				got = append(got, m[1]+" "+m[2]+" "+priority)
			}
			want := slices.Sorted(slices.Values(places[table]))
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("IPv%d %s: hooks are\n%q, want\n%q", f, table, got, want)
			}
		}
	}
}

func TestHooksAsTheKernelShowsThem(t *testing.T) {
	t.Parallel()
	place := nlconn.Attr(nil, unix.NFTA_HOOK_HOOKNUM, netOrder(2))
	place = nlconn.Attr(place, unix.NFTA_HOOK_PRIORITY, []byte{0xff, 0xff, 0xfe, 0xd4})
	b := nlconn.Attr(nil, unix.NFTA_CHAIN_TABLE, nlconn.String("raw"))
	b = nlconn.Attr(b, unix.NFTA_CHAIN_NAME, nlconn.String("FORWARD"))
	plain := b
	b = nlconn.Attr(b, unix.NFTA_CHAIN_HOOK, place)
	b = nlconn.Attr(b, unix.NFTA_CHAIN_TYPE, nlconn.String("filter"))
	if table, chain, h := readHook(b); table != "raw" || chain != "FORWARD" || h != (hook{"filter", 2, -300}) {
		t.Errorf("read is %s, %s, %v", table, chain, h)
	}
	if _, _, h := readHook(plain); h != (hook{}) {
		t.Errorf("a chain that is nowhere is at %v", h)
	}
	if _, _, h := readHook(nlconn.Attr(nil, unix.NFTA_CHAIN_HOOK, nlconn.Attr(nil, unix.NFTA_HOOK_HOOKNUM, []byte{1}))); h != (hook{}) {
		t.Errorf("a number of one byte is %v", h)
	}
}

// nftName is the table as nft names it.
func (k kernel) nftName() string {
	return map[rules.Family]string{rules.V4: "ip", rules.V6: "ip6"}[k.family] + " " + string(k.table)
}

// TestATableThatSleepsIsWoken has another program put a table to sleep before and behind felix's
// writes. Who only deletes wakes nothing.
func TestATableThatSleepsIsWoken(t *testing.T) {
	for _, k := range nftKernels() {
		t.Run(k.String(), func(t *testing.T) {
			targets := openTargets(t, NFT)
			var woken []string
			targets.Woke = func(f rules.Family, t rules.Table) { woken = append(woken, fmt.Sprint(f, t)) }
			target, err := targets.Target(k.family, k.table)
			if err != nil {
				t.Fatal(err)
			}
			asleep := func() bool {
				return strings.Contains(nettest.Run(t, "nft", "list", "table "+k.nftName()), "dormant")
			}
			sleep := "add table " + k.nftName() + " { flags dormant; }"
			nettest.Run(t, "nft", sleep)
			apply(t, target, k.chain(t, "cali-a", marked(1, back)), k.hooks(t, "OUTPUT", jumpTo("cali-a")))
			if asleep() || len(woken) != 1 {
				t.Fatalf("woken is %v", woken)
			}
			nettest.Run(t, "nft", sleep)
			if drifted, err := target.Drifted(); !drifted || err != nil || !asleep() {
				t.Fatalf("drifted is %v, %v", drifted, err)
			}
			if have, err := target.List(t.Context()); err != nil || len(have) != 2 {
				t.Fatalf("read is %v, %v", have, err)
			}
			if asleep() || len(woken) != 2 || woken[1] != fmt.Sprint(k.family, k.table) {
				t.Errorf("woken is %v", woken)
			}
			if drifted, err := target.Drifted(); drifted || err != nil {
				t.Errorf("waking it is drift: %v, %v", drifted, err)
			}
			nettest.Run(t, "nft", sleep)
			target.standIns = nil
			if err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Delete: []string{"OUTPUT", "cali-a"}}); err != nil {
				t.Error(err)
			}
			if !asleep() || len(woken) != 2 || strings.Contains(k.save(t), "cali-") {
				t.Errorf("who deletes has woken %v and left %s", woken, k.save(t))
			}
		})
	}
}

// TestAChainThatIsHookedElsewhereIsToldOf has another program make a chain of the kernel's name in
// another way; nothing is written until it is mended as the error says.
func TestAChainThatIsHookedElsewhereIsToldOf(t *testing.T) {
	for _, k := range nftKernels() {
		wrong, _ := hookOf(k.table, "OUTPUT")
		for what, place := range map[string]string{
			"nowhere": "", "later": fmt.Sprintf("type %s hook output priority %d;", wrong.kind, wrong.priority+1), "elsewhere": "type filter hook postrouting priority -300;",
		} {
			t.Run(k.String()+" "+what, func(t *testing.T) {
				target := k.open(t)
				nettest.Run(t, "nft", "add table "+k.nftName()+"; add chain "+k.nftName()+" OUTPUT { "+place+" }; add rule "+k.nftName()+" OUTPUT counter")
				set := []reconcile.Item[string, Chain]{k.hooks(t, "OUTPUT", jumpTo("cali-a")), k.chain(t, "cali-a")}
				err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Set: set})
				if !IsUnhooked(err) || IsBusy(err) || target.Empty() {
					t.Fatalf("got %v", err)
				}
				if drifted, err := target.Drifted(); drifted || err != nil {
					t.Errorf("drifted is %v, %v, although nobody wrote since", drifted, err)
				}
				_, cure, _ := strings.Cut(err.Error(), `run "`)
				cure, _, _ = strings.Cut(cure, `"`)
				nettest.Run(t, "sh", "-ec", cure)
				if drifted, err := target.Drifted(); !drifted || err != nil {
					t.Errorf("drifted is %v, %v, although it is mended by %s", drifted, err, cure)
				}
				apply(t, target, set...)
				k.expectRules(t, "OUTPUT", "-j cali-a")
			})
		}
	}
}

// TestADeletedTableIsMadeAnew has another program flush and delete what felix wrote.
func TestADeletedTableIsMadeAnew(t *testing.T) {
	for _, k := range nftKernels() {
		for _, verb := range []string{"delete", "flush"} {
			target := k.open(t)
			set := []reconcile.Item[string, Chain]{k.hooks(t, "OUTPUT", jumpTo("cali-a")), k.chain(t, "cali-a", marked(1, back))}
			apply(t, target, set...)
			nettest.Run(t, "nft", verb+" table "+k.nftName())
			if drifted, err := target.Drifted(); !drifted || err != nil {
				t.Errorf("%v: drifted is %v, %v", k, drifted, err)
			}
			apply(t, target, set...)
			if !target.Suspect() {
				t.Errorf("%v: what List said before still holds", k)
			}
			k.expectRules(t, "OUTPUT", "-j cali-a")
			k.expectRules(t, "cali-a", "-j RETURN")
		}
	}
}

// TestWhoIsDisturbedAllTheTimeGivesUp counts the tries.
func TestWhoIsDisturbedAllTheTimeGivesUp(t *testing.T) {
	t.Parallel()
	other := errors.New("other")
	for _, c := range []struct {
		errs  []error
		tries int
		busy  bool
		want  error
	}{
		{[]error{nil}, 1, false, nil},
		{[]error{unix.EAGAIN, unix.EAGAIN, nil}, 3, false, nil},
		{[]error{unix.EAGAIN, other}, 2, false, other},
		{slices.Repeat([]error{unix.EAGAIN}, 50), maxReads, true, errBusy},
	} {
		tries := 0
		err := undisturbed(unix.EAGAIN, func() error { tries++; return c.errs[tries-1] })
		if tries != c.tries || !errors.Is(err, c.want) || IsBusy(err) != c.busy {
			t.Errorf("%v: %d tries, %v", c.errs, tries, err)
		}
	}
}
