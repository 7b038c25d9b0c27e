package command

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// dialectFlag lets a command line choose the dialect.
func (env *Env) dialectFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&env.apiVersion, "api-version", "",
		"name and print resources as this `version` does: v1 or projectcalico.org/v3 (default v1, for kinds that it has)")
	mustComplete(cmd, "api-version", []string{"v1", "projectcalico.org/v3"})
}

// preferDialect chooses the dialect: that of the command line, else of the environment,
// else of the configuration file, else each kind's first.
func (env *Env) preferDialect() error {
	version := cmp.Or(env.apiVersion, env.Getenv("CALICOCTL_API_VERSION"))
	if version == "" {
		cfg, err := env.Config()
		if err != nil {
			return nil //nolint:nilerr // who connects says it; others need no configuration
		}
		version = cfg.APIVersion
	}
	if version == "" {
		return nil
	}
	if err := env.registry.Prefer(version); err != nil {
		return usagef("%s", err)
	}
	return nil
}

// namespaces is the flags about namespaces, which only the dialect v3 has.
type namespaces struct {
	namespace     string
	allNamespaces bool
}

func (n *namespaces) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&n.namespace, "namespace", "", "the `namespace` of kinds of projectcalico.org/v3 that have one")
}

func (n *namespaces) flagAll(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&n.allNamespaces, "all-namespaces", "A", false, "all namespaces, with their names in tables")
}

func (n *namespaces) check(kind *dialect.Kind) error {
	switch {
	case n.namespace == "" && !n.allNamespaces || kind.Namespaced:
	case kind.NameOf == nil:
		return usagef("a %s of apiVersion %s has no namespace", kind.Name, kind.APIVersion)
	case n.namespace != "":
		return usagef("a %s has no namespace", kind.Name)
	}
	if n.namespace != "" && n.allNamespaces {
		return usagef("--namespace and --all-namespaces exclude each other")
	}
	return nil
}

// nameKey is the key that stands for a resource's name.
func (n *namespaces) nameKey(kind *dialect.Kind, name string) dialect.NameKey {
	k := dialect.NameKey{Of: kind, Name: name}
	if kind.Namespaced {
		k.Namespace = cmp.Or(n.namespace, "default")
	}
	return k
}

// withNamespace is the kind with the column of namespaces, if they were asked for.
func (n *namespaces) withNamespace(kind *dialect.Kind) *dialect.Kind {
	if !kind.Namespaced || n.namespace == "" && !n.allNamespaces {
		return kind
	}
	const heading = "NAMESPACE"
	with := *kind
	with.Columns = append([]dialect.Column{{Heading: heading, Show: func(any, dialect.Cluster) string { return "default" }}}, kind.Columns...)
	with.Short = append([]string{heading}, kind.Short...)
	with.Wide = append([]string{heading}, kind.Wide...)
	return &with
}

// parseNameOf reads a name of a resource of a kind as its dialect has it.
func parseNameOf(kind *dialect.Kind, text string) (name, error) {
	if kind.NameOf != nil {
		return name{text: text}, nil
	}
	return parseName(kind.Model, text)
}

// shownName is what commands call a resource of a kind.
func shownName(kind *dialect.Kind, k model.Key, v model.Resource) string {
	if kind.NameOf == nil {
		return nameOf(k)
	}
	_, name := kind.NameOf(k, v)
	return name
}

// printers finds the kinds that print resources: of the dialect that was asked for,
// else those of the documents that named them.
func (env *Env) printers(objects []manifest.Object, entries []etcdstore.Entry) []found {
	named := map[model.Kind]*dialect.Kind{}
	kinds := map[model.Key]*dialect.Kind{}
	for _, o := range objects {
		named[o.Key.Kind()], kinds[o.Key] = o.Kind, o.Kind
	}
	out := make([]found, len(entries))
	for i, e := range entries {
		kind := kinds[e.Key]
		if kind == nil {
			kind = named[e.Key.Kind()]
		}
		if other, ok := env.registry.ByKey(e.Key); ok && (env.apiVersion != "" || !kind.OwnedBy(e.Key)) {
			kind = other
		}
		out[i] = found{kind, e}
	}
	return out
}

// byDialectName reads resources that the dialect has names of its own for.
func (q *query) byDialectName(kind *dialect.Kind, names []name) fetch {
	return func(ctx context.Context, s *resource.Store) ([]found, error) {
		entries, bad, err := q.read(ctx, s, kind, names)
		if err != nil {
			return nil, err
		}
		seen := make([]bool, len(names))
		wanted := func(k model.Key, v model.Resource) bool {
			switch {
			case k.Kind() != kind.Model: // a raw setting that cannot be used
				return len(names) == 0
			case !kind.OwnedBy(k), !q.ids.matches(k):
				return false
			}
			namespace, called := kind.NameOf(k, v)
			if kind.Namespaced && q.ids.namespace != "" && q.ids.namespace != namespace {
				return false
			}
			match := len(names) == 0
			for i, n := range names {
				if n.text == called {
					seen[i], match = true, true
				}
			}
			return match
		}
		entries = slices.DeleteFunc(entries, func(e etcdstore.Entry) bool { return !wanted(e.Key, e.Value) })
		bad = slices.DeleteFunc(bad, func(b store.Quarantined) bool { return !wanted(b.Key, b.Value) })
		readable, faults := q.unusable(bad, len(names) > 0)
		entries = append(entries, readable...)
		model.SortByKey(entries, func(e etcdstore.Entry) model.Key { return e.Key })
		out := make([]found, len(entries))
		for i, e := range entries {
			out[i] = found{kind, e}
		}
		for i, n := range names {
			if !seen[i] {
				faults = append(faults, resource.Missing(q.ids.nameKey(kind, n.text)))
			}
		}
		return out, errors.Join(faults...)
	}
}
