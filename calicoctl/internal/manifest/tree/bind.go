package tree

import (
	"encoding"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Bind stores the report's value in the struct that into points to, strictly: a
// field that the struct does not have, one that is set twice and a value of the
// wrong type are faults. Fields go by the names of their json tags, and a type with
// UnmarshalText is given a scalar's text. Null leaves a field as it is.
func Bind(r *Report, into any) {
	b := binder{r: r}
	b.value(r.root, "", reflect.ValueOf(into).Elem())
}

// BindAt binds one field of the report's value and ignores the others.
func BindAt(r *Report, name string, into any) {
	if n := r.root.Field(name); n != nil {
		b := binder{r: r}
		b.value(n, name, reflect.ValueOf(into).Elem())
	}
}

// Refuser is a field that is known and cannot be set, whatever the value.
type Refuser interface {
	// Refuse says why.
	Refuse() string
}

// Dropper is a field that is accepted and not kept, whatever the value; there is a warning.
type Dropper interface {
	// Drop says why.
	Drop() string
}

// Idler is a field that is kept and acts on nothing; there is a warning.
type Idler interface {
	// Idle says so.
	Idle() string
}

// NodeTaker is a value that takes whatever stands in the document.
type NodeTaker interface {
	TakeNode(n *Node)
}

type binder struct {
	r *Report
}

func (b *binder) wrong(n *Node, path, expected string) {
	got := n.Kind.String()
	if n.Kind == Scalar {
		got = strconv.Quote(n.Text)
	}
	b.refuse(n, path, "expected %s, not %s", expected, got)
}

// refuse adds a fault about a value that is therefore not taken.
func (b *binder) refuse(n *Node, path, format string, args ...any) {
	b.r.At(n.Pos, path, format, args...)
	b.r.broken = append(b.r.broken, path)
}

func (b *binder) value(n *Node, path string, v reflect.Value) {
	if n.Kind == Null {
		return
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		b.value(n, path, v.Elem())
		return
	}
	switch u := v.Addr().Interface().(type) {
	case NodeTaker:
		u.TakeNode(n)
		return
	case encoding.TextUnmarshaler:
		b.text(n, path, u)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		b.object(n, path, v)
	case reflect.Slice:
		b.list(n, path, v)
	case reflect.Map:
		b.table(n, path, v)
	default:
		b.scalar(n, path, v)
	}
}

func (b *binder) text(n *Node, path string, u encoding.TextUnmarshaler) {
	if n.Kind != Scalar {
		b.wrong(n, path, "a single value")
		return
	}
	if err := u.UnmarshalText([]byte(n.Text)); err != nil {
		b.refuse(n, path, "%s", err)
	}
}

func (b *binder) object(n *Node, path string, v reflect.Value) {
	if n.Kind != Map {
		b.wrong(n, path, "a mapping")
		return
	}
	known := fieldsOf(v.Type())
	seen := map[string]Pos{}
	for _, f := range n.Fields {
		at := Join(path, f.Name)
		if first, twice := seen[f.Name]; twice {
			b.r.At(f.Pos, at, "set twice, first in line %d", first.Line)
			continue
		}
		seen[f.Name] = f.Pos
		i := slices.IndexFunc(known, func(k field) bool { return k.name == f.Name })
		if i < 0 {
			b.r.At(f.Pos, at, "%s", unknown(f.Name, known))
			continue
		}
		switch k := known[i]; {
		case f.Value.Kind == Null:
		case k.refused != "":
			b.r.At(f.Pos, at, "%s", k.refused)
		case k.dropped != "":
			b.r.warnAt(f.Pos, at, k.dropped)
		default:
			if k.idle != "" {
				b.r.warnAt(f.Pos, at, k.idle)
			}
			b.value(f.Value, at, v.FieldByIndex(k.index))
		}
	}
}

func unknown(name string, known []field) string {
	var names []string
	for _, k := range known {
		if k.refused == "" && k.dropped == "" {
			names = append(names, k.name)
		}
	}
	msg := "no such field here"
	if hint := DidYouMean(name, names); hint != "" {
		return msg + hint
	}
	if len(names) == 0 {
		return msg
	}
	return msg + "; expected " + OneOf(names)
}

func (b *binder) list(n *Node, path string, v reflect.Value) {
	if n.Kind != List {
		b.wrong(n, path, "a list")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Items), len(n.Items)))
	for i, item := range n.Items {
		if item.Kind == Null {
			b.wrong(item, Index(path, i), "a value")
		}
		b.value(item, Index(path, i), v.Index(i))
	}
}

// table binds a mapping from text to text, such as labels.
func (b *binder) table(n *Node, path string, v reflect.Value) {
	if n.Kind != Map {
		b.wrong(n, path, "a mapping")
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.Fields)))
	for _, f := range n.Fields {
		at := Join(path, f.Name)
		key := reflect.ValueOf(f.Name).Convert(v.Type().Key())
		if v.MapIndex(key).IsValid() {
			b.r.At(f.Pos, at, "set twice")
			continue
		}
		value := reflect.New(v.Type().Elem()).Elem()
		b.value(f.Value, at, value)
		v.SetMapIndex(key, value)
	}
}

func (b *binder) scalar(n *Node, path string, v reflect.Value) {
	expected := map[reflect.Kind]string{
		reflect.String: "text", reflect.Bool: "true or false", reflect.Float64: "a number",
	}[v.Kind()]
	if expected == "" {
		expected = "a whole number"
	}
	ok := n.Kind == Scalar
	switch {
	case !ok:
	case v.Kind() == reflect.String:
		v.SetString(n.Text)
	case n.Quoted:
		ok = false
	default:
		ok = setPlain(n.Text, v)
	}
	if !ok {
		b.wrong(n, path, expected)
	}
}

// setPlain stores a bool or number in the notation of YAML 1.2's core schema.
func setPlain(text string, v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Bool:
		truth := slices.Contains([]string{"true", "True", "TRUE"}, text)
		if !truth && !slices.Contains([]string{"false", "False", "FALSE"}, text) {
			return false
		}
		v.SetBool(truth)
		return true
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || f-f != 0 || strings.ContainsAny(text, "_xXpP") {
			return false
		}
		v.SetFloat(f)
		return true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, err := parseInt(text)
		if err != nil || v.OverflowInt(i) {
			return false
		}
		v.SetInt(i)
		return true
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		i, err := parseInt(text)
		if err != nil || i < 0 || v.OverflowUint(uint64(i)) {
			return false
		}
		v.SetUint(uint64(i))
		return true
	default:
		return false
	}
}

func parseInt(text string) (int64, error) {
	for prefix, base := range map[string]int{"0o": 8, "0x": 16} {
		if digits, ok := strings.CutPrefix(text, prefix); ok {
			return strconv.ParseInt(digits, base, 64)
		}
	}
	return strconv.ParseInt(text, 10, 64)
}

// field is a field of a struct that manifests can set.
type field struct {
	name  string
	index []int
	// What a [Refuser], [Dropper] or [Idler] says.
	refused, dropped, idle string
}

// fieldsOf lists the fields of a struct, with those of structs embedded in it.
func fieldsOf(t reflect.Type) []field {
	if known, ok := fieldCache.Load(t); ok {
		return known.([]field)
	}
	var out []field
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			k := field{name: name, index: f.Index}
			k.refused, k.dropped, k.idle = marks(f.Type)
			out = append(out, k)
		}
	}
	fieldCache.Store(t, out)
	return out
}

// marks is what a field's type says of the field.
func marks(t reflect.Type) (refused, dropped, idle string) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch m := reflect.Zero(t).Interface().(type) {
	case Refuser:
		refused = m.Refuse()
	case Dropper:
		dropped = m.Drop()
	case Idler:
		idle = m.Idle()
	}
	return refused, dropped, idle
}

// fieldCache holds what fieldsOf found, by type: a compiled table.
var fieldCache sync.Map
