package v3

import (
	"encoding/json"
	"reflect"
	"strings"

	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
)

// inertOf is the inert fields of a specification that are set, by their paths.
func inertOf(spec any) map[string]json.RawMessage {
	var out map[string]json.RawMessage
	eachInert(reflect.ValueOf(spec).Elem(), "spec", false, func(path string, field *scalar.Inert) {
		if *field == (scalar.Inert{}) {
			return
		}
		if out == nil {
			out = map[string]json.RawMessage{}
		}
		out[path], _ = field.MarshalJSON()
	})
	return out
}

// showInert sets the inert fields of a specification.
func showInert(spec any, values map[string]json.RawMessage) {
	if len(values) == 0 {
		return
	}
	eachInert(reflect.ValueOf(spec).Elem(), "spec", true, func(path string, field *scalar.Inert) {
		if value, ok := values[path]; ok {
			_ = field.UnmarshalJSON(value)
		}
	})
}

// eachInert calls do for the inert fields of a struct and of the structs in it. With fill
// it makes those that are not there.
func eachInert(v reflect.Value, path string, fill bool, do func(path string, field *scalar.Inert)) {
	for info, field := range v.Fields() {
		name, _, _ := strings.Cut(info.Tag.Get("json"), ",")
		at := path
		if !info.Anonymous {
			at = tree.Join(path, name)
		}
		if field.Kind() == reflect.Pointer && info.Type.Elem().Kind() == reflect.Struct {
			if field.IsNil() {
				if !fill || !hasInert(info.Type.Elem()) {
					continue
				}
				made := reflect.New(info.Type.Elem())
				eachInert(made.Elem(), at, fill, do)
				if !made.Elem().IsZero() {
					field.Set(made)
				}
				continue
			}
			field = field.Elem()
		}
		if !field.CanAddr() || !field.CanInterface() {
			continue
		}
		if inert, ok := field.Addr().Interface().(*scalar.Inert); ok {
			do(at, inert)
		} else if hasInert(field.Type()) {
			eachInert(field, at, fill, do)
		}
	}
}

// hasInert says whether a struct has inert fields, also in structs in it.
func hasInert(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	for _, f := range reflect.VisibleFields(t) {
		in := f.Type
		if in.Kind() == reflect.Pointer {
			in = in.Elem()
		}
		if in == reflect.TypeFor[scalar.Inert]() || f.IsExported() && hasInert(in) {
			return true
		}
	}
	return false
}
