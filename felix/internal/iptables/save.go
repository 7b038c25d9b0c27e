package iptables

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"

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
	// is empty. The text, or in nf_tables the handle, serves to delete felix's rules in chains
	// of others; it may be missing elsewhere.
	rules []Rule
}

// parseSave reads the output of iptables-save for one table.
func parseSave(t rules.Table, out []byte) (contents, error) {
	all, err := parseSaves(out)
	if err != nil {
		return nil, fmt.Errorf("read table %s: %w", t, err)
	}
	c, ok := all[t]
	if !ok {
		return nil, fmt.Errorf("read table %s: %w", t, errIncomplete)
	}
	return c, nil
}

// parseSaves reads the output of iptables-save for several tables, and returns those that
// are complete. It looks at the names of chains and at felix's comments and understands
// nothing else.
func parseSaves(out []byte) (map[rules.Table]contents, error) {
	var (
		all  = map[rules.Table]contents{}
		name rules.Table
		c    contents
	)
	s := bufio.NewScanner(bytes.NewReader(out))
	s.Buffer(make([]byte, 0, 64*1024), 1024*1024)
	for s.Scan() {
		line := s.Bytes()
		switch {
		case len(line) == 0:
		case line[0] == '*':
			name, c = rules.Table(line[1:]), contents{}
		case c == nil:
		case string(line) == "COMMIT":
			all[name], c = c, nil
		case line[0] == ':':
			chain, _, _ := bytes.Cut(line[1:], []byte(" "))
			c[string(chain)] = readChain{}
		case bytes.HasPrefix(line, []byte("-A ")):
			c.addRule(line[len("-A "):])
		}
	}
	return all, s.Err()
}

func (c contents) addRule(line []byte) {
	name, text, _ := bytes.Cut(line, []byte(" "))
	r := Rule{Hash: string(findHash(text))}
	if r.Hash != "" && !Owned(string(name)) {
		r.Text = string(text)
	}
	chain := c[string(name)]
	chain.rules = append(chain.rules, r)
	c[string(name)] = chain
}

// findHash finds felix's mark in a rule: the text after "cali:" of a comment.
func findHash(text []byte) []byte {
	const opening = `--comment "` + commentPrefix
	_, rest, found := bytes.Cut(text, []byte(opening))
	if !found {
		return nil
	}
	hash, _, closed := bytes.Cut(rest, []byte(`"`))
	if !closed || !isHash(hash) {
		return nil
	}
	return hash
}

// isHash reports whether b has the form of a hash.
func isHash(b []byte) bool {
	for _, c := range b {
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return len(b) > 0 && len(b) <= 2*hashLength
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
