package model

import (
	"slices"
	"strings"
)

// Scope is what is known of resources that are looked for; what is empty is not known. A
// scope that names a node leaves out what is for all nodes.
type Scope struct {
	Node, Orchestrator, Workload string
	Tier                         string
}

func (s Scope) known(hole string) string {
	switch hole {
	case "node":
		return s.Node
	case "orchestrator":
		return s.Orchestrator
	case "workload":
		return s.Workload
	case "tier":
		return s.Tier
	}
	return ""
}

// ScopedPrefixes is [ListPrefixes] for the resources in a scope: it lists the longest
// prefixes that what is known allows.
func ScopedPrefixes(kind Kind, scope Scope) []string {
	l := layoutOfKind(kind)
	if l == nil {
		return nil
	}
	if scope == (Scope{}) {
		return slices.Clone(l.prefixes)
	}
	var prefixes []string
	for _, s := range l.shapes {
		prefix, narrower := s.pattern.under(scope)
		if scope.Node != "" && !s.pattern.names("node") {
			continue
		}
		if !narrower {
			return slices.Clone(l.prefixes)
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes
}

// under is the beginning of all paths of a pattern in a scope, and whether the scope has
// made it longer.
func (p pattern) under(scope Scope) (prefix string, narrower bool) {
	var b strings.Builder
	for i, s := range p {
		if i > 0 {
			b.WriteByte('/')
		}
		text := s.text
		if s.hole {
			if text = scope.known(s.text); text == "" {
				break
			}
			text, narrower = escape(text), true
		}
		b.WriteString(text)
	}
	return b.String(), narrower
}

// names says whether a pattern has a hole of a name.
func (p pattern) names(hole string) bool { return slices.Contains(p, segment{hole, true}) }

// NodesPrefix is the prefix under which each node has keys, and none of its endpoints.
const NodesPrefix = bgpHostPrefix

// hostTrees are the prefixes under which each node has a subtree, and in that another one
// with all that concerns its workload endpoints, of which there may be very many.
var hostTrees = []string{hostPrefix, felixHostPrefix}

const workloads = "/workload/"

// IsHostTree says whether a prefix is one of those under which each node has a subtree, and
// in that the one that [WorkloadSubtree] names.
func IsHostTree(prefix string) bool { return slices.Contains(hostTrees, prefix) }

// BesideWorkloads says whether the resources of a kind stand outside of the subtrees that
// [WorkloadSubtree] names.
func BesideWorkloads(kind Kind) bool {
	l := layoutOfKind(kind)
	return l != nil && !slices.ContainsFunc(l.shapes, func(s shape) bool { return s.pattern.names("workload") })
}

// WorkloadSubtree is the prefix under which all stands that a host tree has about the
// workload endpoints of a node, which is given as it is written in paths.
func WorkloadSubtree(tree, node string) string { return tree + node + workloads }

// WorkloadSubtreeOf is the [WorkloadSubtree] in which a path of a host tree stands.
func WorkloadSubtreeOf(tree, path string) (subtree string, ok bool) {
	node, rest, ok := strings.Cut(strings.TrimPrefix(path, tree), "/")
	if !ok || !strings.HasPrefix("/"+rest, workloads) {
		return "", false
	}
	return WorkloadSubtree(tree, node), true
}
