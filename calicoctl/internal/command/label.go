package command

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/settings"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/model"
)

var labelVerb = verb{"label", "labelled"}

func newLabel(env *Env) *cobra.Command {
	l := labelling{env: env}
	cmd := &cobra.Command{
		Use:   "label KIND NAME (KEY=VALUE | KEY --remove)",
		Short: "Add or change labels of a resource",
		Long: `Add or change labels of a host endpoint, workload endpoint, profile or node, or with
--remove take them away. Policies and the node selectors of pools select by labels. A
label that has another value already is an error unless --overwrite is given. Several
labels may be given.`,
		Example: `  # Label a host endpoint.
  calicoctl label hostEndpoint eth0 role=uplink --node=node01

  # Remove the label again.
  calicoctl label hostEndpoint eth0 role --remove --node=node01`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: env.completeResources(&l.ids),
		RunE:              l.run,
	}
	cmd.Flags().BoolVar(&l.overwrite, "overwrite", false, "change labels that are there already")
	cmd.Flags().BoolVar(&l.remove, "remove", false, "remove the labels with the given keys")
	l.ids.flags(cmd)
	l.env.dialectFlag(cmd)
	l.how.flags(cmd)
	return cmd
}

type labelling struct {
	env               *Env
	ids               identifiers
	how               changing
	overwrite, remove bool
}

// labelChange is one label as the command line has it.
type labelChange struct {
	key, value string
}

func (l *labelling) run(cmd *cobra.Command, args []string) error {
	if err := l.how.check(); err != nil {
		return err
	}
	if len(args) > 0 && len(args) < 3 {
		return usagef("insufficient arguments: expected KIND, NAME and labels")
	}
	objects, err := l.env.named(l.ids, args[:min(len(args), 2)], "label")
	if err != nil {
		return err
	}
	o := objects[0]
	if o.Kind.NameOf == nil && !labelled(o.Key.Kind()) {
		return usagef("resources of kind %s have no labels", o.Kind.Name)
	}
	changes, err := l.parse(args[2:])
	if err != nil {
		return err
	}
	if l.how.dryRun == dryRunClient {
		return usagef("labelling needs the resource that it is for: use --dry-run=server")
	}
	if l.how.json() {
		return l.env.modify(cmd, labelVerb, l.how, o, nil, l.edit(o, changes, nil))
	}
	return l.text(cmd, o, changes)
}

// text labels and says what became of each label.
func (l *labelling) text(cmd *cobra.Command, o manifest.Object, changes []labelChange) error {
	return l.env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
		var lines []string
		_, err := s.Modify(ctx, o, false, l.how.dry(), l.edit(o, changes, &lines))
		if err != nil {
			return l.env.failure(labelVerb, []manifest.Object{o}, nil, err)
		}
		for _, line := range lines {
			fmt.Fprintln(l.env.Stdout, line+l.how.note())
		}
		return nil
	})
}

func (l *labelling) parse(args []string) ([]labelChange, error) {
	var out []labelChange
	for _, arg := range args {
		key, value, has := strings.Cut(arg, "=")
		switch {
		case l.remove && has:
			return nil, usagef("--remove takes keys alone, not %q", arg)
		case !l.remove && !has:
			return nil, usagef("%q is not a label: expected KEY=VALUE, or --remove", arg)
		}
		out = append(out, labelChange{key, value})
	}
	return out, nil
}

// edit changes the labels of a copy; lines, if not nil, gets what was done.
func (l *labelling) edit(o manifest.Object, changes []labelChange, lines *[]string) func(manifest.Object, model.Resource) (manifest.Object, error) {
	return func(found manifest.Object, old model.Resource) (manifest.Object, error) {
		r, err := labelledAnew(found.Key, old)
		if err != nil {
			return found, err
		}
		var said []string
		labels := labelsOf(r)
		if meta := model.MetadataOf(r); labels == nil && meta != nil && o.Kind.NameOf != nil {
			labels = &meta.V3Labels
		}
		if labels == nil {
			return found, fmt.Errorf("%s has no labels", o.Key)
		}
		if *labels == nil {
			*labels = map[string]string{}
		}
		for _, c := range changes {
			line, err := l.change(*labels, o, c)
			if err != nil {
				return found, err
			}
			said = append(said, line)
		}
		if lines != nil {
			*lines = said
		}
		found.Value = r
		return found, validLabelled(found.Key, r)
	}
}

// validLabelled says what is wrong with a labelled resource. The labels of settings stand in
// their metadata; the values are as they were.
func validLabelled(k model.Key, r model.Resource) error {
	if key, ok := k.(settings.Key); ok {
		if meta, ok := key.Metadata(); ok {
			return model.Validate(meta, &model.Configuration{Meta: *model.MetadataOf(r)})
		}
	}
	return model.Validate(k, r)
}

// labelledAnew is a copy of a resource whose labels can be changed.
func labelledAnew(k model.Key, r model.Resource) (model.Resource, error) {
	if s, ok := r.(*settings.Settings); ok {
		own := *s
		own.V3Labels = maps.Clone(s.V3Labels)
		return &own, nil
	}
	return sameResource(k, r)
}

func (l *labelling) change(labels map[string]string, o manifest.Object, c labelChange) (line string, err error) {
	was, exists := labels[c.key]
	what := fmt.Sprintf("%s %s", o.Kind.Name, objectNameOf(o).Name)
	switch {
	case l.remove && !exists:
		return "", fmt.Errorf("%s has no label %s", what, c.key)
	case l.remove:
		delete(labels, c.key)
		return fmt.Sprintf("Successfully removed label %s from %s.", c.key, what), nil
	case exists && was != c.value && !l.overwrite:
		return "", fmt.Errorf("%s has the label %s=%s already; --overwrite changes it", what, c.key, was)
	}
	labels[c.key] = c.value
	if exists {
		return fmt.Sprintf("Successfully updated label %s on %s.", c.key, what), nil
	}
	return fmt.Sprintf("Successfully set label %s on %s.", c.key, what), nil
}

// labelsOf is where a resource keeps its labels; nil when its kind has none.
func labelsOf(r model.Resource) *map[string]string {
	switch r := r.(type) {
	case *model.HostEndpoint:
		return &r.Labels
	case *model.WorkloadEndpoint:
		return &r.Labels
	case *model.Profile:
		return &r.Labels
	case *model.Node:
		return &r.Labels
	case *model.NetworkSet:
		return &r.Labels
	}
	return nil
}

// labelled are the kinds whose resources have labels.
func labelled(kind model.Kind) bool {
	switch kind {
	case model.KindHostEndpoint, model.KindWorkloadEndpoint, model.KindProfile, model.KindNode, model.KindNetworkSet:
		return true
	default:
		return false
	}
}
