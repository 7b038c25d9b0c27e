package printer

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/dialect"
)

const nodes = `
- {apiVersion: v1, kind: node, metadata: {name: a}}
- {apiVersion: v1, kind: node, metadata: {name: b}, spec: {bgp: {asNumber: 64513, ipv4Address: 192.0.2.1/24}}}
- {apiVersion: v1, kind: profile, metadata: {name: p, tags: [x, y]}}
`

func groups(t *testing.T) []Group {
	t.Helper()
	set := manifest.NewSet(manifest.NewRegistry(), false)
	set.Read("f.yaml", []byte(nodes))
	if len(set.Faults) > 0 {
		t.Fatal(set.Faults)
	}
	var out []Group
	for _, o := range set.Objects {
		doc, _ := o.Kind.Encode(o.Key, o.Value)
		if len(out) == 0 || out[len(out)-1].Kind != o.Kind {
			out = append(out, Group{Kind: o.Kind})
		}
		out[len(out)-1].Docs = append(out[len(out)-1].Docs, doc)
	}
	return out
}

func TestPrint(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.tmpl")
	if err := os.WriteFile(file, []byte("{{len .}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, output, want string }{
		{"tables of several kinds", "", "NAME\na\nb\n\nNAME\np\n\n"},
		{"wide", "wide", "NAME   ASN       IPV4           IPV6\na      (64999)\nb      64513     192.0.2.1/24\n\nNAME   TAGS\np      x,y\n\n"},
		{"chosen columns in any case", "custom-columns=name", "NAME\na\nb\n\nNAME\np\n\n"},
		{"a template over lists", "go-template={{range .}}{{.Kind}}{{range .Items}} {{.Metadata.Name}}{{end}};{{end}}", "nodeList a b;profileList p;"},
		{"the functions of templates", `go-template={{with index . 1}}{{join (index .Items 0).Metadata.Tags "+"}}{{end}} {{config "asNumber"}}`, "x+y 64999"},
		{"a template file", "go-template-file=" + file, "2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := Parse(tc.output)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := p.Print(&out, groups(t), dialect.Cluster{ASNumber: 64999}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Errorf("printed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	for output, want := range map[string]string{
		"yml":                           `unrecognized output format "yml"`,
		"jsn":                           `did you mean "json"?`,
		"custom-columns":                "needs a value",
		"go-template=":                  "needs a value",
		"go-template={{x":               "parse template",
		"go-template-file=/none":        "read template",
		"custom-columns=FOO":            "unknown heading FOO, valid values are: NAME, ASN, IPV4, IPV6",
		"go-template={{.Nope}}":         "execute template",
		`go-template={{config "x"}}`:    "unknown configuration",
		`go-template={{join "x" ","}}`:  "join needs a list",
		"go-template={{index . 0 | x}}": "parse template",
	} {
		p, err := Parse(output)
		if err == nil {
			err = p.Print(&bytes.Buffer{}, groups(t), dialect.Cluster{})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q in it", output, err, want)
		}
	}
}

func TestWriteBox(t *testing.T) {
	var out bytes.Buffer
	err := WriteBox(&out, [][]string{{"NAME", "COUNT"}, {"a", "10"}, {"long name", "7"}}, 1)
	want := `+-----------+-------+
| NAME      | COUNT |
+-----------+-------+
| a         |    10 |
| long name |     7 |
+-----------+-------+
`
	if diff := cmp.Diff(want, out.String()); diff != "" || err != nil {
		t.Errorf("box (-want +got), error %v:\n%s", err, diff)
	}
}
