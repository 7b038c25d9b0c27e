package diags

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// hidden is what stands in place of a secret.
const hidden = "[redacted]"

// secretWord is in the names of values that are secrets.
const secretWord = `(?:password|pgpass|(?:\b|_)psk\b|(?:\b|_)pwd\b|passwd|passphrase|secret|token|credential|authorization|api[_-]?key|private[_-]?key)`

// Redactor takes secrets out of texts.
type Redactor struct {
	// secretName matches names of values that are secrets.
	secretName *regexp.Regexp
	// assigned matches name = value and name: value, also within JSON and within JSON
	// that is text in JSON. An unquoted value reaches to the end of its line.
	assigned *regexp.Regexp
	// flagged matches --password value.
	flagged *regexp.Regexp
	// told matches a secret in a sentence: password is value, token was value.
	told *regexp.Regexp
	// userinfo matches what stands before the host of a URL: a user, a password, a token, each of
	// which may be missing, and may hold an @; a password may hold a / as well, which is why a path
	// with an @ behind a port is taken for one.
	userinfo *regexp.Regexp
	// pemKey matches a private key.
	pemKey *regexp.Regexp
	// known are secrets by their text.
	known []string
}

// NewRedactor makes a redactor that knows no secret by its text yet.
func NewRedactor() *Redactor {
	return &Redactor{
		secretName: regexp.MustCompile(`(?i)` + secretWord),
		assigned: regexp.MustCompile(`(?i)([\w.-]*` + secretWord + `[\w.-]*\\*['"]?[ \t]*[:=][ \t]*)` +
			`(\\+".*?\\+"|"(?:[^"\\]|\\.)*"|'[^']*'|[^\s"'\\{\[][^\n]*)`),
		flagged:  regexp.MustCompile(`(?i)(--[\w-]*` + secretWord + `[\w-]*[ \t]+)(\S+)`),
		told:     regexp.MustCompile(`(?i)(\b[\w-]*(?:passw(?:or)?d|passphrase|secret|token|psk)[ \t]+(?:is|was)[ \t:]+)(\S+)`),
		userinfo: regexp.MustCompile(`(://)(?:[^/\s"']+|[^/\s"'@:]*:[^\s"'@]+)@`),
		pemKey:   regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----`),
	}
}

// minSecret is the length from which a secret is looked for by its text; a shorter one
// would take too much with it.
const minSecret = 4

// Know makes a text a secret wherever it stands, also as it is written in URLs, in JSON and in
// base 64.
func (r *Redactor) Know(secrets ...string) {
	for _, s := range secrets {
		for _, form := range formsOf(s) {
			if len(s) >= minSecret && !slices.Contains(r.known, form) {
				r.known = append(r.known, form)
			}
		}
	}
	// The longer first, in case one is part of another.
	slices.SortFunc(r.known, func(a, b string) int { return len(b) - len(a) })
}

// formsOf are the ways in which a secret is written.
func formsOf(s string) []string {
	forms := []string{s, url.QueryEscape(s), url.PathEscape(s), base64.StdEncoding.EncodeToString([]byte(s))}
	for _, html := range []bool{false, true} {
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(html)
		if enc.Encode(s) == nil {
			forms = append(forms, strings.Trim(strings.TrimSpace(out.String()), `"`))
		}
	}
	return forms
}

// KnowVariables makes the values known of variables, NAME=VALUE, that are secrets by their name.
func (r *Redactor) KnowVariables(variables []string) {
	for _, v := range variables {
		if name, value, ok := strings.Cut(v, "="); ok && r.secretName.MatchString(name) {
			r.Know(strings.TrimSpace(value))
		}
	}
}

// Redact returns a text without its secrets.
func (r *Redactor) Redact(text []byte) []byte {
	if out, ok := r.redactJSON(text); ok {
		text = out
	} else {
		text = r.redactText(text)
	}
	for _, s := range r.known {
		text = bytes.ReplaceAll(text, []byte(s), []byte(hidden))
	}
	return text
}

// RedactValue returns the value of something that has a name, such as a key of etcd, without
// its secrets.
func (r *Redactor) RedactValue(name string, value []byte) []byte {
	if len(value) > 0 && r.secretName.MatchString(name) {
		return []byte(hidden)
	}
	text := string(value)
	if mayHoldSecret(text) {
		text, _ = r.walk(text).(string)
	}
	for _, s := range r.known {
		text = strings.ReplaceAll(text, s, hidden)
	}
	return []byte(text)
}

// hints are parts of every text that holds what a [Redactor] takes out, in lower case: of
// secretWord, of URLs and of keys; what is escaped may be anything.
var hints = []string{
	"passw", "passphrase", "secret", "token", "credential", "authorization", "api", "private", "psk", "pgpass", "pwd", "://", "-----begin", `\u`,
}

// mayHoldSecret says whether it is worth looking closely: of 100,000 values few are.
func mayHoldSecret(text string) bool {
	text = strings.ToLower(text)
	return slices.ContainsFunc(hints, func(hint string) bool { return strings.Contains(text, hint) })
}

func (r *Redactor) redactText(text []byte) []byte {
	text = r.pemKey.ReplaceAll(text, []byte(hidden))
	text = r.userinfo.ReplaceAll(text, []byte("${1}"+hidden+"@"))
	text = r.assigned.ReplaceAll(text, []byte("${1}"+hidden))
	text = r.told.ReplaceAll(text, []byte("${1}"+hidden))
	return r.flagged.ReplaceAll(text, []byte("${1}"+hidden))
}

// redactJSON is for texts that are one JSON document, whose values are looked at one
// by one.
func (r *Redactor) redactJSON(text []byte) ([]byte, bool) {
	trimmed := bytes.TrimSpace(text)
	if len(trimmed) == 0 || trimmed[0] != '{' && trimmed[0] != '[' {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(trimmed))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil || dec.More() {
		return nil, false
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if enc.Encode(r.walk(v)) != nil {
		return nil, false
	}
	return out.Bytes(), true
}

func (r *Redactor) walk(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			s, isText := value.(string)
			if r.secretName.MatchString(name) && (!isText || s != "") {
				v[name] = hidden
				continue
			}
			v[name] = r.walk(value)
		}
	case []any:
		for i := range v {
			v[i] = r.walk(v[i])
		}
	case string:
		// Values of etcd are JSON as text; NAME=VALUE of the environment is text.
		if out, ok := r.redactJSON([]byte(v)); ok {
			var compact bytes.Buffer
			if json.Compact(&compact, out) == nil {
				return compact.String()
			}
		}
		if name, _, ok := strings.Cut(v, "="); ok && r.secretName.MatchString(name) && !strings.ContainsAny(name, " \t\n") {
			return name + "=" + hidden
		}
		return string(r.redactText([]byte(v)))
	}
	return v
}

// secretsIn collects the texts of fields with secret names from JSON documents, so that
// they are found where they stand without their name.
func (r *Redactor) secretsIn(v any, found *[]string) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if s, ok := value.(string); ok && r.secretName.MatchString(name) {
				*found = append(*found, s)
				continue
			}
			r.secretsIn(value, found)
		}
	case []any:
		for _, item := range v {
			r.secretsIn(item, found)
		}
	}
}

// KnowValues makes the secrets in JSON documents known.
func (r *Redactor) KnowValues(values ...string) {
	for _, text := range values {
		if !mayHoldSecret(text) {
			continue
		}
		var v any
		if json.Unmarshal([]byte(text), &v) == nil {
			var found []string
			r.secretsIn(v, &found)
			r.Know(found...)
		}
	}
}
