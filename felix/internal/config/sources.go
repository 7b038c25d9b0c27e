package config

import (
	"fmt"
	"strings"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// envPrefix begins the names of environment variables that are parameters.
const envPrefix = "FELIX_"

// FromEnvironment picks felix's parameters out of an environment ("NAME=value" each).
func FromEnvironment(environ []string) map[string]string {
	values := map[string]string{}
	for _, line := range environ {
		name, value, _ := strings.Cut(line, "=")
		if len(name) > len(envPrefix) && strings.EqualFold(name[:len(envPrefix)], envPrefix) {
			values[name[len(envPrefix):]] = value
		}
	}
	return values
}

// ParseFile reads the text of felix.cfg: lines "Name = value"; lines that begin with "#"
// or ";" and section heads are skipped. Lines of another form are named in the warnings.
func ParseFile(text string) (values map[string]string, warnings []string) {
	values = map[string]string{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' || line[0] == '[' && strings.HasSuffix(line, "]") {
			continue
		}
		name, value, found := strings.Cut(line, "=")
		if !found {
			warnings = append(warnings, fmt.Sprintf("line %d: %q is not of the form Name = value; it is ignored", number, line))
			continue
		}
		values[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return values, warnings
}

// Apply takes over events of the store that carry felix's parameters, for all nodes or
// for this one, and reports whether any was among them.
func (s *Sources) Apply(node string, events []store.Event) (changed bool) {
	for _, ev := range events {
		k, ok := ev.Key.(model.FelixConfigKey)
		if !ok || k.Node != "" && k.Node != node {
			continue
		}
		changed = true
		values := &s.Global
		if k.Node != "" {
			values = &s.Host
		}
		if *values == nil {
			*values = map[string]string{}
		}
		if v, ok := ev.Value.(*model.Setting); ok && v != nil {
			(*values)[k.Name] = v.Value
		} else {
			delete(*values, k.Name)
		}
	}
	return changed
}
