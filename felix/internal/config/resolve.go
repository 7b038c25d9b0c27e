package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Source is where a value came from.
type Source int

// The sources, from the weakest to the strongest.
const (
	Default Source = iota
	Global
	Host
	File
	Environment
)

// String is the source as messages show it.
func (s Source) String() string {
	switch s {
	case Default:
		return "default"
	case Global:
		return "datastore, global"
	case Host:
		return "datastore, host"
	case File:
		return "file"
	case Environment:
		return "environment"
	}
	return "unknown"
}

// Sources holds the raw values of each source by name, in whatever spelling of upper and
// lower case.
type Sources struct {
	Environment, File, Host, Global map[string]string
}

// Value is one effective parameter.
type Value struct {
	Name, Value string
	Source      Source
}

// Result is the outcome of [Resolve].
type Result struct {
	Config Config
	// Values lists all parameters with their effective values.
	Values []Value
	// Warnings say what was ignored and what holds instead, one sentence each.
	Warnings []string
}

// Resolve computes the effective configuration. The error names every bad value for
// which there is no safe stand-in; the result is complete all the same, with the
// defaults in their place.
func Resolve(src Sources) (Result, error) {
	r := resolver{list: params()}
	r.read(Environment, src.Environment)
	r.read(File, src.File)
	r.read(Host, src.Host)
	r.read(Global, src.Global)
	for i := range r.list {
		r.resolve(&r.list[i])
	}
	return r.result, errors.Join(r.faults...)
}

type resolver struct {
	list   []param
	given  map[string][]given // by lower-case name, strongest first
	result Result
	faults []error
}

// given is a value that a source gives.
type given struct {
	source Source
	value  string
}

// read takes in the values of a source and warns about names that mean nothing.
func (r *resolver) read(s Source, values map[string]string) {
	if r.given == nil {
		r.given = map[string][]given{}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := strings.TrimSpace(values[name])
		if value == "" {
			continue
		}
		i := slices.IndexFunc(r.list, func(p param) bool { return strings.EqualFold(p.name, name) })
		switch {
		case i < 0:
			r.unknown(s, name)
		case r.list[i].local && (s == Host || s == Global):
			r.warn("%s (%s): is needed before the datastore can be read, so it is ignored there; set it in the file or the environment", r.list[i].name, s)
		default:
			key := strings.ToLower(name)
			r.given[key] = append(r.given[key], given{s, value})
		}
	}
}

func (r *resolver) warn(format string, args ...any) {
	r.result.Warnings = append(r.result.Warnings, fmt.Sprintf(format, args...))
}

func (r *resolver) unknown(s Source, name string) {
	is := func(n string) bool { return strings.EqualFold(n, name) }
	switch {
	case slices.ContainsFunc(aboutCluster, is):
		return
	case slices.ContainsFunc(noEffect, is):
		r.warn("%s (%s): has no effect in this felix", name, s)
		return
	}
	var names []string
	for _, p := range r.list {
		names = append(names, p.name)
	}
	if near := nearest(name, names); near != "" {
		r.warn("%s (%s): is not a parameter; did you mean %s?", name, s, near)
		return
	}
	r.warn("%s (%s): is not a parameter", name, s)
}

// resolve finds a parameter's value. A bad one counts as the default, not as absent, so
// that what holds does not depend on a forgotten weaker source.
func (r *resolver) resolve(p *param) {
	value, source := p.def, Default
	if list := r.given[strings.ToLower(p.name)]; len(list) > 0 {
		value, source = list[0].value, list[0].source
	}
	if err := p.set(&r.result.Config, value); err != nil {
		shown := value
		if p.secret {
			shown = "…"
		}
		if p.fatal {
			r.faults = append(r.faults, fmt.Errorf("%s = %s (%s): %w", p.name, shown, source, err))
		} else {
			r.warn("%s = %s (%s): %v; the default %s is used", p.name, shown, source, err, p.def)
		}
		source = Default
		_ = p.set(&r.result.Config, p.def)
	}
	shown := p.show(&r.result.Config)
	if p.secret && shown != "" {
		shown = "…"
	}
	r.result.Values = append(r.result.Values, Value{Name: p.name, Value: shown, Source: source})
}

// set reads a value, empty ones and "none" too.
func (p *param) set(c *Config, value string) error {
	switch {
	case value == "":
		return nil
	case strings.EqualFold(value, "none") && p.zero != nil:
		p.zero(c)
		return nil
	case strings.EqualFold(value, "none"):
		return errors.New("this parameter cannot be switched off")
	}
	return p.parse(c, value)
}

// Diff names the parameters whose values differ, in the order of the table.
func Diff(a, b *Config) []string {
	var names []string
	for _, p := range params() {
		if p.show(a) != p.show(b) {
			names = append(names, p.name)
		}
	}
	return names
}

// NeedsRestart names the first of some parameters that is read at the start only; empty
// when all can change while felix runs.
func NeedsRestart(names []string) string {
	for _, p := range params() {
		if !p.live && slices.Contains(names, p.name) {
			return p.name
		}
	}
	return ""
}

// nearest is the name that differs least from a mistyped one, if it is near enough.
func nearest(name string, names []string) string {
	best, distance := "", len(name)/3+1
	for _, n := range names {
		if d := editDistance(strings.ToLower(name), strings.ToLower(n)); d < distance {
			best, distance = n, d
		}
	}
	return best
}

// editDistance counts the characters to insert, delete or replace (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
