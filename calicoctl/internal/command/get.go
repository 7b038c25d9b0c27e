package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/printer"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

func newGet(env *Env) *cobra.Command {
	q := query{env: env}
	cmd := &cobra.Command{
		Use:   "get (KIND [NAME...] | KIND,KIND... | -f FILE)",
		Short: "Get resources by file, by standard input, or by kind and names",
		Long: `Display resources: all of a kind, those with the given names, or those that a file
names. Identifiers that are left out match everything. Several kinds are given with commas
between them, and without names: tables come one after the other, documents as one list.

Valid resource types are bgpPeer, hostEndpoint, ipPool, node, policy, profile and
workloadEndpoint. Their names are case insensitive and may be plural. A pool is named by
its network, a BGP peer by its IP address.

Passwords of BGP peers are not shown: v3 prints them as ` + "<hidden>" + `, a word that leaves the
stored password as it is when the document is applied, and --show-secrets as they are; v1
has no word for them and prints nothing.

The kinds of projectcalico.org/v3 are known too. What both versions have is shown as v1
unless --api-version, CALICOCTL_API_VERSION or spec.apiVersion in the configuration file
asks for projectcalico.org/v3, which names every resource by its name.

Output formats:
  ps                     a table with the columns that identify resources
  wide                   a table with more columns
  custom-columns=A,B     a table with the given columns
  yaml, json             documents, which all commands take as input
  go-template=TEMPLATE   the output of a Go template over the lists of resources
  go-template-file=FILE  the same, with the template from a file`,
		Example: `  # List all policies.
  calicoctl get policy

  # Show two policies as YAML.
  calicoctl get -o yaml policy web database

  # List the workload endpoints of a node.
  calicoctl get workloadEndpoint --node=node01

  # Show all that makes up a network.
  calicoctl get policies,profiles,ippools

  # Show the policies, and then every change of them.
  calicoctl get policy --watch

  # Show the pools as projectcalico.org/v3 has them.
  calicoctl get ippools --api-version=projectcalico.org/v3 -o yaml

  # Print only the names.
  calicoctl get nodes -o go-template='{{range .}}{{range .Items}}{{.Metadata.Name}} {{end}}{{end}}'`,
		RunE:              q.run,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: env.completeKindLists(&q.ids),
	}
	q.files.flags(cmd, "get")
	q.ids.flags(cmd)
	q.ids.flagAll(cmd)
	env.dialectFlag(cmd)
	cmd.Flags().StringVarP(&q.output, "output", "o", "ps",
		"output `format`: yaml, json, ps, wide, custom-columns=..., go-template=..., go-template-file=...")
	mustComplete(cmd, "output", printer.Formats())
	cmd.Flags().BoolVarP(&q.watch, "watch", "w", false, "go on with every change, until interrupted: a row, a line of JSON or a YAML item each")
	cmd.Flags().BoolVar(&q.secrets, "show-secrets", false, "print passwords themselves, in place of "+scalar.Hidden)
	return cmd
}

type query struct {
	env    *Env
	files  inputs
	ids    identifiers
	output string
	watch  bool
	// secrets shows secrets themselves.
	secrets bool
}

// found is one resource with the kind that prints it.
type found struct {
	kind  *dialect.Kind
	entry etcdstore.Entry
}

func (q *query) run(cmd *cobra.Command, args []string) error {
	out, err := printer.Parse(q.output)
	if err != nil {
		return usagef("%s", err)
	}
	if q.watch {
		return q.watchChanges(cmd, args)
	}
	fetch, err := q.plan(args, out)
	if err != nil {
		return err
	}
	return q.env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
		resources, missing := fetch(ctx, s)
		if missing != nil && !errors.Is(missing, etcdstore.ErrNotFound) {
			return failedToGet(missing)
		}
		if len(resources) > 0 || missing == nil {
			if err := q.print(ctx, s, out, resources, args); err != nil {
				return err
			}
			if len(resources) == 0 && printer.IsTable(out) {
				fmt.Fprintln(q.env.Stderr, "No resources found")
			}
		}
		return failedToGet(missing)
	})
}

func failedToGet(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("Failed to get resources: %w", err) //nolint:staticcheck // ST1005: the original's message
}

// fetch reads the resources that were asked for. With an error that is
// [etcdstore.ErrNotFound] it returns those that do exist.
type fetch func(context.Context, *resource.Store) ([]found, error)

// plan decides what to read, before anything is.
func (q *query) plan(args []string, out printer.Printer) (fetch, error) {
	switch {
	case len(q.files.names) > 0 && len(args)+len(q.ids.used()) > 0:
		return nil, usagef("--filename names what to get, so no kind, name or identifier may be given")
	case len(q.files.names) > 0:
		objects, err := q.env.readObjects(q.files, true)
		if err == nil {
			err = q.env.preferDialect()
		}
		return q.byKey(objects), err
	case len(args) == 0:
		return nil, usagef("name what to get by KIND, or by --filename")
	}
	kinds, err := q.env.kindsNamed(args[0])
	if err != nil {
		return nil, err
	}
	if len(kinds) > 1 && len(args) > 1 {
		return nil, usagef("%q: names are for one KIND, and %s are %d", args[1], args[0], len(kinds))
	}
	fetches := make([]fetch, len(kinds))
	for i, kind := range kinds {
		if fetches[i], err = q.planKind(kind, args[1:], out); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context, s *resource.Store) ([]found, error) {
		var all []found
		for _, fetch := range fetches {
			some, err := fetch(ctx, s)
			if all = append(all, some...); err != nil {
				return all, err // one of several kinds has no names that could be missing
			}
		}
		return all, nil
	}, nil
}

// planKind is plan for the resources of a kind that have some names, or all.
func (q *query) planKind(kind *dialect.Kind, called []string, out printer.Printer) (fetch, error) {
	if err := out.Check(kind); err != nil {
		return nil, usagef("%s", err)
	}
	if err := q.ids.check(kind); err != nil {
		return nil, err
	}
	names := make([]name, len(called))
	for i, arg := range called {
		var err error
		if names[i], err = parseNameOf(kind, arg); err != nil {
			return nil, err
		}
	}
	if kind.NameOf != nil {
		return q.byDialectName(kind, names), nil
	}
	return q.byName(kind, names), nil
}

func (q *query) byKey(objects []manifest.Object) fetch {
	return func(ctx context.Context, s *resource.Store) ([]found, error) {
		entries, err := s.Get(ctx, objects)
		return q.env.printers(objects, entries), err
	}
}

// read reads the resources of a kind that may be meant: those with the names, or all when
// there are none.
func (q *query) read(ctx context.Context, s *resource.Store, kind *dialect.Kind, names []name) ([]etcdstore.Entry, []store.Quarantined, error) {
	if keys, ok := q.ids.keys(kind, names); ok {
		return s.Named(ctx, kind.Model, keys)
	}
	return s.ListIn(ctx, kind.Model, q.ids.scoped(), nil)
}

func (q *query) byName(kind *dialect.Kind, names []name) fetch {
	return func(ctx context.Context, s *resource.Store) ([]found, error) {
		entries, bad, err := q.read(ctx, s, kind, names)
		if err != nil {
			return nil, err
		}
		seen := make([]bool, len(names))
		wanted := func(k model.Key) bool {
			if !q.ids.matches(k) {
				return false
			}
			match := len(names) == 0
			for i, n := range names {
				if n.called(k) {
					seen[i], match = true, true
				}
			}
			return match
		}
		entries = slices.DeleteFunc(entries, func(e etcdstore.Entry) bool { return !wanted(e.Key) })
		bad = slices.DeleteFunc(bad, func(b store.Quarantined) bool { return !wanted(b.Key) })
		readable, faults := q.unusable(bad, len(names) > 0)
		entries = append(entries, readable...)
		model.SortByKey(entries, func(e etcdstore.Entry) model.Key { return e.Key })
		out := make([]found, len(entries))
		for i, e := range entries {
			out[i] = found{q.env.owner(kind, e.Key), e}
		}
		return out, errors.Join(append(faults, missing(kind, names, seen))...)
	}
}

// unusable reports stored values that are not in force, and returns those that can be
// shown at all. One that cannot, although it was asked for by name, is an error.
func (q *query) unusable(bad []store.Quarantined, named bool) (readable []etcdstore.Entry, faults []error) {
	for _, b := range bad {
		switch {
		case b.Value != nil:
			fmt.Fprintf(q.env.Stderr, "Warning: %v; it is not in force as it stands\n", b.Err)
			readable = append(readable, etcdstore.Entry{Key: b.Key, Value: b.Value})
		case named:
			faults = append(faults, resource.Unreadable(b.Key, b.Err))
		default:
			fmt.Fprintf(q.env.Stderr, "Warning: %v\n", resource.Unreadable(b.Key, b.Err))
		}
	}
	return readable, faults
}

// missing is an error about the names for which nothing was found.
func missing(kind *dialect.Kind, names []name, seen []bool) error {
	var faults []error
	for i, n := range names {
		if !seen[i] {
			faults = append(faults, resource.MissingName(kind.Name, n.text))
		}
	}
	return errors.Join(faults...)
}

// print encodes the resources in their dialects and writes them.
func (q *query) print(ctx context.Context, s *resource.Store, out printer.Printer, resources []found, args []string) error {
	var groups []printer.Group
	if len(args) > 0 {
		kinds, err := q.env.kindsNamed(args[0])
		if err != nil {
			return err
		}
		for _, kind := range kinds {
			groups = append(groups, printer.Group{Kind: q.ids.withNamespace(kind), Single: len(args) == 2})
		}
	}
	for _, f := range resources {
		q.warnDeleting(f.entry.Key, f.entry.Value)
		doc, lost := q.document(f.kind, f.entry)
		if len(lost) > 0 && printer.ShowsAll(out) {
			fmt.Fprintf(q.env.Stderr, "Warning: apiVersion %s cannot show all of %s; not shown: %s\n",
				f.kind.APIVersion, f.entry.Key, strings.Join(lost, ", "))
		}
		i := slices.IndexFunc(groups, func(g printer.Group) bool {
			return g.Kind.APIVersion == f.kind.APIVersion && g.Kind.Name == f.kind.Name
		})
		if i < 0 {
			i = len(groups)
			groups = append(groups, printer.Group{Kind: f.kind})
		}
		groups[i].Docs = append(groups[i].Docs, doc)
		groups[i].Revision = max(groups[i].Revision, f.entry.Revision)
	}
	cluster, err := cluster(ctx, s, groups)
	if err != nil {
		return failedToGet(err)
	}
	w := bufio.NewWriter(q.env.Stdout)
	if err := out.Print(w, groups, cluster); err != nil {
		return failedToExecute(err)
	}
	return w.Flush()
}

// document is a resource as a kind writes it.
func (q *query) document(kind *dialect.Kind, e etcdstore.Entry) (doc any, lost []string) {
	doc, lost = kind.Encode(e.Key, e.Value)
	if d, ok := doc.(dialect.Revisioned); ok {
		d.SetRevision(e.Revision)
	}
	if q.secrets && kind.Reveal != nil {
		kind.Reveal(doc, e.Value)
	}
	return doc, lost
}

// owner is the kind that prints a resource: the given one, unless its dialect cannot name
// the resource.
func (env *Env) owner(kind *dialect.Kind, k model.Key) *dialect.Kind {
	if other, ok := env.registry.ByKey(k); ok && !kind.OwnedBy(k) {
		return other
	}
	return kind
}

// warnDeleting tells of a deletion that has begun and not ended.
func (q *query) warnDeleting(k model.Key, v model.Resource) {
	if p, ok := v.(*model.IPPool); ok && !p.Deleting.IsZero() {
		fmt.Fprintf(q.env.Stderr, "Warning: %s is being deleted since %s and gives out no addresses; "+
			"if nobody is at it any more, delete it again, or apply it to keep it\n", k, p.Deleting.Format(time.RFC3339))
	}
}

// cluster reads what some formats show besides the resources.
func cluster(ctx context.Context, s *resource.Store, groups []printer.Group) (dialect.Cluster, error) {
	c := dialect.Cluster{ASNumber: model.DefaultASNumber}
	nodes := slices.ContainsFunc(groups, func(g printer.Group) bool { return g.Kind.Model == model.KindNode })
	if !nodes {
		return c, nil
	}
	as, err := s.GlobalASNumber(ctx)
	if err != nil {
		return c, err
	}
	c.ASNumber = as
	return c, nil
}
