package settings

import (
	"encoding/json"
	"errors"
	"maps"
)

// ParseMesh reads the value of BGP's node_mesh, of which a newer program may have written
// more.
func ParseMesh(raw string) (enabled bool, err error) {
	var mesh struct {
		Enabled *bool `json:"enabled"`
	}
	if err := json.Unmarshal([]byte(raw), &mesh); err != nil {
		return false, err
	}
	if mesh.Enabled == nil {
		return false, errors.New("it does not say whether the mesh is enabled")
	}
	return *mesh.Enabled, nil
}

// KeepUnknown is what to store for a value that takes the place of old: where both are JSON
// objects, what old has and the new value has no field for stays.
func KeepUnknown(old, value string) string {
	was, is := object(old), object(value)
	if was == nil || is == nil {
		return value
	}
	all := maps.Clone(was)
	maps.Copy(all, is)
	if len(all) == len(is) {
		return value
	}
	text, err := json.Marshal(all)
	if err != nil { // of what was read as JSON, it cannot be
		return value
	}
	return string(text)
}

// object is the fields of a JSON object; nil when a text is none.
func object(text string) (fields map[string]json.RawMessage) {
	if json.Unmarshal([]byte(text), &fields) != nil {
		return nil
	}
	return fields
}

// Keeping is the settings with what the values of old have that these have no field for.
func (s *Settings) Keeping(old *Settings) *Settings {
	own := *s
	own.Values = maps.Clone(s.Values)
	for name, value := range own.Values {
		own.Values[name] = KeepUnknown(old.Values[name], value)
	}
	return &own
}
