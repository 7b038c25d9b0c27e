package tree

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// Kind is the kind of a [Node].
type Kind int

// The kinds of node.
const (
	Null Kind = iota
	Scalar
	Map
	List
)

// String is the kind as messages name it.
func (k Kind) String() string {
	switch k {
	case Scalar:
		return "a single value"
	case Map:
		return "a mapping"
	case List:
		return "a list"
	case Null:
	}
	return "nothing"
}

// Pos is a place in a file; lines and columns count from 1.
type Pos struct {
	Line, Column int
}

// Node is one value of a document.
type Node struct {
	Kind Kind
	Pos  Pos
	// Text is the text of a scalar. Quoted says that it can only be text: it stood in
	// quotes, was a block scalar or carried the tag !!str.
	Text   string
	Quoted bool
	Fields []Field
	Items  []*Node
}

// Field is a named value of a mapping.
type Field struct {
	Name  string
	Pos   Pos
	Value *Node
}

// Field returns the value of a field of a mapping, nil when there is none.
func (n *Node) Field(name string) *Node {
	if n == nil {
		return nil
	}
	for _, f := range n.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return nil
}

// JSON is the node as JSON, the fields of mappings in alphabetical order.
func (n *Node) JSON() []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(n.plain()) // it consists of what JSON consists of
	return bytes.TrimSpace(out.Bytes())
}

func (n *Node) plain() any {
	switch n.Kind {
	case Map:
		m := make(map[string]any, len(n.Fields))
		for _, f := range n.Fields {
			m[f.Name] = f.Value.plain()
		}
		return m
	case List:
		list := make([]any, len(n.Items))
		for i, item := range n.Items {
			list[i] = item.plain()
		}
		return list
	case Scalar:
		// Numbers and truth values are written alike in YAML 1.2 and JSON.
		if text := []byte(n.Text); !n.Quoted && json.Valid(text) {
			return json.RawMessage(text)
		}
		return n.Text
	case Null:
	}
	return nil
}

// TextOf is the text of a scalar field, empty when there is none.
func (n *Node) TextOf(name string) string {
	if f := n.Field(name); f != nil && f.Kind == Scalar {
		return f.Text
	}
	return ""
}

// Find returns where the value at a path such as "spec.ingress[0].action" stands, or
// else its nearest ancestor.
func (n *Node) Find(path string) Pos {
	at := n
	for _, step := range steps(path) {
		next := at.step(step)
		if next == nil {
			break
		}
		at = next
	}
	return at.Pos
}

// At returns the value at a path, nil when there is none.
func (n *Node) At(path string) *Node {
	at := n
	for _, step := range steps(path) {
		if at = at.step(step); at == nil {
			return nil
		}
	}
	return at
}

func (n *Node) step(step string) *Node {
	if n.Kind == List {
		i, err := strconv.Atoi(step)
		if err != nil || i < 0 || i >= len(n.Items) {
			return nil
		}
		return n.Items[i]
	}
	return n.Field(step)
}

// steps splits "a.b[0].c" into a, b, 0, c. A name in quotes within brackets, as in
// labels["a.b"], is one step.
func steps(path string) []string {
	var out []string
	for path != "" {
		switch {
		case path[0] == '.':
			path = path[1:]
		case strings.HasPrefix(path, `["`):
			name, rest, ok := cutQuoted(path[1:])
			if !ok {
				return append(out, path)
			}
			out, path = append(out, name), strings.TrimPrefix(rest, "]")
		case path[0] == '[':
			index, rest, _ := strings.Cut(path[1:], "]")
			out, path = append(out, index), rest
		default:
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			out, path = append(out, path[:end]), path[end:]
		}
	}
	return out
}

func cutQuoted(s string) (name, rest string, ok bool) {
	quoted, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", "", false
	}
	name, err = strconv.Unquote(quoted)
	return name, s[len(quoted):], err == nil
}

// Join is the path of a field of the value at path.
func Join(path, name string) string {
	if strings.ContainsAny(name, `.[]"`) || name == "" {
		return path + "[" + strconv.Quote(name) + "]"
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

// Index is the path of an item of the list at path.
func Index(path string, i int) string {
	return path + "[" + strconv.Itoa(i) + "]"
}
