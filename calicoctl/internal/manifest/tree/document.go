package tree

import (
	"bytes"
	"iter"
	"strings"
	"unicode/utf8"
)

// Document is one document of a file, not parsed yet.
type Document struct {
	File string
	// Line is the number of lines of the file before the document.
	Line int
	Text []byte
	json bool
}

// Documents splits a file into its documents, so that a syntax error in one of them
// does not hide the others, and so that the tree of only one has to be held. A file
// of JSON is one document, even if it holds several values.
func Documents(file string, data []byte) iter.Seq[Document] {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if looksLikeJSON(file, data) {
		return func(yield func(Document) bool) {
			yield(Document{File: file, Text: data, json: true})
		}
	}
	return func(yield func(Document) bool) {
		doc := Document{File: file}
		start, at, line := 0, 0, 0
		for at < len(data) {
			end := len(data)
			if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
				end = at + i + 1
			}
			if m := marker(data[at:end]); m != "" {
				cut := at
				if m == "..." {
					cut = end
				}
				doc.Text = data[start:at]
				if hasContent(doc.Text) && !yield(doc) {
					return
				}
				start, doc.Line = cut, line
				if m == "..." {
					doc.Line++
				}
			}
			at = end
			line++
		}
		if doc.Text = data[start:]; hasContent(doc.Text) {
			yield(doc)
		}
	}
}

// marker returns the document marker that a line starts with, if any. At the start
// of a line it is one in every context (YAML 1.2.2, section 9.1.2).
func marker(line []byte) string {
	for _, m := range []string{"---", "..."} {
		rest, ok := bytes.CutPrefix(line, []byte(m))
		if ok && (len(rest) == 0 || strings.ContainsRune(" \t\r\n", rune(rest[0]))) {
			return m
		}
	}
	return ""
}

// hasContent is false for a text of blank lines, comments, directives and a bare
// marker.
func hasContent(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if bytes.HasPrefix(line, []byte("---")) {
			line = bytes.TrimSpace(line[3:])
		}
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return true
		}
	}
	return false
}

func looksLikeJSON(file string, data []byte) bool {
	data = bytes.TrimLeft(data, " \t\r\n")
	if len(data) == 0 || (data[0] != '{' && data[0] != '[') {
		return false
	}
	return strings.HasSuffix(strings.ToLower(file), ".json") || scanJSON(data)
}

// Parse reads the values of the document. There is one, or, in JSON, any number.
func (d Document) Parse() ([]*Node, Faults) {
	if !utf8.Valid(d.Text) {
		return nil, Faults{{File: d.File, Pos: d.badUTF8(), Msg: "the file is not UTF-8 text"}}
	}
	if d.json {
		return parseJSON(d)
	}
	return parseYAML(d)
}

func (d Document) badUTF8() Pos {
	offset := 0
	for offset < len(d.Text) {
		r, size := utf8.DecodeRune(d.Text[offset:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		offset += size
	}
	return newLines(d.Text).pos(offset, d.Line)
}

// lines finds the line and column of an offset.
type lines struct {
	text  []byte
	start int
	line  int
}

func newLines(text []byte) *lines { return &lines{text: text} }

// pos is the position of an offset; offsets must not decrease from call to call.
func (l *lines) pos(offset, before int) Pos {
	for {
		i := bytes.IndexByte(l.text[l.start:min(offset, len(l.text))], '\n')
		if i < 0 {
			break
		}
		l.start += i + 1
		l.line++
	}
	column := utf8.RuneCount(l.text[l.start:min(offset, len(l.text))]) + 1
	return Pos{Line: before + l.line + 1, Column: column}
}
