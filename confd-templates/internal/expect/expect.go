// Package expect knows what the value of a key must look like, so that one bad value can be left out instead of
// stopping the file that is made of it. It does no input or output.
package expect

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Rule says what the values of some keys must look like.
type Rule struct {
	// Keys are patterns as of [path.Match]: * does not cross a slash.
	Keys []string `toml:"keys"`
	// Value is the form of the whole value: json, or one of those of Fields.
	Value string `toml:"value"`
	// Empty allows the empty value besides.
	Empty bool `toml:"empty"`
	// Fact says that the values tell what is, such as a node's address, and not what
	// somebody wants: a store that was restored to an older state does not take them away.
	Fact bool `toml:"fact"`
	// Fields gives the form of members of a JSON object: text, password, ipv4, ipv6, ip, prefix, asn, port, bool,
	// or the possible words with | between. A member whose form ends in ? may be absent or empty.
	Fields map[string]string `toml:"fields"`
}

// forms checks the text of a value by the name of its form. A form that is not here may be words with | between.
var forms = map[string]func(string) error{
	"text":     checkText,
	"password": checkPassword,
	"ipv4":     func(s string) error { return checkAddr(s, netip.Addr.Is4) },
	"ipv6":     func(s string) error { return checkAddr(s, netip.Addr.Is6) },
	"ip":       func(s string) error { return checkAddr(s, netip.Addr.IsValid) },
	"prefix":   checkPrefix,
	"asn":      checkASN,
	"port":     func(s string) error { _, err := strconv.ParseUint(s, 10, 16); return err },
	"bool":     func(s string) error { _, err := strconv.ParseBool(s); return err },
}

// Validate checks the rule itself, so that a mistake in it is found when it is read.
func (r Rule) Validate() error {
	if len(r.Keys) == 0 {
		return errors.New("expect: no keys")
	}
	for _, pattern := range r.Keys {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("expect: pattern %s: %w", pattern, err)
		}
	}
	if r.Value != "json" {
		if len(r.Fields) > 0 {
			return fmt.Errorf("expect %s: only a json value has fields", r.Keys[0])
		}
		return checkForm(r.Value)
	}
	for _, name := range sortedKeys(r.Fields) {
		if err := checkForm(strings.TrimSuffix(r.Fields[name], "?")); err != nil {
			return fmt.Errorf("field %s: %w", name, err)
		}
	}
	return nil
}

func checkForm(name string) error {
	if _, ok := forms[name]; ok || strings.Contains(name, "|") {
		return nil
	}
	return fmt.Errorf("expect: unknown form %q; there are %s, json, and words with | between", name, strings.Join(sortedKeys(forms), ", "))
}

// checkValue says what is wrong with a text that should have a form.
func checkValue(form, text string) error {
	check, named := forms[form]
	if !named {
		if slices.Contains(strings.Split(form, "|"), text) {
			return nil
		}
		return fmt.Errorf("is %q, none of %s", text, strings.ReplaceAll(form, "|", ", "))
	}
	if err := check(text); err != nil {
		return fmt.Errorf("is no %s: %w", form, err)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Rules is a list of rules; the first that matches a key decides.
type Rules []Rule

// Check returns why the value of a key is of no use, or nil. A key that no rule names may have any value.
func (rs Rules) Check(key, value string) error {
	for _, rule := range rs {
		if rule.matches(key) {
			return rule.check(value)
		}
	}
	return nil
}

// Fact reports whether a key tells what is.
func (rs Rules) Fact(key string) bool {
	i := slices.IndexFunc(rs, func(r Rule) bool { return r.matches(key) })
	return i >= 0 && rs[i].Fact
}

func (r Rule) matches(key string) bool {
	for _, pattern := range r.Keys {
		if ok, err := path.Match(pattern, key); ok && err == nil {
			return true
		}
	}
	return false
}

func (r Rule) check(value string) error {
	switch {
	case value == "" && r.Empty:
		return nil
	case value == "":
		return errors.New("is empty")
	case r.Value == "json":
		return r.checkObject(value)
	}
	return checkValue(r.Value, value)
}

// checkObject demands an object whose members have the forms of the rule. Members that the rule does not name are
// not looked at: a newer writer may have added them.
func (r Rule) checkObject(value string) error {
	decoder := json.NewDecoder(strings.NewReader(value))
	decoder.UseNumber()
	var object map[string]any
	if err := decoder.Decode(&object); err != nil {
		return fmt.Errorf("is no JSON object: %w", err)
	}
	if decoder.More() {
		return errors.New("is no JSON object: there is text after its end")
	}
	for _, name := range sortedKeys(r.Fields) {
		if err := checkField(object[name], r.Fields[name]); err != nil {
			return fmt.Errorf("field %s: %w", name, err)
		}
	}
	return nil
}

func checkField(member any, form string) error {
	form, optional := strings.CutSuffix(form, "?")
	if member == nil || member == "" {
		if optional {
			return nil
		}
		return errors.New("is missing")
	}
	var text string
	switch m := member.(type) {
	case string:
		text = m
	case json.Number:
		// A template reads 1.10 as the number 1.1, and prints the AS number 1.
		if text = m.String(); form == "asn" && strings.ContainsAny(text, ".eE") {
			return fmt.Errorf("is no asn: a dotted one stands in quotes: \"%s\"", text)
		}
	case bool:
		// A template treats "false" in quotes as true, so a switch must be a real one.
		if form != "bool" {
			return fmt.Errorf("is no %s but %v", form, m)
		}
		return nil
	default:
		return fmt.Errorf("is no %s but a list or an object", form)
	}
	if form == "bool" {
		return fmt.Errorf("is no bool but %q", text)
	}
	return checkValue(form, text)
}

func checkText(s string) error {
	for i, r := range s {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return fmt.Errorf("character %#x at %d", r, i)
		}
	}
	return nil
}

// checkPassword takes what a TCP MD5 key (RFC 2385) can be: TCP_MD5SIG_MAXKEYLEN bytes.
func checkPassword(s string) error {
	const most = 80
	if len(s) > most {
		return fmt.Errorf("%d bytes, at most %d are possible", len(s), most)
	}
	// Its value must not reach a log.
	if checkText(s) != nil {
		return errors.New("it has a control character")
	}
	return nil
}

func checkAddr(s string, family func(netip.Addr) bool) error {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return err
	case addr.Zone() != "" || addr.Is4In6() || !family(addr):
		return fmt.Errorf("%s is of another family", s)
	case addr.IsUnspecified() || addr.IsMulticast():
		return fmt.Errorf("%s is not the address of a host", s)
	}
	return nil
}

func checkPrefix(s string) error {
	prefix, err := netip.ParsePrefix(s)
	if err == nil && prefix != prefix.Masked() {
		return fmt.Errorf("%s has bits beyond its length", s)
	}
	return err
}

// checkASN takes an AS number that somebody can have, plain or dotted (RFC 5396).
func checkASN(s string) error {
	n, err := strconv.ParseUint(s, 10, 32)
	if high, low, dotted := strings.Cut(s, "."); dotted {
		var h, l uint64
		h, err = strconv.ParseUint(high, 10, 16)
		if err == nil {
			l, err = strconv.ParseUint(low, 10, 16)
		}
		n = h<<16 | l
	}
	switch {
	case err != nil:
		return err
	case n == 0 || n == 23456 || n == 1<<32-1:
		return fmt.Errorf("%s is reserved (RFC 7607, 6793, 7300)", s)
	}
	return nil
}
