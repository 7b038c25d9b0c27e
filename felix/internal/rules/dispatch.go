package rules

import (
	"strings"

	"calico.internal/felix/internal/desired"
)

// A dispatch chain finds the chain of the endpoint whose interface a packet came from, or
// goes to. It is a tree of fixed shape: the root has a rule for each character that
// stands behind the prefix in some interface's name, and the child chain of that
// character lists the names. The shape depends on one character of a name and on nothing
// else that is there, so that a new endpoint only adds a rule, never moves one.
//
//	cali-from-wl-dispatch      -i cali3+  goto cali-from-wl-dispatch-3
//	                           drop
//	cali-from-wl-dispatch-3    -i cali3f… goto cali-fw-cali3f…
//	                           drop

// dispatchRoot is the name of the dispatch chain for traffic to, or from, workloads.
func dispatchRoot(d desired.Direction) string {
	if d == desired.Ingress {
		return chainToWorkload
	}
	return chainFromWorkload
}

// bin is where an interface stands in the dispatch tree.
type bin struct {
	// match is the workload prefix with the next character, or the whole name of an
	// interface that is named like a prefix.
	match Interface
	// suffix is that character as it stands in the child chain's name.
	suffix string
}

// binOf finds the bin of an interface; ok is false for one that is no workload's.
func (r *Renderer) binOf(iface string) (b bin, ok bool) {
	best := ""
	for _, p := range r.cfg.WorkloadPrefixes {
		if strings.HasPrefix(iface, p) && len(p) > len(best) {
			best = p
		}
	}
	if best == "" {
		return bin{}, false
	}
	if iface == best {
		return bin{match: Interface{Name: iface}, suffix: "_"}, true
	}
	next := len(best) + 1
	return bin{match: Interface{Name: iface[:next], Prefix: true}, suffix: iface[len(best):next]}, true
}

func childChain(d desired.Direction, suffix string) string {
	return shorten(dispatchRoot(d)+"-", suffix, MaxChainName)
}

// dispatchRootChain is the root for the bins, sorted by what they match.
func (r *Renderer) dispatchRootChain(d desired.Direction, bins []bin) Chain {
	c := Chain{ChainID: ChainID{Filter, dispatchRoot(d)}}
	for _, b := range bins {
		c.add(Rule{Match: onInterface(d, b.match), Action: goTo(childChain(d, b.suffix))})
	}
	c.add(r.deny("Unknown interface"))
	return c
}

// dispatchChild is the child chain for interfaces, sorted by name.
func (r *Renderer) dispatchChild(d desired.Direction, suffix string, ifaces []string) Chain {
	c := Chain{ChainID: ChainID{Filter, childChain(d, suffix)}}
	for _, name := range ifaces {
		c.add(Rule{Match: onInterface(d, Interface{Name: name}), Action: goTo(endpointChain(d, name))})
	}
	c.add(r.deny("Unknown interface"))
	return c
}

func onInterface(d desired.Direction, i Interface) Match {
	if d == desired.Ingress {
		return Match{Out: i}
	}
	return Match{In: i}
}
