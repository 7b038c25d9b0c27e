package command

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

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
			var kinds []string
			for _, k := range env.registry.Kinds() {
				if !slices.ContainsFunc(kinds, func(name string) bool { return strings.EqualFold(name, k.Name) }) {
					kinds = append(kinds, k.Name)
				}
			}
			return startingWith(kinds, typed), cobra.ShellCompDirectiveNoFileComp
		}
		return startingWith(env.liveNames(cmd, ids, args), typed), cobra.ShellCompDirectiveNoFileComp
	}
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
		entries, _, err := s.List(ctx, kind.Model, func(k model.Key) bool { return ids.matches(k) })
		for _, e := range entries {
			if !kind.OwnedBy(e.Key) {
				continue
			}
			if n := shownName(kind, e.Key, e.Value); !slices.Contains(args[1:], n) {
				names = append(names, n)
			}
		}
		return err
	})
	if err != nil {
		return nil
	}
	return names
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
