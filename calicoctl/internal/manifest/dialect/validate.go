package dialect

import (
	"errors"
	"strings"
	"unicode/utf8"

	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
)

// Validate adds what the model finds wrong with a resource, where that does not
// follow from a fault that has been reported. place says where the dialect has the
// value that the model complains about.
func Validate(r *tree.Report, k model.Key, v model.Resource, place func(*tree.Report, *model.FieldError) string) {
	for _, f := range model.Faults(model.Validate(k, v)) {
		path := place(r, f)
		if r.Doubts(path) || r.Doubts(protocolOf(path)) {
			continue
		}
		var syntax *selector.SyntaxError
		switch {
		case errors.As(f.Err, &syntax):
			r.At(inside(r.Root(), path, syntax.Offset), path, "%s", syntax)
		case shows(r.Root().At(path), f.Value):
			r.Add(path, "%q: %s", f.Value, f.Reason)
		default:
			r.Add(path, "%s", f.Reason)
		}
	}
}

// protocolOf is the path of the protocol of the rule that a path leads into, on which
// depends whether the rule may have ports and ICMP types.
func protocolOf(path string) string {
	for _, part := range []string{".source.ports", ".source.notPorts", ".destination.ports", ".destination.notPorts", ".icmp", ".notICMP"} {
		if rule, ok := strings.CutSuffix(path, part); ok {
			return rule + ".protocol"
		}
	}
	return path
}

// shows reports whether the value that the model complains about is in the document
// at the place of the complaint.
func shows(n *tree.Node, value string) bool {
	return value != "" && n != nil && (n.Kind == tree.Scalar && n.Text == value || n.Field(value) != nil)
}

// inside is the position of an offset within a text; the text's own if that cannot be
// told, because the text has several lines.
func inside(root *tree.Node, path string, offset int) tree.Pos {
	pos, n := root.Find(path), root.At(path)
	if n == nil || n.Kind != tree.Scalar || strings.Contains(n.Text, "\n") || offset > len(n.Text) {
		return pos
	}
	pos.Column += utf8.RuneCountInString(n.Text[:offset])
	if n.Quoted {
		pos.Column++
	}
	return pos
}

// ByValue is the path of the item of a list that reads as the fault's value.
func ByValue(r *tree.Report, list string, f *model.FieldError) string {
	items := r.Root().Field("spec").Field(strings.TrimPrefix(list, "spec."))
	if items != nil {
		for i, item := range items.Items {
			var n scalar.IPNet
			if n.UnmarshalText([]byte(item.Text)) != nil {
				continue
			}
			if f.Value == n.Addr().String() || f.Value == n.String() {
				return tree.Index(list, i)
			}
		}
	}
	return f.Field
}
