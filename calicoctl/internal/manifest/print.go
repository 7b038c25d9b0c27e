package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// WriteJSON writes documents as one JSON list.
func WriteJSON(w io.Writer, docs []any) error {
	if docs == nil {
		docs = []any{}
	}
	return WriteJSONDocument(w, docs)
}

// WriteJSONDocument writes one document as JSON.
func WriteJSONDocument(w io.Writer, doc any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(doc)
}

// yamlChunk is how many documents are made YAML of at a time: a list that is written
// in pieces reads the same, and the tree of a piece is small.
const yamlChunk = 32

// WriteYAML writes documents as one YAML list with fields in alphabetical order.
// Text that any version of YAML could take for something else is quoted.
func WriteYAML(w io.Writer, docs []any) error {
	if len(docs) == 0 {
		_, err := io.WriteString(w, "[]\n")
		return err
	}
	for chunk := range slices.Chunk(docs, yamlChunk) {
		list := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, d := range chunk {
			n, err := toYAML(d)
			if err != nil {
				return fmt.Errorf("write YAML: %w", err)
			}
			list.Content = append(list.Content, n)
		}
		text, err := yaml.Dump(list, yaml.WithIndent(2), yaml.WithCompactSeqIndent(true), yaml.WithLineWidth(-1))
		if err != nil {
			return fmt.Errorf("write YAML: %w", err)
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	return nil
}

// WriteYAMLList writes a document that is a list of documents under "items", in pieces
// as [WriteYAML] does. wrap makes the list.
func WriteYAMLList(w io.Writer, docs []any, wrap func([]any) any) error {
	var frame bytes.Buffer
	if err := WriteYAMLDocument(&frame, wrap(nil)); err != nil {
		return err
	}
	head, tail, found := bytes.Cut(frame.Bytes(), []byte("items: []\n"))
	if !found || len(docs) == 0 {
		_, err := w.Write(frame.Bytes())
		return err
	}
	if _, err := fmt.Fprintf(w, "%sitems:\n", head); err != nil {
		return err
	}
	if err := WriteYAML(w, docs); err != nil {
		return err
	}
	_, err := w.Write(tail)
	return err
}

// WriteJSONList is the same in JSON.
func WriteJSONList(w io.Writer, docs []any, wrap func([]any) any) error {
	return WriteJSONDocument(w, wrap(docs))
}

// WriteYAMLDocument writes one document as YAML, in the manner of [WriteYAML].
func WriteYAMLDocument(w io.Writer, doc any) error {
	n, err := toYAML(doc)
	if err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	text, err := yaml.Dump(n, yaml.WithIndent(2), yaml.WithCompactSeqIndent(true), yaml.WithLineWidth(-1))
	if err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	_, err = w.Write(text)
	return err
}

// toYAML goes by way of JSON, so that a document has one set of names and one idea of
// what is left out.
func toYAML(doc any) (*yaml.Node, error) {
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	return yamlNode(v), nil
}

func yamlNode(v any) *yaml.Node {
	switch v := v.(type) {
	case map[string]any:
		return yamlMap(v)
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, item := range v {
			n.Content = append(n.Content, yamlNode(item))
		}
		if len(v) == 0 {
			n.Style = yaml.FlowStyle
		}
		return n
	case string:
		return yamlText(v)
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(v)}
	case json.Number:
		tag := "!!int"
		if strings.ContainsAny(v.String(), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: v.String()}
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
}

func yamlMap(m map[string]any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		n.Content = append(n.Content, yamlText(name), yamlNode(m[name]))
	}
	if len(m) == 0 {
		n.Style = yaml.FlowStyle
	}
	return n
}

// yaml11Words are words that YAML 1.1 readers take for truth values.
var yaml11Words = []string{"y", "n", "yes", "no", "on", "off"}

func yamlText(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if slices.Contains(yaml11Words, strings.ToLower(s)) || numeric.MatchString(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// numeric matches what some version of YAML reads as a number or a date: 1_000, 0o17,
// 0b1, 1.5e3, 12:30 (base 60) and 2017-09-01.
var numeric = regexp.MustCompile(`^([-+]?[0-9][0-9_]*|[-+]?0(x[0-9a-fA-F_]+|o?[0-7_]+|b[01_]+)|` +
	`[-+]?[0-9_]*\.?[0-9_]*([eE][-+]?[0-9]+)?|` +
	`[-+]?[0-9_]+(:[0-5]?[0-9])+(\.[0-9_]*)?|` +
	`[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?)$`)
