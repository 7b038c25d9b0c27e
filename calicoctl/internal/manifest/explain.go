package manifest

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
)

// Field is what can be said of a field of a document.
type Field struct {
	Name string `json:"name"`
	// Type is text, number, flag, list of …, map or object.
	Type string `json:"type"`
	// Note says what the value can be, or why the field cannot be set.
	Note string `json:"value,omitempty"`
}

// Explain describes a field of a kind's documents, by its path without indexes, and
// the fields within it, if any. Without a path it describes the document.
func Explain(k *dialect.Kind, path []string) (field Field, within []Field, err error) {
	t := k.Document
	field = Field{Name: k.Name, Type: "object"}
	for i, name := range path {
		f, ok := fieldOf(t, name)
		if !ok {
			return Field{}, nil, fmt.Errorf("%s has no field %q%s", strings.Join(append([]string{k.Name}, path[:i]...), "."), name,
				tree.DidYouMean(name, namesOf(t)))
		}
		field, t = describe(f), f.Type
	}
	for _, f := range objectFields(t) {
		within = append(within, describe(f))
	}
	return field, within, nil
}

// element takes pointers and lists off a type.
func element(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

// objectFields lists the fields that a document's object can have.
func objectFields(t reflect.Type) []reflect.StructField {
	t = element(t)
	if t.Kind() != reflect.Struct || isText(t) || unsettable(t) != "" || isIdle(t) {
		return nil
	}
	var out []reflect.StructField
	for _, f := range reflect.VisibleFields(t) {
		if jsonName(f) != "" {
			out = append(out, f)
		}
	}
	return out
}

func fieldOf(t reflect.Type, name string) (reflect.StructField, bool) {
	for _, f := range objectFields(t) {
		if strings.EqualFold(jsonName(f), name) {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func namesOf(t reflect.Type) []string {
	var names []string
	for _, f := range objectFields(t) {
		names = append(names, jsonName(f))
	}
	return names
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" {
		return ""
	}
	return name
}

func describe(f reflect.StructField) Field {
	if reason := unsettable(f.Type); reason != "" {
		return Field{Name: jsonName(f), Type: "-", Note: reason}
	}
	if isIdle(element(f.Type)) {
		return Field{Name: jsonName(f), Type: idleType(element(f.Type)), Note: scalar.Idle}
	}
	return Field{Name: jsonName(f), Type: typeName(f.Type), Note: expectation(element(f.Type))}
}

// unsettable is why a field cannot be set.
func unsettable(t reflect.Type) string {
	switch mark := reflect.Zero(t).Interface().(type) {
	case tree.Refuser:
		return mark.Refuse()
	case tree.Dropper:
		return mark.Drop()
	}
	return ""
}

// isIdle says whether a field acts on nothing.
func isIdle(t reflect.Type) bool { return t.Implements(reflect.TypeFor[tree.Idler]()) }

func idleType(t reflect.Type) string {
	if t == reflect.TypeFor[scalar.Inert]() {
		return "any"
	}
	return typeName(t)
}

func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.Slice:
		return "list of " + typeName(t.Elem())
	case reflect.Map:
		return "map"
	case reflect.Struct:
		if !isText(t) {
			return "object"
		}
		return "text"
	case reflect.Bool:
		return "flag"
	case reflect.String:
		return "text"
	default:
		return "number"
	}
}

// expectation is what a value's own reader says that it expected.
func expectation(t reflect.Type) string {
	if !isText(t) {
		return ""
	}
	u, _ := reflect.New(t).Interface().(encoding.TextUnmarshaler)
	err := u.UnmarshalText([]byte("?"))
	if err == nil {
		return ""
	}
	_, note, _ := strings.Cut(err.Error(), `"?" is not `)
	return note
}
