package selector

import (
	"fmt"
	"slices"
	"strings"
)

const (
	// maxLabel is the longest label name, in bytes.
	maxLabel = 512
	// maxDepth is the deepest nesting of "&&", "||" and "!" in a selector.
	maxDepth = 100
	// maxParens bounds the parser's own recursion; it leaves room for redundant
	// parentheses and for those that the canonical text adds.
	maxParens = 4 * maxDepth
)

// SyntaxError says where a text stops being a selector.
type SyntaxError struct {
	// Input is the whole text.
	Input string
	// Offset is the byte in Input at which the fault is, from 0; it is len(Input) when
	// the text ends too early.
	Offset int
	// Expected says what could stand there.
	Expected string
}

// Error names the position, what was found and what was expected.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("selector %q: character %d: expected %s, found %s",
		abbreviate(e.Input), e.Offset+1, e.Expected, e.found())
}

func (e *SyntaxError) found() string {
	if e.Offset >= len(e.Input) {
		return "the end"
	}
	rest := e.Input[e.Offset:]
	if n := wordLen(rest); n > 0 {
		return fmt.Sprintf("%q", abbreviate(rest[:n]))
	}
	for _, r := range rest {
		return fmt.Sprintf("%q", string(r))
	}
	return "the end"
}

func abbreviate(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}

const (
	expectOperator = `an operator (==, !=, in, not in, contains, starts with, ends with)`
	expectTerm     = `a label, has(…), all(), global(), "!" or "("`
)

// parser is a recursive-descent parser without a separate token stage: what a word
// means depends on its place ("in in {…}" is about the label "in").
type parser struct {
	input  string
	pos    int
	parens int
}

func (p *parser) parse() (node, error) {
	if p.skipSpace(); p.atEnd() {
		return all{}, nil
	}
	n, err := p.or()
	if err != nil {
		return nil, err
	}
	if !p.atEnd() {
		return nil, p.expected(`"&&", "||" or the end`)
	}
	return n, nil
}

func (p *parser) or() (node, error) {
	return p.joined("||", p.and, func(operands []node) node {
		flat := make([]node, 0, len(operands))
		for _, o := range operands {
			if nested, ok := o.(or); ok {
				flat = append(flat, nested.operands...)
			} else {
				flat = append(flat, o)
			}
		}
		return or{flat}
	})
}

func (p *parser) and() (node, error) {
	return p.joined("&&", p.term, func(operands []node) node {
		flat := make([]node, 0, len(operands))
		for _, o := range operands {
			if nested, ok := o.(and); ok {
				flat = append(flat, nested.operands...)
			} else {
				flat = append(flat, o)
			}
		}
		return and{flat}
	})
}

// joined reads one or more operands with an operator between them.
func (p *parser) joined(operator string, operand func() (node, error), join func([]node) node) (node, error) {
	start := p.pos
	first, err := operand()
	if err != nil {
		return nil, err
	}
	operands := []node{first}
	for p.accept(operator) {
		n, err := operand()
		if err != nil {
			return nil, err
		}
		operands = append(operands, n)
	}
	if len(operands) == 1 {
		return first, nil
	}
	return p.limited(join(operands), start)
}

// limited refuses a node that is nested too deeply.
func (p *parser) limited(n node, start int) (node, error) {
	if n.depth() > maxDepth {
		return nil, p.expectedAt(start, fmt.Sprintf("at most %d levels of nesting", maxDepth))
	}
	return n, nil
}

// term reads any number of "!" and what they negate.
func (p *parser) term() (node, error) {
	p.skipSpace()
	start, negated := p.pos, false
	for p.accept("!") {
		negated = !negated
	}
	n, err := p.atom()
	if err != nil || !negated {
		return n, err
	}
	if inner, ok := n.(not); ok {
		return inner.operand, nil
	}
	return p.limited(not{n}, start)
}

func (p *parser) atom() (node, error) {
	if p.accept("(") {
		return p.group()
	}
	start := p.pos
	name, err := p.label(expectTerm)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(p.input[p.pos:], "(") {
		return p.call(name, start)
	}
	return p.comparison(label(name))
}

// group reads the rest of a group after its opening parenthesis.
func (p *parser) group() (node, error) {
	if p.parens++; p.parens > maxParens {
		return nil, p.expectedAt(p.pos-1, fmt.Sprintf("at most %d open parentheses", maxParens))
	}
	n, err := p.or()
	if err != nil {
		return nil, err
	}
	p.parens--
	return n, p.require(")", `"&&", "||" or ")"`)
}

// call reads the rest of has(…), all() or global(), from the opening parenthesis on.
func (p *parser) call(name string, start int) (node, error) {
	switch name {
	case "has", "all", "global":
	default:
		return nil, p.expectedAt(start, "has(…), all() or global() before \"(\"")
	}
	p.accept("(")
	if name == "has" {
		arg, err := p.label("a label")
		if err != nil {
			return nil, err
		}
		return has{label(arg)}, p.require(")", `")"`)
	}
	if err := p.require(")", `")"`); err != nil {
		return nil, err
	}
	if name == "global" {
		return global{}, nil
	}
	return all{}, nil
}

// comparison reads the operator and the operand that follow a label.
func (p *parser) comparison(l label) (node, error) {
	switch {
	case p.accept("=="):
		return p.compare(l, func(c comparison) node { return equal{c} })
	case p.accept("!="):
		return p.compare(l, func(c comparison) node { return notEqual{c} })
	case p.acceptWords("contains"):
		return p.compare(l, func(c comparison) node { return contains{c} })
	case p.acceptWords("startswith"), p.acceptWords("starts", "with"):
		return p.compare(l, func(c comparison) node { return startsWith{c} })
	case p.acceptWords("endswith"), p.acceptWords("ends", "with"):
		return p.compare(l, func(c comparison) node { return endsWith{c} })
	case p.acceptWords("in"):
		m, err := p.set(l)
		return in{m}, err
	case p.acceptWords("notin"), p.acceptWords("not", "in"):
		m, err := p.set(l)
		return notIn{m}, err
	}
	return nil, p.expected(expectOperator)
}

func (p *parser) compare(l label, build func(comparison) node) (node, error) {
	value, err := p.quoted(`a value in quotes`)
	if err != nil {
		return nil, err
	}
	return build(comparison{l, value}), nil
}

// set reads {"a", "b"}. A comma after the last value is accepted.
func (p *parser) set(l label) (membership, error) {
	m := membership{label: l}
	if err := p.require("{", `"{"`); err != nil {
		return m, err
	}
	for !p.accept("}") {
		value, err := p.quoted(`a value in quotes or "}"`)
		if err != nil {
			return m, err
		}
		m.values = append(m.values, value)
		if p.accept("}") {
			break
		}
		if err := p.require(",", `"," or "}"`); err != nil {
			return m, err
		}
	}
	slices.Sort(m.values)
	m.values = slices.Compact(m.values)
	return m, nil
}

func (p *parser) quoted(expected string) (string, error) {
	if p.skipSpace(); p.atEnd() || (p.input[p.pos] != '"' && p.input[p.pos] != '\'') {
		return "", p.expected(expected)
	}
	quote := p.input[p.pos]
	body := p.input[p.pos+1:]
	end := strings.IndexByte(body, quote)
	if end < 0 {
		return "", p.expectedAt(len(p.input), fmt.Sprintf("a closing %c", quote))
	}
	p.pos += end + 2
	p.skipSpace()
	return body[:end], nil
}

func (p *parser) label(expected string) (string, error) {
	p.skipSpace()
	n := wordLen(p.input[p.pos:])
	if n == 0 {
		return "", p.expected(expected)
	}
	if n > maxLabel {
		return "", p.expected(fmt.Sprintf("a label of at most %d characters", maxLabel))
	}
	name := p.input[p.pos : p.pos+n]
	p.pos += n
	p.skipSpace()
	return name, nil
}

// accept moves past a symbol and the space after it, if it comes next.
func (p *parser) accept(symbol string) bool {
	p.skipSpace()
	if !strings.HasPrefix(p.input[p.pos:], symbol) {
		return false
	}
	p.pos += len(symbol)
	p.skipSpace()
	return true
}

// acceptWords moves past whole words, if exactly they come next.
func (p *parser) acceptWords(words ...string) bool {
	start := p.pos
	for _, w := range words {
		p.skipSpace()
		rest := p.input[p.pos:]
		if rest[:wordLen(rest)] != w {
			p.pos = start
			return false
		}
		p.pos += len(w)
	}
	p.skipSpace()
	return true
}

func (p *parser) require(symbol, expected string) error {
	if !p.accept(symbol) {
		return p.expected(expected)
	}
	return nil
}

func (p *parser) skipSpace() {
	for !p.atEnd() && (p.input[p.pos] == ' ' || p.input[p.pos] == '\t') {
		p.pos++
	}
}

func (p *parser) atEnd() bool { return p.pos >= len(p.input) }

func (p *parser) expected(what string) error { return p.expectedAt(p.pos, what) }

func (p *parser) expectedAt(pos int, what string) error {
	return &SyntaxError{Input: p.input, Offset: pos, Expected: what}
}

// wordLen is the length of the identifier at the start of s.
func wordLen(s string) int {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '_', c == '.', c == '/', c == '-':
		default:
			return i
		}
	}
	return len(s)
}
