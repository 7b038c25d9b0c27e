package tree

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sketch writes a node in one line, for comparison.
func sketch(n *Node) string {
	switch n.Kind {
	case Scalar:
		if n.Quoted {
			return fmt.Sprintf("%q@%d:%d", n.Text, n.Pos.Line, n.Pos.Column)
		}
		return fmt.Sprintf("%s@%d:%d", n.Text, n.Pos.Line, n.Pos.Column)
	case List:
		var items []string
		for _, it := range n.Items {
			items = append(items, sketch(it))
		}
		return "[" + strings.Join(items, " ") + "]"
	case Map:
		var fields []string
		for _, f := range n.Fields {
			fields = append(fields, f.Name+"="+sketch(f.Value))
		}
		return "{" + strings.Join(fields, " ") + "}"
	case Null:
	}
	return "null"
}

// read parses a whole file into sketches and fault lines.
func read(file, text string) (nodes, faults []string) {
	for d := range Documents(file, []byte(text)) {
		values, found := d.Parse()
		for _, v := range values {
			nodes = append(nodes, sketch(v))
		}
		for _, f := range found {
			faults = append(faults, f.Error())
		}
	}
	return nodes, faults
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, file, text string
		want             []string
		faults           []string
	}{
		{
			name: "words that YAML 1.1 takes for truth values stay text",
			text: "a: n\nb: yes\nno: y\n",
			want: []string{"{a=n@1:4 b=yes@2:4 no=y@3:5}"},
		},
		{
			name: "quotes are remembered",
			text: "a: 'true'\nb: \"5\"\nc: !!str 7\nd: |\n  x\n",
			want: []string{`{a="true"@1:4 b="5"@2:4 c="7"@3:4 d="x\n"@4:4}`},
		},
		{
			name: "null has several spellings, and a field may be empty",
			text: "a: ~\nb: null\nc:\nd: ''\n",
			want: []string{`{a=null b=null c=null d=""@4:4}`},
		},
		{
			name: "documents of a stream keep the lines of the file",
			text: "# head\n---\na: 1\n--- # two\nb: 2\n...\n---\n\nc: 3\n",
			want: []string{"{a=1@3:4}", "{b=2@5:4}", "{c=3@9:4}"},
		},
		{
			name: "directives, comments and empty documents are nothing",
			text: "%YAML 1.2\n---\n---\n# nothing\n---\na: 1\n---\n",
			want: []string{"{a=1@6:4}"},
		},
		{
			name: "a marker line may carry the document",
			text: "--- {a: 1}\n--- [x]\n",
			want: []string{"{a=1@1:9}", "[x@2:6]"},
		},
		{
			name: "Windows line ends and a byte order mark do no harm",
			text: "\xef\xbb\xbfa: 1\r\n---\r\nb: 2\r\n",
			want: []string{"{a=1@1:4}", "{b=2@3:4}"},
		},
		{
			name: "anchors, aliases and merges",
			text: "x: &x\n  a: 1\ny: *x\nz:\n  <<: *x\n  b: 2\n",
			want: []string{"{x={a=1@2:6} y={a=1@2:6} z={b=2@6:6 a=1@2:6}}"},
		},
		{
			name: "a list of merges, the first of which comes first",
			text: "x: &x {a: 1}\ny: &y {a: 2, c: 3}\nz:\n  <<: [*x, *y]\n",
			want: []string{"{x={a=1@1:11} y={a=2@2:11 c=3@2:17} z={a=1@1:11 c=3@2:17}}"},
		},
		{
			name: "merges of what is no mapping",
			text: "x: &x {a: 1}\ny:\n  <<: [*x, 5, [b]]\nz:\n  <<: 5\n",
			want: []string{"{x={a=1@1:11} y={a=1@1:11} z={}}"},
			faults: []string{
				"f.yaml:3:12: << needs a mapping or a list of mappings, not a single value",
				"f.yaml:3:15: << needs a mapping or a list of mappings, not a list",
				"f.yaml:5:7: << needs a mapping or a list of mappings, not a single value",
			},
		},
		{
			name: "JSON with all that only JSON allows",
			text: "{\"a\":\t\"\\/ \\ud83d\\ude00\",\n\t\"b\": [1, true, null]}",
			want: []string{"{a=\"/ 😀\"@1:7 b=[1@2:8 true@2:11 null]}"},
		},
		{
			name: "several JSON values in a row",
			text: "{\"a\":1}\n{\"b\":2}",
			want: []string{"{a=1@1:6}", "{b=2@2:6}"},
		},
		{
			name: "YAML in braces is not taken for broken JSON",
			text: "{a: 1, b: [x]}",
			want: []string{"{a=1@1:5 b=[x@1:12]}"},
		},
		{
			name:   "broken JSON in a .json file",
			file:   "f.json",
			text:   "{\n \"a\": x}",
			faults: []string{"f.json:2:7: not valid JSON: invalid character 'x' looking for beginning of value"},
		},
		{
			name:   "JSON that ends too early",
			file:   "f.json",
			text:   "[{\"a\": 1}\n",
			faults: []string{"f.json:1:10: not valid JSON: the text ends in the middle of a value"},
		},
		{
			name: "a syntax error does not hide the other documents",
			text: "a: 1\n---\nb: c: d\n---\ne: 2\n",
			want: []string{"{a=1@1:4}", "{e=2@5:4}"},
			faults: []string{
				"f.yaml:3:5: not valid YAML: mapping values are not allowed in this context",
			},
		},
		{
			name:   "tabs",
			text:   "a:\n\t- b\n",
			faults: []string{"f.yaml:2:1: not valid YAML: found character that cannot start any token while scanning for the next token"},
		},
		{
			name:   "an unknown tag",
			text:   "a: !!binary aGk=\n",
			want:   []string{"{a=aGk=@1:4}"},
			faults: []string{"f.yaml:1:4: the tag !!binary has no meaning here"},
		},
		{
			name:   "not text at all",
			text:   "a: \"\xff\"\n",
			faults: []string{"f.yaml:1:5: the file is not UTF-8 text"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := tc.file
			if file == "" {
				file = "f.yaml"
			}
			nodes, faults := read(file, tc.text)
			if diff := cmp.Diff(tc.want, nodes); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.faults, faults); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAliasesCannotExplode(t *testing.T) {
	var text strings.Builder
	text.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&text, "a%d: &a%d [%s]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10))
	}
	if _, faults := read("f.yaml", text.String()); len(faults) == 0 {
		t.Error("a document that aliases blow up to 10^12 values was accepted")
	}
}

func TestDeepNesting(t *testing.T) {
	for _, file := range []string{"f.json", "f.yaml"} {
		deep := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
		if _, faults := read(file, deep); len(faults) != 1 {
			t.Errorf("%s: got %d faults, want one", file, len(faults))
		}
	}
}

type base struct {
	Kind string `json:"kind"`
}

type sample struct {
	base

	Name   string            `json:"name"`
	Count  *int              `json:"count,omitempty"`
	On     bool              `json:"on"`
	Order  *float64          `json:"order"`
	Addr   netip.Addr        `json:"addr"`
	Labels map[string]string `json:"labels"`
	Items  []item            `json:"items"`
	Hidden string            `json:"-"`
}

type item struct {
	Size int16 `json:"size"`
}

func bind(t *testing.T, text string) (sample, []string) {
	t.Helper()
	var s sample
	var faults []string
	for d := range Documents("f.yaml", []byte(text)) {
		values, found := d.Parse()
		if len(found) > 0 || len(values) != 1 {
			t.Fatalf("parse %q: %v", text, found)
		}
		r := NewReport("f.yaml", values[0], "")
		Bind(r, &s)
		for _, f := range r.Faults().Sorted() {
			faults = append(faults, f.Error())
		}
	}
	return s, faults
}

func TestBind(t *testing.T) {
	got, faults := bind(t, "kind: k\nname: 64512.1\ncount: 0x10\non: True\norder: 1.5\naddr: fd00::1\n"+
		"labels: {y: n, no: yes, a: 1.10, b: ~}\nitems:\n- size: 3\n- {}\n")
	if len(faults) > 0 {
		t.Fatalf("faults: %v", faults)
	}
	n, o := 16, 1.5
	want := sample{
		base: base{Kind: "k"}, Name: "64512.1", Count: &n, On: true, Order: &o, Addr: netip.MustParseAddr("fd00::1"),
		Labels: map[string]string{"y": "n", "no": "yes", "a": "1.10", "b": ""},
		Items:  []item{{3}, {}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(sample{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("bound (-want +got):\n%s", diff)
	}
}

func TestBindFaults(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []string
	}{
		{"all faults at once", "nname: x\ncount: many\non: yes\norder: .inf\naddr: 10.0.0.256\nlabels: [a]\nitems: {}\n", []string{
			`f.yaml:1:1: nname: no such field here; did you mean "name"?`,
			`f.yaml:2:8: count: expected a whole number, not "many"`,
			`f.yaml:3:5: on: expected true or false, not "yes"`,
			`f.yaml:4:8: order: expected a number, not ".inf"`,
			`f.yaml:5:7: addr: ParseAddr("10.0.0.256"): IPv4 field has value >255`,
			`f.yaml:6:9: labels: expected a mapping, not a list`,
			`f.yaml:7:8: items: expected a list, not a mapping`,
		}},
		{"an unlike name is answered with all names", "items:\n- zzzzzzzz: 1\n", []string{
			`f.yaml:2:3: items[0].zzzzzzzz: no such field here; expected size`,
		}},
		{"twice", "name: a\nname: b\nlabels:\n  x: 1\n  x: 2\n", []string{
			`f.yaml:2:1: name: set twice, first in line 1`,
			`f.yaml:5:3: labels.x: set twice`,
		}},
		{"too large, quoted, empty", "items:\n- size: 40000\n- size: '3'\n-\n- 5\n", []string{
			`f.yaml:2:9: items[0].size: expected a whole number, not "40000"`,
			`f.yaml:3:9: items[1].size: expected a whole number, not "3"`,
			`f.yaml:4:2: items[2]: expected a value, not nothing`,
			`f.yaml:5:3: items[3]: expected a mapping, not "5"`,
		}},
		{"nested where text is due", "name: {a: b}\naddr: [1]\nlabels: {a.b: []}\n", []string{
			`f.yaml:1:7: name: expected text, not a mapping`,
			`f.yaml:2:7: addr: expected a single value, not a list`,
			`f.yaml:3:15: labels["a.b"]: expected text, not a list`,
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, faults := bind(t, tc.text)
			if diff := cmp.Diff(tc.want, faults); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFind(t *testing.T) {
	d := slices.Collect(Documents("f", []byte("spec:\n  rules:\n  - action: x\n    \"a.b\": y\n")))[0]
	values, _ := d.Parse()
	for path, want := range map[string]Pos{
		"spec.rules[0].action":      {3, 13},
		`spec.rules[0]["a.b"]`:      {4, 12},
		"spec.rules[0].source.nets": {3, 5},
		"spec.rules[7]":             {3, 3},
		"":                          {1, 1},
	} {
		if got := values[0].Find(path); got != want {
			t.Errorf("Find(%q) = %v, want %v", path, got, want)
		}
	}
}

func TestSuggest(t *testing.T) {
	for word, want := range map[string]string{
		"ingres": "ingress", "Egress": "egress", "selctor": "selector", "sepc": "spec", "quux": "", "": "",
	} {
		if got, _ := Suggest(word, []string{"ingress", "egress", "selector", "spec"}); got != want {
			t.Errorf("Suggest(%q) = %q, want %q", word, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"a: 1", "{\"a\": [1, null]}", "---\na\n...\n---\nb: &x [*x]", "%YAML 1.2\n--- |\n x\n", "<<: {a: 1}", "? a\n: b"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for d := range Documents("f", data) {
			values, _ := d.Parse()
			for _, v := range values {
				sketch(v)
				Bind(NewReport("f", v, ""), &sample{})
			}
		}
	})
}
