package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// document is a TOML document on its way to a Config: its text, the line of each key once
// something was wrong, and what was.
type document struct {
	text     []byte
	lines    map[string]int
	faults   []Fault
	warnings []Fault
}

// table is one table of a document. Keys that nobody asked for are unknown.
type table struct {
	d      *document
	path   string
	values map[string]any
	known  []string
}

// open parses the document's syntax. On a fault the table is nil.
func open(doc []byte) (*document, *table) {
	d := &document{text: doc}
	var root map[string]any
	if err := toml.Unmarshal(doc, &root); err != nil {
		d.faults = append(d.faults, syntaxFault(err))
		return d, nil
	}
	return d, &table{d: d, values: root}
}

func syntaxFault(err error) Fault {
	var de *toml.DecodeError
	if !errors.As(err, &de) {
		return Fault{Text: err.Error()}
	}
	row, column := de.Position()
	return Fault{Line: row, Text: fmt.Sprintf("column %d: %s", column, strings.TrimPrefix(de.Error(), "toml: "))}
}

// lineOf finds the line of a key, or that of the table that lacks it.
func (d *document) lineOf(key, table string) int {
	if d.lines == nil {
		d.lines = keyLines(d.text)
	}
	if line, ok := d.lines[key]; ok {
		return line
	}
	return d.lines[table]
}

// keyLines maps the path of each key of a valid document to its line. Array tables
// count from 0: "peer[0].address".
func keyLines(doc []byte) map[string]int {
	lines := map[string]int{}
	count := map[string]int{}
	prefix := ""
	at := position{doc: doc, line: 1}
	var p unstable.Parser
	p.Reset(doc)
	for p.NextExpression() {
		e := p.Expression()
		name, offset := keyOf(e)
		switch e.Kind {
		case unstable.Table:
			prefix = name + "."
		case unstable.ArrayTable:
			i := count[name]
			count[name]++
			name = fmt.Sprintf("%s[%d]", name, i)
			prefix = name + "."
		default:
			name = prefix + name
		}
		lines[name] = at.forward(offset)
	}
	return lines
}

func keyOf(e *unstable.Node) (name string, offset int) {
	var parts []string
	for it := e.Key(); it.Next(); {
		n := it.Node()
		if parts == nil {
			offset = int(n.Raw.Offset)
		}
		parts = append(parts, string(n.Data))
	}
	return strings.Join(parts, "."), offset
}

// position counts lines in one way through a document: the parser's own count starts at
// the beginning for each key.
type position struct {
	doc          []byte
	offset, line int
}

// forward goes on to an offset that is not before the last one, and returns its line.
func (p *position) forward(offset int) int {
	p.line += bytes.Count(p.doc[p.offset:offset], []byte("\n"))
	p.offset = offset
	return p.line
}

func (t *table) field(key string) string {
	if t.path == "" {
		return key
	}
	return t.path + "." + key
}

// fault records what is wrong with a key; a key that is absent gets the line of its
// table.
func (t *table) fault(key, format string, args ...any) {
	t.d.faults = append(t.d.faults, t.note(key, format, args...))
}

func (t *table) warn(key, format string, args ...any) {
	t.d.warnings = append(t.d.warnings, t.note(key, format, args...))
}

func (t *table) note(key, format string, args ...any) Fault {
	f := t.field(key)
	return Fault{Line: t.d.lineOf(f, t.path), Field: f, Text: fmt.Sprintf(format, args...)}
}

// get marks a key as known and finds its value.
func (t *table) get(key string) (any, bool) {
	t.known = append(t.known, key)
	v, ok := t.values[key]
	return v, ok
}

// value reads a key of type T; a missing one is def, one of another type a fault.
func value[T any](t *table, key string, def T, want string) T {
	raw, ok := t.get(key)
	if !ok {
		return def
	}
	v, ok := raw.(T)
	if !ok {
		t.fault(key, "is %s, must be %s", describe(raw), want)
		return def
	}
	return v
}

func describe(v any) string {
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("the text %q", v)
	case int64:
		return fmt.Sprintf("the number %d", v)
	case bool:
		return fmt.Sprintf("%t", v)
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	default:
		return fmt.Sprintf("%v", v)
	}
}

func (t *table) text(key string) string           { return value(t, key, "", "a text") }
func (t *table) flag(key string, def bool) bool   { return value(t, key, def, "true or false") }
func (t *table) has(key string) bool              { _, ok := t.values[key]; return ok }
func (t *table) seconds(key string, d int) int    { return t.number(key, d, 1, 65535) }
func (t *table) port(key string, def int) uint16  { return uint16(t.number(key, def, 1, 65535)) }
func (t *table) require(key string, present bool) { t.requireText(key, present, "is missing") }

func (t *table) requireText(key string, present bool, text string) {
	if !present {
		t.fault(key, "%s", text)
	}
}

func (t *table) number(key string, def, least, most int) int {
	n := value(t, key, int64(def), "a number")
	if n < int64(least) || n > int64(most) {
		t.fault(key, "is %d, must be from %d to %d", n, least, most)
		return def
	}
	return int(n)
}

func (t *table) choice(key, def string, choices ...string) string {
	s := value(t, key, def, "a text")
	if !slices.Contains(choices, s) {
		t.fault(key, "is %q, must be one of %q", s, choices)
		return def
	}
	return s
}

// addr reads a unicast IP address without a zone; empty and missing are the zero
// Addr.
func (t *table) addr(key string) netip.Addr {
	s := t.text(key)
	if s == "" {
		return netip.Addr{}
	}
	a, text := parseAddr(s)
	if text != "" {
		t.fault(key, "%s", text)
	}
	return a
}

func parseAddr(s string) (_ netip.Addr, fault string) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Sprintf("%q is not an IP address", s)
	case a.Zone() != "" || a.Is4In6():
		return netip.Addr{}, fmt.Sprintf("%q must be a plain IPv4 or IPv6 address", s)
	case a.IsUnspecified() || a.IsMulticast():
		return netip.Addr{}, fmt.Sprintf("%q is not the address of a host", s)
	}
	return a, ""
}

// texts reads a list of texts.
func (t *table) texts(key string) []string {
	var out []string
	for _, v := range value(t, key, []any(nil), "a list of texts") {
		s, ok := v.(string)
		if !ok {
			t.fault(key, "has %s, must be a list of texts", describe(v))
			continue
		}
		out = append(out, s)
	}
	return out
}

// table opens a table of this one; a missing one is empty.
func (t *table) table(key string) *table {
	return &table{d: t.d, path: t.field(key), values: value(t, key, map[string]any(nil), "a table")}
}

// tables opens an array of tables.
func (t *table) tables(key string) []*table {
	var out []*table
	raw, ok := t.get(key)
	if !ok {
		return nil
	}
	list, ok := raw.([]any)
	if !ok {
		t.fault(key, "is %s, must be an array of tables ([[%s]])", describe(raw), key)
		return nil
	}
	for i, v := range list {
		m, ok := v.(map[string]any)
		if !ok {
			t.fault(key, "has %s, must be an array of tables ([[%s]])", describe(v), key)
			continue
		}
		out = append(out, &table{d: t.d, path: fmt.Sprintf("%s[%d]", t.field(key), i), values: m})
	}
	return out
}

// done warns of the keys that nobody asked for: a newer confd must not stop an older
// bgpd.
func (t *table) done() {
	for _, key := range slices.Sorted(maps.Keys(t.values)) {
		if slices.Contains(t.known, key) {
			continue
		}
		if near := nearest(key, t.known); near != "" {
			t.warn(key, "unknown key, ignored; did you mean %q?", near)
			continue
		}
		t.warn(key, "unknown key, ignored")
	}
}

// nearest is the known name that differs from a wrong one by at most two edits.
func nearest(key string, known []string) string {
	best, bestDistance := "", 3
	for _, k := range known {
		if d := distance(key, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance is Levenshtein's: inserts, deletes and replacements.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// byAddr orders peers.
func byAddr(a, b Peer) int { return a.Address.Compare(b.Address) }

// byCIDR orders pools.
func byCIDR(a, b Pool) int {
	return cmp.Or(a.CIDR.Addr().Compare(b.CIDR.Addr()), cmp.Compare(a.CIDR.Bits(), b.CIDR.Bits()))
}
