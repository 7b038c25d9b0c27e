package tree

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// maxDepth bounds how deep values may be nested.
const maxDepth = 200

// scanJSON reports whether data is a sequence of JSON values.
func scanJSON(data []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

func parseJSON(d Document) ([]*Node, Faults) {
	r := jsonReader{doc: d, lines: newLines(d.Text), dec: json.NewDecoder(bytes.NewReader(d.Text))}
	r.dec.UseNumber()
	var out []*Node
	for {
		n, err := r.node(0)
		if errors.Is(err, io.EOF) && n == nil {
			return out, nil
		}
		if err != nil {
			return nil, Faults{r.fault(err)}
		}
		out = append(out, n)
	}
}

// jsonReader builds nodes from the decoder's tokens.
type jsonReader struct {
	doc   Document
	lines *lines
	dec   *json.Decoder
}

var errTooDeep = errors.New("values are nested too deep")

func (r *jsonReader) fault(err error) *Fault {
	offset, msg := r.next(), err.Error()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		offset, msg = len(bytes.TrimRight(r.doc.Text, " \t\r\n")), "the text ends in the middle of a value"
	}
	return &Fault{File: r.doc.File, Pos: newLines(r.doc.Text).pos(offset, r.doc.Line), Msg: "not valid JSON: " + msg}
}

// token reads the next token and says where it starts.
func (r *jsonReader) token() (json.Token, Pos, error) {
	pos := r.lines.pos(r.next(), r.doc.Line)
	t, err := r.dec.Token()
	return t, pos, err
}

// next is the offset of the next token.
func (r *jsonReader) next() int {
	at := int(r.dec.InputOffset())
	for at < len(r.doc.Text) && strings.IndexByte(" \t\r\n,:", r.doc.Text[at]) >= 0 {
		at++
	}
	return at
}

func (r *jsonReader) node(depth int) (*Node, error) {
	t, pos, err := r.token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, errTooDeep
	}
	n := &Node{Pos: pos, Kind: Scalar}
	switch t := t.(type) {
	case nil:
		n.Kind = Null
	case string:
		n.Text, n.Quoted = t, true
	case json.Number:
		n.Text = t.String()
	case bool:
		n.Text = "false"
		if t {
			n.Text = "true"
		}
	case json.Delim:
		if t == '[' {
			return n, r.list(n, depth)
		}
		return n, r.mapping(n, depth)
	}
	return n, nil
}

func (r *jsonReader) list(n *Node, depth int) error {
	n.Kind = List
	for r.dec.More() {
		item, err := r.node(depth + 1)
		if err != nil {
			return unexpected(err)
		}
		n.Items = append(n.Items, item)
	}
	_, err := r.dec.Token()
	return unexpected(err)
}

func (r *jsonReader) mapping(n *Node, depth int) error {
	n.Kind = Map
	for r.dec.More() {
		key, pos, err := r.token()
		if err != nil {
			return unexpected(err)
		}
		value, err := r.node(depth + 1)
		if err != nil {
			return unexpected(err)
		}
		name, _ := key.(string)
		n.Fields = append(n.Fields, Field{Name: name, Pos: pos, Value: value})
	}
	_, err := r.dec.Token()
	return unexpected(err)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
