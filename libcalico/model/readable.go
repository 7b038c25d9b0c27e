package model

import (
	"encoding/json"
	"maps"
	"slices"
)

// Readable decodes what can be read of a resource that Decode fails for: those fields of
// its value that can be read by themselves. unreadable names the others, as they stand in
// the value. The resource is nil when nothing can be read.
func Readable(k Key, parts map[string][]byte) (r Resource, unreadable []string) {
	l := layoutOf(k)
	if l == nil || l.readable == nil {
		return nil, nil
	}
	return l.readable(k, parts)
}

// readFields reads the fields of a JSON object, each by itself; nil when the value is no
// object.
func readFields[R any](value []byte) (out *R, unreadable []string) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(value, &fields) != nil || fields == nil {
		return nil, nil
	}
	out = new(R)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		one, err := json.Marshal(map[string]json.RawMessage{name: fields[name]})
		if err == nil {
			err = decodeJSON(one, new(R)) // what fails halfway leaves no half behind
		}
		if err != nil {
			unreadable = append(unreadable, name)
			continue
		}
		_ = decodeJSON(one, out)
	}
	return out, unreadable
}

// readableProfile reads the parts of a profile, each by itself.
func readableProfile(values [][]byte) (p *Profile, unreadable []string) {
	p = &Profile{}
	var rules rulesJSON
	for _, part := range []struct {
		name  string
		index int
		into  any
	}{{"rules", profileRules, &rules}, {"tags", profileTags, &p.Tags}, {"labels", profileLabels, &p.Labels}} {
		if err := decodePart(values[part.index], part.into); err != nil {
			unreadable = append(unreadable, part.name)
		}
	}
	if slices.Contains(unreadable, "tags") {
		p.Tags = nil
	}
	if slices.Contains(unreadable, "labels") {
		p.Labels = nil
	}
	if !slices.Contains(unreadable, "rules") {
		p.Meta, p.InboundRules, p.OutboundRules = rules.Meta, rules.InboundRules, rules.OutboundRules
	}
	return p, unreadable
}
