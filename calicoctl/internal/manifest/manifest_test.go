package manifest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// read reads one file into a set.
func read(file, text string) *Set {
	s := NewSet(NewRegistry(), false)
	s.Read(file, []byte(text))
	return s
}

// docs encodes the objects of a set again.
func docs(s *Set) []any {
	var out []any
	for _, o := range s.Objects {
		doc, _ := o.Kind.Encode(o.Key, o.Value)
		out = append(out, doc)
	}
	return out
}

// TestPrint checks that each file of testdata comes out as it went in: the files are
// what v2.6 printed.
func TestPrint(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := read(file, string(text))
			if len(s.Faults) > 0 {
				t.Fatal(s.Faults)
			}
			var out bytes.Buffer
			if err := WriteYAML(&out, docs(s)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(text), out.String()); diff != "" {
				t.Errorf("printed (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPrintJSON checks that the JSON form is read as the same objects.
func TestPrintJSON(t *testing.T) {
	text, err := os.ReadFile("testdata/kinds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	first := read("kinds.yaml", string(text))
	var out bytes.Buffer
	if err := WriteJSON(&out, docs(first)); err != nil {
		t.Fatal(err)
	}
	second := read("kinds.json", out.String())
	if len(second.Faults) > 0 {
		t.Fatal(second.Faults)
	}
	if diff := cmp.Diff(fmt.Sprint(values(first)), fmt.Sprint(values(second))); diff != "" {
		t.Errorf("objects (-yaml +json):\n%s", diff)
	}
}

func values(s *Set) []string {
	var out []string
	for _, o := range s.Objects {
		doc, _ := o.Kind.Encode(o.Key, o.Value)
		var b bytes.Buffer
		_ = WriteJSON(&b, []any{doc})
		out = append(out, o.Key.String()+b.String())
	}
	return out
}

func TestPrintNothing(t *testing.T) {
	var y, j bytes.Buffer
	if err := WriteYAML(&y, nil); err != nil {
		t.Fatal(err)
	}
	if err := WriteJSON(&j, nil); err != nil {
		t.Fatal(err)
	}
	if y.String() != "[]\n" || j.String() != "[]\n" {
		t.Errorf("printed %q and %q, want empty lists", &y, &j)
	}
}

// TestWordsStayText checks that words that some YAML takes for truth values and
// numbers are text where text is due, and are quoted when printed.
func TestWordsStayText(t *testing.T) {
	s := read("f.yaml", `
apiVersion: v1
kind: profile
metadata:
  name: n
  tags: [yes, 1_000, 0x10, 64512.1, 2017-09-01, ee0e, 4e5ed99, 10.0.0.1]
  labels: {y: n, no: off, a: 1.10, t: 2017-09-01}
`)
	if len(s.Faults) > 0 {
		t.Fatal(s.Faults)
	}
	var out bytes.Buffer
	if err := WriteYAML(&out, docs(s)); err != nil {
		t.Fatal(err)
	}
	want := `- apiVersion: v1
  kind: profile
  metadata:
    labels:
      a: "1.10"
      "no": "off"
      t: "2017-09-01"
      "y": "n"
    name: "n"
    tags:
    - "yes"
    - "1_000"
    - "0x10"
    - "64512.1"
    - "2017-09-01"
    - ee0e
    - 4e5ed99
    - 10.0.0.1
  spec: {}
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("printed (-want +got):\n%s", diff)
	}
}

// TestForms checks the ways in which a file can hold several objects.
func TestForms(t *testing.T) {
	profile := func(name string) string {
		return fmt.Sprintf("{apiVersion: v1, kind: profile, metadata: {name: %s}}", name)
	}
	jsonProfile := func(name string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"profile","metadata":{"name":%q}}`, name)
	}
	for name, text := range map[string]string{
		"stream":            profile("a") + "\n---\n" + profile("b") + "\n---\n",
		"list":              "- " + profile("a") + "\n- " + profile("b") + "\n",
		"stream of lists":   "- " + profile("a") + "\n---\n- " + profile("b") + "\n",
		"list object":       "apiVersion: v1\nkind: profileList\nitems:\n- " + profile("a") + "\n- " + profile("b"),
		"JSON list":         "[" + jsonProfile("a") + "," + jsonProfile("b") + "]",
		"JSON values":       jsonProfile("a") + jsonProfile("b"),
		"JSON within YAML":  "---\n" + jsonProfile("a") + "\n---\n" + jsonProfile("b"),
		"empty documents":   "---\n---\n" + profile("a") + "\n---\nnull\n---\n" + profile("b"),
		"with Windows ends": profile("a") + "\r\n---\r\n" + profile("b") + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := read("f.yaml", text)
			var got []string
			for _, o := range s.Objects {
				got = append(got, o.Key.String())
			}
			if len(s.Faults) > 0 || len(got) != 2 || !strings.Contains(got[0], "a") || !strings.Contains(got[1], "b") {
				t.Errorf("got %v, faults %v", got, s.Faults)
			}
		})
	}
}

// TestLargeDocument is about a limit of v1.6.1, which died on 64 KiB.
func TestLargeDocument(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "- apiVersion: v1\n  kind: profile\n  metadata:\n    name: p%d\n", i)
	}
	s := read("f.yaml", b.String())
	if len(s.Faults) > 0 || len(s.Objects) != 5000 {
		t.Errorf("got %d objects, faults %v", len(s.Objects), s.Faults)
	}
}

func TestIdentify(t *testing.T) {
	s := NewSet(NewRegistry(), true)
	s.Read("f.yaml", []byte(`
apiVersion: v1
kind: policy
metadata: {name: a}
spec: {selector: '((', unknown: 1}
---
apiVersion: v1
kind: workloadEndpoint
metadata: {name: a, node: n}
---
apiVersion: v1
kind: profile
`))
	var got []string
	for _, f := range s.Faults.Sorted() {
		got = append(got, f.Error())
	}
	want := []string{
		"f.yaml:9:11: metadata.orchestrator: missing; insufficient identifiers",
		"f.yaml:9:11: metadata.workload: missing; insufficient identifiers",
		"f.yaml:11:1: metadata: missing",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	if len(s.Objects) != 1 || s.Objects[0].Value != nil {
		t.Errorf("objects: %v", s.Objects)
	}
}

// TestFaults checks that all faults of all documents are found, with their places.
func TestFaults(t *testing.T) {
	files, err := filepath.Glob("testdata/faults/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, wantErr := os.ReadFile(strings.TrimSuffix(file, ".yaml") + ".faults")
			s := read(filepath.Base(file), string(text))
			got := s.Faults.Sorted().Error() + "\n"
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(strings.TrimSuffix(file, ".yaml")+".faults", []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if wantErr != nil {
				t.Fatal(wantErr)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzRead checks that whatever is accepted can be printed, and that what is printed
// is read as the same.
func FuzzRead(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "testdata/faults/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		first := read("f.yaml", string(text))
		if len(first.Faults) > 0 {
			return
		}
		var printed, again bytes.Buffer
		if err := WriteYAML(&printed, docs(first)); err != nil {
			t.Fatal(err)
		}
		second := read("f.yaml", printed.String())
		if len(second.Faults) > 0 {
			t.Fatalf("%s\nread again: %v", &printed, second.Faults)
		}
		if err := WriteYAML(&again, docs(second)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(printed.String(), again.String()); diff != "" {
			t.Errorf("printed again (-first +second):\n%s", diff)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	for name, separator := range map[string]string{"documents": "---\n", "list": "- "} {
		var text strings.Builder
		for i := range 1000 {
			policy := fmt.Sprintf("apiVersion: v1\nkind: policy\nmetadata:\n  name: p%d\nspec:\n  order: 10\n"+
				"  selector: role == 'db%d'\n  ingress:\n  - action: allow\n    protocol: tcp\n    source:\n      selector: role == 'web'\n"+
				"    destination:\n      ports: [80, 443]\n  egress:\n  - action: allow\n", i, i)
			if separator == "- " {
				policy = strings.ReplaceAll(strings.TrimSuffix(policy, "\n"), "\n", "\n  ") + "\n"
			}
			text.WriteString(separator + policy)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if s := read("f.yaml", text.String()); len(s.Objects) != 1000 {
					b.Fatal(s.Faults)
				}
			}
		})
	}
}
