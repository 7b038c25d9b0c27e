package selector

import "strings"

func (all) appendTo(b []byte) []byte    { return append(b, "all()"...) }
func (global) appendTo(b []byte) []byte { return append(b, "global()"...) }

func (n has) appendTo(b []byte) []byte {
	b = append(b, "has("...)
	b = append(b, n.label...)
	return append(b, ')')
}

func (n equal) appendTo(b []byte) []byte      { return n.append(b, " == ") }
func (n notEqual) appendTo(b []byte) []byte   { return n.append(b, " != ") }
func (n contains) appendTo(b []byte) []byte   { return n.append(b, " contains ") }
func (n startsWith) appendTo(b []byte) []byte { return n.append(b, " starts with ") }
func (n endsWith) appendTo(b []byte) []byte   { return n.append(b, " ends with ") }
func (n in) appendTo(b []byte) []byte         { return n.append(b, " in {") }
func (n notIn) appendTo(b []byte) []byte      { return n.append(b, " not in {") }

func (c comparison) append(b []byte, operator string) []byte {
	b = append(b, c.label...)
	b = append(b, operator...)
	return appendQuoted(b, c.value)
}

func (m membership) append(b []byte, operator string) []byte {
	b = append(b, m.label...)
	b = append(b, operator...)
	for i, v := range m.values {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendQuoted(b, v)
	}
	return append(b, '}')
}

// appendQuoted uses single quotes only for a value with a double one in it: the
// language has no escapes, so no value has both.
func appendQuoted(b []byte, value string) []byte {
	quote := byte('"')
	if strings.IndexByte(value, '"') >= 0 {
		quote = '\''
	}
	b = append(b, quote)
	b = append(b, value...)
	return append(b, quote)
}

// appendTo puts a comparison into parentheses, because "!a == b" is hard to read.
func (n not) appendTo(b []byte) []byte {
	b = append(b, '!')
	switch n.operand.(type) {
	case all, global, has, and, or:
		return n.operand.appendTo(b)
	}
	b = append(b, '(')
	b = n.operand.appendTo(b)
	return append(b, ')')
}

func (n and) appendTo(b []byte) []byte { return appendJoined(b, n.operands, " && ") }
func (n or) appendTo(b []byte) []byte  { return appendJoined(b, n.operands, " || ") }

func appendJoined(b []byte, operands []node, operator string) []byte {
	b = append(b, '(')
	for i, o := range operands {
		if i > 0 {
			b = append(b, operator...)
		}
		b = o.appendTo(b)
	}
	return append(b, ')')
}
