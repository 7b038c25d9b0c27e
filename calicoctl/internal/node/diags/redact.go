package diags

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// hidden is what stands in place of a secret.
const hidden = "[redacted]"

// secretWord is in the names of values that are secrets.
const secretWord = `(?:password|passwd|secret|token|credential|authorization|api[_-]?key|private[_-]?key)`

// Redactor takes secrets out of texts.
type Redactor struct {
	// secretName matches names of values that are secrets.
	secretName *regexp.Regexp
	// assigned matches name = value and name: value, also within JSON and within JSON
	// that is text in JSON. An unquoted value reaches to the end of its line.
	assigned *regexp.Regexp
	// flagged matches --password value.
	flagged *regexp.Regexp
	// userinfo matches the user and password of a URL.
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
		userinfo: regexp.MustCompile(`(://)[^/\s:@"']+:[^/\s@"']+@`),
		pemKey:   regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----`),
	}
}

// minSecret is the length from which a secret is looked for by its text; a shorter one
// would take too much with it.
const minSecret = 4

// Know makes a text a secret wherever it stands.
func (r *Redactor) Know(secrets ...string) {
	for _, s := range secrets {
		if len(s) >= minSecret && !slices.Contains(r.known, s) {
			r.known = append(r.known, s)
		}
	}
	// The longer first, in case one is part of another.
	slices.SortFunc(r.known, func(a, b string) int { return len(b) - len(a) })
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

func (r *Redactor) redactText(text []byte) []byte {
	text = r.pemKey.ReplaceAll(text, []byte(hidden))
	text = r.userinfo.ReplaceAll(text, []byte("${1}"+hidden+"@"))
	text = r.assigned.ReplaceAll(text, []byte("${1}"+hidden))
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
		var v any
		if json.Unmarshal([]byte(text), &v) == nil {
			var found []string
			r.secretsIn(v, &found)
			r.Know(found...)
		}
	}
}
