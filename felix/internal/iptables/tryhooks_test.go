package iptables

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/reconcile"
)

// natKernels are tables in which the kernel takes a rule as long as no hook leads to it: a source
// is not rewritten before it is known where a packet goes.
func natKernels() (all []kernel) {
	for _, variant := range []string{Legacy, NFT} {
		for _, f := range rules.Families {
			all = append(all, kernel{variant, f, rules.NAT})
		}
	}
	return all
}

var masquerade = rules.Rule{Action: rules.Action{Verb: rules.Masquerade}}

// TestAChainThatOnlyAHookMakesRefusedIsClosed has the chain come with its hook, or before it. The
// hook is in force in the end, and the chain at fault is told of.
func TestAChainThatOnlyAHookMakesRefusedIsClosed(t *testing.T) {
	for _, k := range natKernels() {
		for _, before := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, before is %v", k, before), func(t *testing.T) {
				target := k.open(t)
				good := k.chain(t, "cali-OUTPUT", marked(1, back))
				bad := k.chain(t, "cali-PREROUTING", masquerade, marked(1, back))
				set := []reconcile.Item[string, Chain]{k.hooks(t, "OUTPUT", jumpTo("cali-OUTPUT")), k.hooks(t, "PREROUTING", jumpTo("cali-PREROUTING"))}
				if before {
					apply(t, target, good, bad)
				} else {
					set = append(set, good, bad)
				}
				err := target.Apply(t.Context(), changesOf(set...))
				if got := faultsOf(err); !slices.Contains(got, "cali-PREROUTING") || slices.Contains(got, "PREROUTING") || !before && len(got) != 1 {
					t.Fatalf("got %v", err)
				}
				k.expectRules(t, "PREROUTING", "-j cali-PREROUTING")
				k.expectRules(t, "OUTPUT", "-j cali-OUTPUT")
				k.expectRules(t, "cali-PREROUTING")
				// What was closed beside it comes back with the next try.
				if err := target.Apply(t.Context(), changesOf(good, bad)); !slices.Equal(faultsOf(err), []string{"cali-PREROUTING"}) {
					t.Fatalf("got %v", err)
				}
				k.expectRules(t, "cali-OUTPUT", "0x1/0xff -j RETURN")
				apply(t, target, k.chain(t, "cali-PREROUTING", marked(3, back)))
				k.expectRules(t, "cali-PREROUTING", "0x3/0xff -j RETURN")
			})
		}
	}
}

// TestAHookAtFaultClosesNothing has the kernel refuse the hook itself: the chains are as wanted,
// and other hooks in force.
func TestAHookAtFaultClosesNothing(t *testing.T) {
	for _, k := range natKernels() {
		t.Run(k.String(), func(t *testing.T) {
			target := k.open(t)
			err := target.Apply(t.Context(), changesOf(
				k.hooks(t, "OUTPUT", jumpTo("cali-OUTPUT")), k.hooks(t, "PREROUTING", rules.Hook{Rule: masquerade}),
				k.chain(t, "cali-OUTPUT", marked(1, back)), k.chain(t, "cali-POSTROUTING", masquerade)))
			if got := faultsOf(err); !slices.Equal(got, []string{"PREROUTING"}) {
				t.Fatalf("got %v", err)
			}
			k.expectRules(t, "OUTPUT", "-j cali-OUTPUT")
			k.expectRules(t, "cali-OUTPUT", "0x1/0xff -j RETURN")
			k.expectRules(t, "cali-POSTROUTING", "-j MASQUERADE")
			if text := k.save(t); strings.Contains(text, "-A PREROUTING") {
				t.Errorf("the table is\n%s", text)
			}
		})
	}
}
