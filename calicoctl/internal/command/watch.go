package command

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/printer"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// watchChanges shows resources and then every change of them until the command is
// interrupted.
func (q *query) watchChanges(cmd *cobra.Command, args []string) error {
	switch {
	case len(q.files.names) > 0:
		return usagef("--watch takes a KIND and NAMEs, not --filename")
	case len(args) == 0:
		return usagef("name what to watch by KIND")
	case strings.Contains(args[0], ","):
		return usagef("--watch follows one KIND, and %s are several: watch each by a command of its own", args[0])
	}
	kind, err := q.env.kindNamed(args[0])
	if err != nil {
		return err
	}
	if err := q.ids.check(kind); err != nil {
		return err
	}
	names := make([]name, len(args)-1)
	for i, arg := range args[1:] {
		if names[i], err = parseNameOf(kind, arg); err != nil {
			return err
		}
	}
	out := bufio.NewWriter(q.env.Stdout)
	stream, err := printer.NewStream(out, q.output, q.ids.withNamespace(kind))
	if err != nil {
		return usagef("%s", err)
	}
	match := func(k model.Key) bool {
		owned := kind.OwnedBy(k) || kind.NameOf == nil // what the dialect cannot name, another prints
		return q.ids.matches(k) && owned && (len(names) == 0 || kind.NameOf != nil || slices.ContainsFunc(names, func(n name) bool { return n.called(k) }))
	}
	return q.env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
		c, err := cluster(ctx, s, []printer.Group{{Kind: kind}})
		if err != nil {
			return failedToGet(err)
		}
		what := resource.Watched{Kind: kind.Model, Scope: q.ids.scoped(), Names: args[1:]}
		if keys, ok := q.ids.keys(kind, names); ok {
			what.Keys = keys
		}
		return s.Watch(ctx, what, match, func(events []resource.Event, lost error) error {
			if lost != nil {
				fmt.Fprintf(q.env.Stderr, "Warning: %v; watching goes on when it is back\n", lost)
				return nil
			}
			if err := stream.Print(q.shown(kind, names, events), c); err != nil {
				return failedToExecute(err)
			}
			return out.Flush()
		})
	})
}

// shown makes documents of what happened.
func (q *query) shown(kind *dialect.Kind, names []name, events []resource.Event) []printer.Event {
	var out []printer.Event
	for _, e := range events {
		if !q.isNamed(kind, names, e) {
			continue
		}
		if e.Err != nil {
			fmt.Fprintf(q.env.Stderr, "Warning: %s: %v; it is not in force as it stands\n", e.Key, e.Err)
		}
		if e.Value != nil {
			if e.Type != resource.EventDeleted {
				q.warnDeleting(e.Key, e.Value)
			}
			by := q.env.owner(kind, e.Key)
			doc, _ := q.document(by, etcdstore.Entry{Key: e.Key, Value: e.Value, Revision: e.Revision})
			out = append(out, printer.Event{Type: e.Type, Doc: doc, Kind: by})
		}
	}
	return out
}

// isNamed reports whether a resource that its dialect has a name for is one of those
// that were asked for.
func (q *query) isNamed(kind *dialect.Kind, names []name, e resource.Event) bool {
	if kind.NameOf == nil {
		return true
	}
	namespace, called := kind.NameOf(e.Key, e.Value)
	if kind.Namespaced && q.ids.namespace != "" && q.ids.namespace != namespace {
		return false
	}
	return len(names) == 0 || slices.ContainsFunc(names, func(n name) bool { return n.text == called })
}
