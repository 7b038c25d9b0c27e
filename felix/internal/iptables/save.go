package iptables

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strings"

	"calico.internal/felix/internal/rules"
)

// errIncomplete is returned for an output of iptables-save that does not hold the whole
// table, such as that of a command which failed without saying so.
var errIncomplete = errors.New("iptables-save gave no complete table")

// contents is one table as it was read: every chain, with the rules that are felix's.
type contents map[string]readChain

// readChain is one chain as it was read.
type readChain struct {
	// rules has an entry for each rule, felix's or not. Of a rule of somebody else the hash
	// is empty. The text serves to delete felix's rules in chains of others; it may be
	// missing elsewhere.
	rules []Rule
}

// parseSave reads the output of iptables-save for one table. It looks at the names of
// chains and at felix's comments and understands nothing else.
func parseSave(t rules.Table, out []byte) (contents, error) {
	var (
		c        = contents{}
		in, done bool
	)
	s := bufio.NewScanner(bytes.NewReader(out))
	s.Buffer(make([]byte, 0, 64*1024), 1024*1024)
	for s.Scan() {
		line := s.Text()
		switch {
		case line == "*"+string(t):
			in = true
		case strings.HasPrefix(line, "*"):
			in = false
		case !in:
		case line == "COMMIT":
			in, done = false, true
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			c[strings.Clone(name)] = readChain{}
		case strings.HasPrefix(line, "-A "):
			c.addRule(line[len("-A "):])
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read table %s: %w", t, err)
	}
	if !done {
		return nil, fmt.Errorf("read table %s: %w", t, errIncomplete)
	}
	return c, nil
}

func (c contents) addRule(line string) {
	name, text, _ := strings.Cut(line, " ")
	chain, ok := c[name]
	if !ok {
		name = strings.Clone(name)
	}
	hash := findHash(text)
	r := Rule{Hash: strings.Clone(hash)}
	if hash != "" && !Owned(name) {
		r.Text = strings.Clone(text)
	}
	chain.rules = append(chain.rules, r)
	c[name] = chain
}

// findHash finds felix's mark in a rule: the text after "cali:" of a comment.
func findHash(text string) string {
	const opening = `--comment "` + commentPrefix
	_, rest, found := strings.Cut(text, opening)
	if !found {
		return ""
	}
	hash, _, closed := strings.Cut(rest, `"`)
	if !closed || len(hash) == 0 || len(hash) > 2*hashLength {
		return ""
	}
	for i := range len(hash) {
		if c := hash[i]; c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return ""
		}
	}
	return hash
}

// chain gives a chain as the table of desired chains compares it; ok is false for a
// chain of others in which nothing is felix's.
func (c contents) chain(name string) (out Chain, ok bool) {
	read, exists := c[name]
	if !exists {
		return Chain{}, false
	}
	if Owned(name) {
		return Chain{Rules: read.rules}, true
	}
	lead := true
	for _, r := range read.rules {
		switch {
		case r.Hash != "":
			out.Rules = append(out.Rules, Rule{Hash: r.Hash})
			if lead {
				out.Lead++
			}
		default:
			lead = false
		}
	}
	return out, len(out.Rules) > 0
}
