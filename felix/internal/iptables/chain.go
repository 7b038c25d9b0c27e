package iptables

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"calico.internal/felix/internal/rules"
)

const (
	chainPrefix   = "cali-"
	commentPrefix = "cali:"
	hashLength    = 16
)

// Owned reports whether chains of that name belong to felix as a whole.
func Owned(chain string) bool { return strings.HasPrefix(chain, chainPrefix) }

// Chain is what felix has, or wants, in one chain: of a chain of its own all rules, of
// another's chain the rules that it keeps there.
type Chain struct {
	// Rules are the rules in their order.
	Rules []Rule
	// Lead is the number of rules, from the first on, that must stand, or were read to
	// stand, before all rules of others. It is 0 in felix's own chains.
	Lead int
	// IfExists is set for a chain of another program: no fault when it is absent.
	IfExists bool
}

// Rule is a rule by its hash. Text is empty in a chain that was read.
type Rule struct {
	Hash string
	Text string
}

// NewChain prints a chain of felix's own. The error is that of the first rule that
// cannot be printed.
func NewChain(f rules.Family, c rules.Chain) (Chain, error) {
	if err := checkChainName(c.Name); err != nil {
		return Chain{}, err
	}
	out := Chain{Rules: make([]Rule, 0, len(c.Rules))}
	for i, r := range c.Rules {
		printed, err := newRule(f, c.Name, r)
		if err != nil {
			return Chain{}, fmt.Errorf("chain %s: rule %d: %w", c.Name, i+1, err)
		}
		out.Rules = append(out.Rules, printed)
	}
	return out, nil
}

// NewHooks prints the rules that felix keeps in one chain that is not its own.
func NewHooks(f rules.Family, hooks []rules.Hook) (Chain, error) {
	var out Chain
	ordered := slices.Clone(hooks)
	slices.SortStableFunc(ordered, func(a, b rules.Hook) int { return int(a.Position) - int(b.Position) })
	for _, h := range ordered {
		if err := checkChainName(h.Name); err != nil {
			return Chain{}, err
		}
		r, err := newRule(f, h.Name, h.Rule)
		if err != nil {
			return Chain{}, fmt.Errorf("hook in chain %s: %w", h.Name, err)
		}
		out.Rules = append(out.Rules, r)
		if h.Position == rules.First {
			out.Lead++
		}
		out.IfExists = out.IfExists || h.IfExists
	}
	return out, nil
}

// FailClosed is what takes the place of a chain that cannot be printed or that the
// kernel refuses: a rule that drops. In the nat table, which must not drop, it is
// empty; packets go on untranslated.
func FailClosed(f rules.Family, t rules.Table, name string) Chain {
	if t == rules.NAT {
		return Chain{}
	}
	r, err := newRule(f, name, rules.Rule{Action: rules.Action{Verb: rules.Drop}, Comment: "stands in for a chain that is at fault"})
	if err != nil {
		return Chain{}
	}
	return Chain{Rules: []Rule{r}}
}

// Equal reports whether the chain that is in the kernel is as wanted.
func Equal(desired, actual Chain) bool {
	return actual.Lead >= desired.Lead &&
		slices.EqualFunc(desired.Rules, actual.Rules, func(x, y Rule) bool { return x.Hash == y.Hash })
}

func newRule(f rules.Family, chain string, r rules.Rule) (Rule, error) {
	text, err := printRule(f, r)
	if err != nil {
		return Rule{}, err
	}
	hash := hashRule(chain, text)
	return Rule{Hash: hash, Text: `-m comment --comment "` + commentPrefix + hash + `" ` + text}, nil
}

// hashRule identifies a rule within its table. Equal rules of one chain have the same
// hash; the sequence of hashes tells chains apart.
func hashRule(chain, text string) string {
	h := sha256.New()
	h.Write([]byte(chain))
	h.Write([]byte{0})
	h.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))[:hashLength]
}
