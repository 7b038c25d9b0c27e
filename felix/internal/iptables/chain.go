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
	// Handle is nf_tables' number of a rule that was read in another's chain.
	Handle uint64
}

// NewChain prints a chain of felix's own. The error is that of the first rule that
// cannot be printed.
func NewChain(f rules.Family, c rules.Chain) (Chain, error) {
	if err := checkChainName(c.Name); err != nil {
		return Chain{}, err
	}
	b := newBuilder(f, c.Name, len(c.Rules))
	for i := range c.Rules {
		if err := b.add(&c.Rules[i]); err != nil {
			return Chain{}, fmt.Errorf("chain %s: rule %d: %w", c.Name, i+1, err)
		}
	}
	return Chain{Rules: b.rules()}, nil
}

// NewHooks prints the rules that felix keeps in one chain that is not its own.
func NewHooks(f rules.Family, hooks []rules.Hook) (Chain, error) {
	var out Chain
	ordered := slices.Clone(hooks)
	slices.SortStableFunc(ordered, func(a, b rules.Hook) int { return int(a.Position) - int(b.Position) })
	for i := range ordered {
		h := &ordered[i]
		if err := checkChainName(h.Name); err != nil {
			return Chain{}, err
		}
		b := newBuilder(f, h.Name, 1)
		if err := b.add(&h.Rule); err != nil {
			return Chain{}, fmt.Errorf("hook in chain %s: %w", h.Name, err)
		}
		out.Rules = append(out.Rules, b.rules()...)
		if h.Position == rules.First {
			out.Lead++
		}
		out.IfExists = out.IfExists || h.IfExists
	}
	return out, nil
}

// Equal reports whether the chain that is in the kernel is as wanted.
func Equal(desired, actual Chain) bool {
	return actual.Lead >= desired.Lead &&
		slices.EqualFunc(desired.Rules, actual.Rules, func(x, y Rule) bool { return x.Hash == y.Hash })
}

// builder prints the rules of one chain into one text, of which each rule's text and hash
// are parts: a chain of hundreds of rules takes a handful of allocations.
type builder struct {
	family rules.Family
	// hashed begins with the chain's name and a zero byte, head of them; behind stands
	// the rule that is being added.
	hashed []byte
	head   int
	text   []byte
	ends   []int
}

const (
	hashOpening = `-m comment --comment "` + commentPrefix
	hashClosing = `" `
	// usualRule is about the length of a printed rule.
	usualRule = 160
)

func newBuilder(f rules.Family, chain string, count int) *builder {
	hashed := make([]byte, 0, len(chain)+1+usualRule)
	hashed = append(append(hashed, chain...), 0)
	return &builder{family: f, hashed: hashed, head: len(hashed), text: make([]byte, 0, count*usualRule), ends: make([]int, 0, count)}
}

func (b *builder) add(r *rules.Rule) error {
	var err error
	if b.hashed, err = appendRule(b.hashed[:b.head], b.family, r); err != nil {
		return err
	}
	b.text = append(b.text, hashOpening...)
	b.text = appendHash(b.text, b.hashed)
	b.text = append(b.text, hashClosing...)
	b.text = append(b.text, b.hashed[b.head:]...)
	b.ends = append(b.ends, len(b.text))
	return nil
}

func (b *builder) rules() []Rule {
	text, start := string(b.text), 0
	out := make([]Rule, len(b.ends))
	for i, end := range b.ends {
		rule := text[start:end]
		out[i] = Rule{Hash: rule[len(hashOpening):][:hashLength], Text: rule}
		start = end
	}
	return out
}

// appendHash adds what identifies a rule within its table. Equal rules of one chain have
// the same hash; the sequence of hashes tells chains apart.
func appendHash(out, hashed []byte) []byte {
	sum := sha256.Sum256(hashed)
	return base64.RawURLEncoding.AppendEncode(out, sum[:])[:len(out)+hashLength]
}
