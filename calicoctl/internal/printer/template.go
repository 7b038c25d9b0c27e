package printer

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/template"

	"calico.internal/calicoctl/internal/manifest/dialect"
)

// goTemplate executes a template over the slice of resource lists, one for each kind:
// {{range .}}{{range .Items}}{{.Metadata.Name}}{{end}}{{end}}.
type goTemplate struct {
	t *template.Template
}

func newTemplate(text string) (Printer, error) {
	t, err := template.New("output").Funcs(template.FuncMap{
		"join": join, "config": func(string) (string, error) { return "", nil },
	}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("parse template: %w", err)
	}
	return goTemplate{t}, nil
}

// Check accepts every kind.
func (goTemplate) Check(*dialect.Kind) error { return nil }

// Print executes the template.
func (p goTemplate) Print(w io.Writer, groups []Group, c dialect.Cluster) error {
	var lists []any
	for _, g := range groups {
		lists = append(lists, g.Kind.List(g.Docs))
	}
	p.t.Funcs(template.FuncMap{"config": func(name string) (string, error) {
		if strings.EqualFold(name, "asnumber") {
			return fmt.Sprint(uint32(c.ASNumber)), nil
		}
		return "", fmt.Errorf("unknown configuration %q: expected asnumber", name)
	}})
	if err := p.t.Execute(w, lists); err != nil {
		return fmt.Errorf("execute template: %w", err)
	}
	return nil
}

// join puts the items of any list into one text.
func join(items any, sep string) (string, error) {
	v := reflect.ValueOf(items)
	if v.Kind() != reflect.Slice {
		return "", fmt.Errorf("join needs a list, not %T", items)
	}
	words := make([]string, v.Len())
	for i := range words {
		words[i] = fmt.Sprint(v.Index(i).Interface())
	}
	return strings.Join(words, sep), nil
}
