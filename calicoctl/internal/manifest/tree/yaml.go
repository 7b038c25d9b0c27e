package tree

import (
	"errors"
	"fmt"

	yaml "go.yaml.in/yaml/v4"
)

// maxAliased bounds what aliases may add to a document.
const maxAliased = 100_000

func parseYAML(d Document) ([]*Node, Faults) {
	var doc yaml.Node
	if err := yaml.Load(d.Text, &doc); err != nil {
		return nil, Faults{yamlFault(d, err)}
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	c := yamlReader{doc: d}
	n := c.node(doc.Content[0], 0)
	return []*Node{n}, c.faults
}

func yamlFault(d Document, err error) *Fault {
	f := &Fault{File: d.File, Pos: Pos{d.Line + 1, 1}, Msg: "not valid YAML: " + err.Error()}
	var le *yaml.LoadError
	if errors.As(err, &le) {
		f.Msg = "not valid YAML: " + le.Message
		if le.ContextMsg != "" {
			f.Msg += " " + le.ContextMsg
		}
		if le.Mark.Line > 0 {
			f.Pos = Pos{d.Line + le.Mark.Line, max(le.Mark.Column, 1)}
		}
	}
	return f
}

// yamlReader turns the library's tree into ours.
type yamlReader struct {
	doc Document
	// aliased counts the values read through aliases; within is how many of these are
	// open.
	aliased, within int
	faults          Faults
}

func (c *yamlReader) pos(y *yaml.Node) Pos {
	return Pos{Line: c.doc.Line + y.Line, Column: y.Column}
}

func (c *yamlReader) fault(y *yaml.Node, format string, args ...any) {
	c.faultAt(c.pos(y), format, args...)
}

func (c *yamlReader) faultAt(pos Pos, format string, args ...any) {
	c.faults = append(c.faults, &Fault{File: c.doc.File, Pos: pos, Msg: fmt.Sprintf(format, args...)})
}

func (c *yamlReader) node(y *yaml.Node, depth int) *Node {
	n := &Node{Pos: c.pos(y)}
	if !c.bounded(y, depth) {
		return n
	}
	switch y.Kind {
	case yaml.AliasNode:
		c.within++
		n = c.node(y.Alias, depth+1)
		n.Pos = c.pos(y)
		c.within--
	case yaml.ScalarNode:
		c.scalar(y, n)
	case yaml.SequenceNode:
		n.Kind = List
		n.Items = make([]*Node, len(y.Content))
		for i, item := range y.Content {
			n.Items[i] = c.node(item, depth+1)
		}
	case yaml.MappingNode:
		c.mapping(y, n, depth)
	default: // documents and streams hold the nodes and are none
	}
	return n
}

// bounded refuses values that are nested too deep or that aliases make too many.
func (c *yamlReader) bounded(y *yaml.Node, depth int) bool {
	if depth > maxDepth {
		c.fault(y, "values are nested more than %d deep", maxDepth)
		return false
	}
	if c.within > 0 {
		c.aliased++
		if c.aliased == maxAliased {
			c.fault(y, "the document's aliases make it too large")
		}
	}
	return c.aliased < maxAliased
}

const tagged = yaml.TaggedStyle

func (c *yamlReader) scalar(y *yaml.Node, n *Node) {
	n.Kind, n.Text = Scalar, y.Value
	plain := y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	n.Quoted = !plain
	if y.Style&tagged == 0 {
		if plain && isNull(y.Value) {
			n.Kind, n.Text = Null, ""
		}
		return
	}
	switch y.Tag {
	case "!!str", "!":
		n.Quoted = true
	case "!!int", "!!float", "!!bool":
		n.Quoted = false
	case "!!null":
		n.Kind, n.Text = Null, ""
	default:
		c.fault(y, "the tag %s has no meaning here", y.Tag)
	}
}

func isNull(s string) bool {
	return s == "" || s == "~" || s == "null" || s == "Null" || s == "NULL"
}

func (c *yamlReader) mapping(y *yaml.Node, n *Node, depth int) {
	n.Kind = Map
	var merged []Field
	for i := 0; i+1 < len(y.Content); i += 2 {
		key, value := y.Content[i], y.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch {
		case key.Tag == "!!merge":
			merged = append(merged, c.merge(value, depth)...)
		case key.Kind != yaml.ScalarNode:
			c.fault(key, "a field's name must be text")
		default:
			n.Fields = append(n.Fields, Field{Name: key.Value, Pos: c.pos(y.Content[i]), Value: c.node(value, depth+1)})
		}
	}
	for _, f := range merged {
		if n.Field(f.Name) == nil {
			n.Fields = append(n.Fields, f)
		}
	}
}

// merge is the fields that "<<: *name" or "<<: [*a, *b]" brings in.
func (c *yamlReader) merge(y *yaml.Node, depth int) []Field {
	n := c.node(y, depth+1)
	switch n.Kind {
	case Map:
		return n.Fields
	case List:
		var out []Field
		for _, item := range n.Items {
			if item.Kind != Map {
				c.faultAt(item.Pos, "<< needs a mapping or a list of mappings, not %s", item.Kind)
			}
			out = append(out, item.Fields...)
		}
		return out
	case Null, Scalar:
	}
	c.fault(y, "<< needs a mapping or a list of mappings, not %s", n.Kind)
	return nil
}
