package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/printer"
)

func newExplain(env *Env) *cobra.Command {
	var out outputFlag
	cmd := &cobra.Command{
		Use:   "explain KIND[.FIELD...]",
		Short: "Explain the fields of a kind of resource",
		Long: `List the fields of a kind of resource, or of one of its fields, with what they can be.
It needs no datastore. Kinds that both versions have are explained as v1 has them, unless
--api-version asks for projectcalico.org/v3.`,
		Example: `  # Which fields does a pool have?
  calicoctl explain ipPool.spec

  # What can a rule of a global network policy do?
  calicoctl explain gnp.spec.ingress.action`,
		Args: atMost(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := need(args, "KIND"); err != nil {
				return err
			}
			if err := out.check(); err != nil {
				return err
			}
			return env.explain(args[0], out)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var kinds []string
			for _, k := range env.registry.Kinds() {
				kinds = append(kinds, k.Name)
			}
			return startingWith(kinds, typed), cobra.ShellCompDirectiveNoFileComp
		},
	}
	env.dialectFlag(cmd)
	out.flag(cmd)
	return cmd
}

// explained is the result of "explain" for programs.
type explained struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"`
	ReadOnly   string           `json:"readOnly,omitempty"`
	Field      string           `json:"field,omitempty"`
	Type       string           `json:"type"`
	Value      string           `json:"value,omitempty"`
	Fields     []manifest.Field `json:"fields,omitempty"`
}

func (env *Env) explain(what string, out outputFlag) error {
	path := strings.Split(what, ".")
	kind, err := env.kindNamed(path[0])
	if err != nil {
		return err
	}
	field, within, err := manifest.Explain(kind, path[1:])
	if err != nil {
		return usagef("%s", err)
	}
	if out.json() {
		return writeJSON(env.Stdout, explained{
			APIVersion: kind.APIVersion, Kind: kind.Name, ReadOnly: kind.ReadOnly,
			Field: strings.Join(path[1:], "."), Type: field.Type, Value: field.Note, Fields: within,
		})
	}
	fmt.Fprintf(env.Stdout, "KIND:     %s\nVERSION:  %s\n", kind.Name, kind.APIVersion)
	if kind.ReadOnly != "" {
		fmt.Fprintf(env.Stdout, "NOTE:     %s\n", kind.ReadOnly)
	}
	if len(path) > 1 {
		fmt.Fprintf(env.Stdout, "FIELD:    %s (%s)\n", strings.Join(path[1:], "."), field.Type)
		if field.Note != "" {
			fmt.Fprintf(env.Stdout, "VALUE:    %s\n", field.Note)
		}
	}
	if len(within) == 0 {
		return nil
	}
	fmt.Fprintln(env.Stdout)
	rows := [][]string{{"FIELD", "TYPE", "VALUE"}}
	for _, f := range within {
		rows = append(rows, []string{f.Name, f.Type, f.Note})
	}
	return printer.WriteTable(env.Stdout, rows)
}
