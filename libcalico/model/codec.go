package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

var errNoValue = errors.New("no value")

// Encode writes a resource as etcd values by path. A path of the resource that is
// not in the result must be absent from the store. Fails when r is not of k's kind.
func Encode(k Key, r Resource) (map[string][]byte, error) {
	l := layoutOf(k)
	if l == nil {
		return nil, fmt.Errorf("encode %v: unknown kind of key", k)
	}
	parts, err := l.encode(k, r)
	if err != nil {
		return nil, fmt.Errorf("encode %v: %w", k, err)
	}
	return parts, nil
}

// Decode is the inverse of Encode: parts holds the values of those of Paths(k) that
// exist. It reads what v2.6 wrote as well. Empty lists and maps come out as nil.
func Decode(k Key, parts map[string][]byte) (Resource, error) {
	l := layoutOf(k)
	if l == nil {
		return nil, fmt.Errorf("decode %v: unknown kind of key", k)
	}
	r, err := l.decode(k, parts)
	if err != nil {
		return nil, fmt.Errorf("decode %v: %w", k, err)
	}
	return r, nil
}

// encodeJSON writes v, a pointer to a struct, as v2.6 did: a list or map that its
// struct tag does not allow to be left out is written as empty, not as null.
func encodeJSON(v any) ([][]byte, error) {
	from := reflect.ValueOf(v).Elem()
	filled := reflect.New(from.Type())
	filled.Elem().Set(from)
	fillEmpty(filled.Elem())

	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(filled.Interface()); err != nil {
		return nil, err
	}
	return [][]byte{withUnknown(bytes.TrimSuffix(b.Bytes(), []byte("\n")), filled.Elem())}, nil
}

func fillEmpty(v reflect.Value) {
	for info, field := range v.Fields() {
		if strings.Contains(info.Tag.Get("json"), ",omit") || !field.CanSet() {
			continue
		}
		switch {
		case field.Kind() == reflect.Slice && field.IsNil():
			field.Set(reflect.MakeSlice(field.Type(), 0, 0))
		case field.Kind() == reflect.Map && field.IsNil():
			field.Set(reflect.MakeMap(field.Type()))
		}
	}
}

func decodeJSON(value []byte, v any) error {
	if err := unmarshal(value, v); err != nil {
		return err
	}
	tidy(reflect.ValueOf(v).Elem())
	return nil
}

// tidy makes empty lists and maps nil, so that equal resources compare equal however they
// were written. It gives back the room that lists got to grow in while they were read.
func tidy(v reflect.Value) {
	switch v.Kind() {
	case reflect.Slice:
		if v.Len() == 0 {
			v.SetZero()
			return
		}
		if v.Cap() > v.Len() {
			exact := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
			reflect.Copy(exact, v)
			v.Set(exact)
		}
		if v.Type().Elem().Kind() != reflect.Struct {
			return
		}
		for i := range v.Len() {
			tidy(v.Index(i))
		}
	case reflect.Map:
		if v.Len() == 0 {
			v.SetZero()
		}
	case reflect.Struct:
		for _, field := range v.Fields() {
			if field.CanSet() {
				tidy(field)
			}
		}
	default:
	}
}

// rulesJSON is the value of a profile's rules key.
type rulesJSON struct {
	Meta

	InboundRules  []Rule `json:"inbound_rules"`
	OutboundRules []Rule `json:"outbound_rules"`
}

// The parts of a profile, in the order of its paths.
const (
	profileRules = iota
	profileTags
	profileLabels
	profileParts
)

func encodeProfile(_ ProfileKey, p *Profile) ([][]byte, error) {
	rules, err := encodeJSON(&rulesJSON{Meta: p.Meta, InboundRules: p.InboundRules, OutboundRules: p.OutboundRules})
	if err != nil {
		return nil, err
	}
	values := make([][]byte, profileParts)
	values[profileRules] = rules[0]
	if values[profileTags], err = json.Marshal(orEmptyList(p.Tags)); err != nil {
		return nil, err
	}
	if values[profileLabels], err = json.Marshal(orEmptyMap(p.Labels)); err != nil {
		return nil, err
	}
	return values, nil
}

func decodeProfile(_ ProfileKey, values [][]byte, p *Profile) error {
	var rules rulesJSON
	if err := decodePart(values[profileRules], &rules); err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	if err := decodePart(values[profileTags], &p.Tags); err != nil {
		return fmt.Errorf("tags: %w", err)
	}
	if err := decodePart(values[profileLabels], &p.Labels); err != nil {
		return fmt.Errorf("labels: %w", err)
	}
	p.Meta, p.InboundRules, p.OutboundRules = rules.Meta, rules.InboundRules, rules.OutboundRules
	return nil
}

// decodePart reads a part that may be absent.
func decodePart(value []byte, v any) error {
	if value == nil {
		return nil
	}
	return decodeJSON(value, v)
}

func orEmptyList(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func orEmptyMap(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// decodeBlockAffinity reads also the empty value that some versions wrote.
func decodeBlockAffinity(_ BlockAffinityKey, values [][]byte, a *BlockAffinity) error {
	if len(values[0]) == 0 {
		return nil
	}
	return decodeJSON(values[0], a)
}

func encodeSetting(k Key, s *Setting) ([][]byte, error) {
	if s.Of != "" && s.Of != k.Kind() {
		return nil, fmt.Errorf("a %s cannot hold a setting of %s", k.Kind(), s.Of)
	}
	return [][]byte{[]byte(s.Value)}, nil
}

func decodeSetting(k Key, value []byte, s *Setting) error {
	*s = Setting{Of: k.Kind(), Value: string(value)}
	return nil
}

func encodeReady(r *Ready) ([][]byte, error) {
	return [][]byte{strconv.AppendBool(nil, bool(*r))}, nil
}

func decodeReady(value []byte, r *Ready) error {
	switch rawText(value) {
	case "true":
		*r = true
	case "false":
		*r = false
	default:
		return fmt.Errorf("%.40q is neither true nor false", value)
	}
	return nil
}
