package command

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/model"
)

// completeTimeout bounds how long the shell waits for names.
const completeTimeout = 2 * time.Second

type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeResources completes kinds, and then the names of existing resources.
func (env *Env) completeResources(ids *identifiers) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return startingWith(env.kindNames(), typed), cobra.ShellCompDirectiveNoFileComp
		}
		return startingWith(env.liveNames(cmd, ids, args), typed), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeKindLists is [Env.completeResources] with lists of kinds, with commas between
// them, which have no names.
func (env *Env) completeKindLists(ids *identifiers) completion {
	one := env.completeResources(ids)
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		at := strings.LastIndex(typed, ",") + 1
		if len(args) > 0 || at == 0 {
			return one(cmd, args, typed)
		}
		words := startingWith(env.kindNames(), typed[at:])
		for i, w := range words {
			words[i] = typed[:at] + w
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// kindNames is what kinds are called, each once.
func (env *Env) kindNames() []string {
	var kinds []string
	for _, k := range env.registry.Kinds() {
		if !slices.ContainsFunc(kinds, func(name string) bool { return strings.EqualFold(name, k.Name) }) {
			kinds = append(kinds, k.Name)
		}
	}
	return kinds
}

// liveNames is the names of the existing resources of a kind; none when the datastore
// does not answer at once.
func (env *Env) liveNames(cmd *cobra.Command, ids *identifiers, args []string) []string {
	kind, err := env.kindNamed(args[0])
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(context.Background()), completeTimeout)
	defer cancel()
	cmd.SetContext(ctx)
	var names []string
	err = env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
		all, err := existingNames(ctx, s, kind, ids)
		names = slices.DeleteFunc(all, func(n string) bool { return slices.Contains(args[1:], n) })
		return err
	})
	if err != nil {
		return nil
	}
	return names
}

// maxNames is with how many keys under which they may stand no names are completed: nobody
// reads so many.
const maxNames = 20000

// existingNames is what commands call the resources of a kind that have some identifiers.
func existingNames(ctx context.Context, s *resource.Store, kind *dialect.Kind, ids *identifiers) ([]string, error) {
	var names []string
	add := func(k model.Key, v model.Resource) {
		if kind.OwnedBy(k) && ids.matches(k) {
			names = append(names, shownName(kind, k, v))
		}
	}
	if kind.NameOf != nil && kind.KeyOf == nil { // the values hold the names
		entries, _, err := s.ListIn(ctx, kind.Model, ids.scoped(), nil)
		for _, e := range entries {
			add(e.Key, e.Value)
		}
		return names, err
	}
	keys, _, err := s.Keys(ctx, kind.Model, ids.scoped(), maxNames)
	for _, k := range keys {
		add(k, nil)
	}
	return names, err
}

func startingWith(words []string, typed string) []string {
	return slices.DeleteFunc(words, func(w string) bool {
		return !strings.HasPrefix(strings.ToLower(w), strings.ToLower(typed))
	})
}

// mustComplete gives a flag a fixed list of completions. (The only error is that
// there is no such flag.)
func mustComplete(cmd *cobra.Command, flag string, words []string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}
