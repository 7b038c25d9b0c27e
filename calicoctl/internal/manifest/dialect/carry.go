package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// Carry is what to store in place of old (nil: nothing is stored) for a document that says
// next: where the document says what it would say of old, what is stored stays exactly as
// it is, also what the dialect has no word for or writes in another way. Neither old nor
// next is changed.
//
// lost names what belongs to rules and has lost its place, because it is not clear which
// rule of the document is the one that was stored.
func (k *Kind) Carry(key model.Key, old, next model.Resource) (value model.Resource, lost []string, err error) {
	value = Copy(next)
	if old == nil {
		return value, nil, k.secretGiven(value)
	}
	keepIdentity(old, value)
	before, _ := k.Encode(key, old)
	after, _ := k.Encode(key, value)
	if before == nil || after == nil {
		return value, nil, nil // of another type
	}
	if k.sameSecret(old, value) && alike(before, after) {
		return k.settled(Copy(old)), nil, nil
	}
	base, err := k.again(before)
	if err != nil {
		return nil, nil, fmt.Errorf("%s cannot be written as apiVersion %s: %w", key, k.APIVersion, err)
	}
	to := reflect.ValueOf(value).Elem()
	lost = carryRules(k.Rules, reflect.ValueOf(old).Elem(), reflect.ValueOf(base).Elem(), to)
	restore(changes(reflect.ValueOf(old).Elem(), reflect.ValueOf(base).Elem(), to), k.says(key, value))
	ownLists(to)
	model.KeepUnknown(old, value) // also of the items of lists that were edited
	return k.settled(value), lost, k.secretGiven(value)
}

// ownLists gives a struct lists of its own.
func ownLists(v reflect.Value) {
	for _, field := range v.Fields() {
		switch {
		case isPlain(field.Type()):
			ownLists(field)
		case field.Kind() == reflect.Slice && field.CanSet() && !field.IsNil():
			own := reflect.MakeSlice(field.Type(), field.Len(), field.Len())
			reflect.Copy(own, field)
			field.Set(own)
		}
	}
}

func (k *Kind) settled(v model.Resource) model.Resource {
	if k.Settle != nil {
		k.Settle(v)
	}
	return v
}

// Copy is a copy of a resource whose fields can be set without changing the original.
func Copy(v model.Resource) model.Resource {
	from := reflect.ValueOf(v)
	if from.Kind() != reflect.Pointer || from.IsNil() {
		return v
	}
	to := reflect.New(from.Type().Elem())
	to.Elem().Set(from.Elem())
	out, _ := to.Interface().(model.Resource)
	return out
}

// keepIdentity takes over what the store keeps of a resource for its life.
func keepIdentity(old, next model.Resource) {
	if from, to := model.MetadataOf(old), model.MetadataOf(next); from != nil && to != nil {
		to.UID, to.CreationTimestamp = from.UID, from.CreationTimestamp
	}
}

func (k *Kind) sameSecret(old, next model.Resource) bool {
	if k.Secret == nil {
		return true
	}
	was, is := k.Secret(old), k.Secret(next)
	return was == nil || is == nil || *is == *was || *is == scalar.Hidden
}

// secretGiven refuses a secret that is only said to be the stored one.
func (k *Kind) secretGiven(v model.Resource) error {
	if k.Secret == nil {
		return nil
	}
	if s := k.Secret(v); s != nil && *s == scalar.Hidden {
		return errors.New(k.SecretField + ": " + scalar.Hidden + " stands for the one that is stored, and none is: write it, or leave the field out")
	}
	return nil
}

// again is a document as it is read when it comes back. Faults do not matter: what the
// dialect would not read is not said by any document that it did read.
func (k *Kind) again(doc any) (model.Resource, error) {
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	for d := range tree.Documents("", text) {
		nodes, faults := d.Parse()
		if len(faults) > 0 || len(nodes) != 1 {
			return nil, faults
		}
		_, v := k.Decode(tree.NewReport("", nodes[0], ""))
		return v, nil
	}
	return nil, errors.New("it has no text")
}

// says returns a check whether a resource, which may have changed since, is still written
// as it is now, or in a way that is read the same.
func (k *Kind) says(key model.Key, v model.Resource) func() bool {
	before, _ := k.Encode(key, v)
	return func() bool {
		after, _ := k.Encode(key, v)
		if alike(before, after) {
			return true
		}
		a, err1 := k.again(before)
		b, err2 := k.again(after)
		return err1 == nil && err2 == nil && reflect.DeepEqual(a, b)
	}
}

// alike reports whether two documents have the same text.
func alike(a, b any) bool {
	if reflect.DeepEqual(a, b) {
		return true
	}
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// change puts a stored value back, and takes it away again.
type change struct{ put, undo func() }

// restore makes those changes after which the document still says what it says: all at
// once, else group by group (what belongs to one struct), else one by one.
func restore(groups [][]change, says func() bool) {
	try := func(list []change) bool {
		for _, c := range list {
			c.put()
		}
		if says() {
			return true
		}
		for _, c := range list {
			c.undo()
		}
		return false
	}
	var all []change
	for _, g := range groups {
		all = append(all, g...)
	}
	if len(all) == 0 || try(all) {
		return
	}
	for _, g := range groups {
		if try(g) {
			continue
		}
		for i := range g {
			try(g[i : i+1])
		}
	}
}

var rulesType = reflect.TypeFor[[]model.Rule]()

// changes lists what it takes to put values of old into next where next says what base
// does, which is old as the dialect reads it again. Rules have their own way.
func changes(old, base, next reflect.Value) (groups [][]change) {
	var own []change
	for i := range next.NumField() {
		from, was, to := old.Field(i), base.Field(i), next.Field(i)
		switch {
		case !to.CanSet() || to.Type() == rulesType:
		case isPlain(to.Type()):
			groups = append(groups, changes(from, was, to)...)
		case same(from, to):
		case to.Kind() == reflect.Map:
			own = append(own, entries(from, was, to)...)
		case same(was, to):
			is := reflect.New(to.Type()).Elem()
			is.Set(to)
			own = append(own, change{func() { to.Set(from) }, func() { to.Set(is) }})
		}
	}
	if len(own) > 0 {
		groups = append(groups, own)
	}
	return groups
}

// entries is the same for a map, entry by entry.
func entries(old, base, next reflect.Value) []change {
	clone := reflect.MakeMap(next.Type())
	keys := map[any]reflect.Value{}
	for _, m := range []reflect.Value{old, next} {
		for _, k := range m.MapKeys() {
			keys[k.Interface()] = k
		}
	}
	for _, k := range next.MapKeys() {
		clone.SetMapIndex(k, next.MapIndex(k))
	}
	next.Set(clone)
	var out []change
	for _, k := range keys {
		from, was, is := old.MapIndex(k), base.MapIndex(k), next.MapIndex(k)
		if sameEntry(was, is) && !sameEntry(from, is) {
			out = append(out, change{func() { next.SetMapIndex(k, from) }, func() { next.SetMapIndex(k, is) }})
		}
	}
	return out
}

// isPlain tells structs that are nothing but their fields.
func isPlain(t reflect.Type) bool {
	if t.Kind() != reflect.Struct || t.NumField() == 0 {
		return false
	}
	for field := range t.Fields() {
		if !field.IsExported() {
			return false
		}
	}
	return true
}

func sameEntry(a, b reflect.Value) bool {
	if !a.IsValid() || !b.IsValid() {
		return a.IsValid() == b.IsValid()
	}
	return same(a, b)
}

// same is equality in which empty lists and maps are equal to absent ones.
func same(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Slice, reflect.Map:
		if a.Len() == 0 && b.Len() == 0 {
			return true
		}
	default:
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}
