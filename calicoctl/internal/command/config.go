package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/resource"
)

const settingsHelp = `
 Name            | Scope       | Value
-----------------+-------------+----------------------------------------
 logLevel        | global,node | none,debug,info,warning,error,critical
 nodeToNodeMesh  | global      | on,off
 asNumber        | global      | 1-4294967294, or dotted such as 64512.1
 ipip            | global      | off (on is not served yet)

Names are case insensitive.`

func newConfig(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Manage system-wide and node-specific configuration",
		Long: "View and change configuration of felix and BGP. A setting that a node does not have of its\n" +
			"own is the global one there.\n" + settingsHelp,
		RunE: group,
		Args: cobra.ArbitraryArgs,
	}
	cmd.AddCommand(newConfigSet(env), newConfigGet(env), newConfigUnset(env))
	return cmd
}

// setting is what the three commands have in common: which setting is meant.
type setting struct {
	outputFlag

	node, raw string
}

// settingResult is a setting in JSON. Value is nil when it was unset.
type settingResult struct {
	Name      string  `json:"name"`
	Node      string  `json:"node,omitempty"`
	Component string  `json:"component,omitempty"`
	Value     *string `json:"value"`
}

// report says what a setting is, or was made, in JSON if that is asked for.
func (env *Env) reportSetting(st setting, known *resource.Setting, name string, value *string) error {
	if !st.json() {
		return nil
	}
	if known != nil {
		name = known.Name
	}
	return writeJSON(env.Stdout, settingResult{Name: name, Node: st.node, Component: st.raw, Value: value})
}

func (st *setting) flags(cmd *cobra.Command) {
	st.flag(cmd)
	cmd.Flags().StringVarP(&st.node, "node", "n", "", "the `node` whose own value is meant")
	cmd.Flags().StringVar(&st.raw, "raw", "", "NAME and VALUE are those of `component` (bgp or felix), and are taken as they are")
	mustComplete(cmd, "raw", []string{string(resource.BGP), string(resource.Felix)})
}

// find finds the setting by name; it is nil for a raw one.
func (st *setting) find(name string) (*resource.Setting, error) {
	if err := st.check(); err != nil {
		return nil, err
	}
	if st.raw != "" {
		if c := resource.Component(st.raw); c != resource.BGP && c != resource.Felix {
			return nil, usagef("unknown component %q: --raw is bgp or felix", st.raw)
		}
		return nil, nil
	}
	found, err := resource.FindSetting(name)
	if err != nil {
		return nil, usagef("%s", err)
	}
	if st.node != "" && !found.PerNode {
		return nil, usagef("%s is the same for all nodes, so --node has no meaning", found.Name)
	}
	return &found, nil
}

// need checks the number of arguments.
func need(args []string, names ...string) error {
	if len(args) < len(names) {
		return usagef("missing %s", strings.Join(names[len(args):], " and "))
	}
	return atMost(len(names))(nil, args)
}

func completeSettings(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if len(args) == 0 {
		for _, st := range resource.Settings() {
			names = append(names, st.Name)
		}
	}
	return startingWith(names, typed), cobra.ShellCompDirectiveNoFileComp
}

func newConfigSet(env *Env) *cobra.Command {
	var st setting
	cmd := &cobra.Command{
		Use:   "set NAME VALUE",
		Short: "Set a configuration value",
		Long:  "Set a configuration value.\n" + settingsHelp,
		Example: `  # Turn off the full BGP node-to-node mesh.
  calicoctl config set nodeToNodeMesh off

  # Set the log level of one node.
  calicoctl config set logLevel debug --node=node01

  # Set a felix parameter by its own name.
  calicoctl config set --raw=felix LogPrefix calico`,
		ValidArgsFunction: completeSettings,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(args, "NAME", "VALUE"); err != nil {
				return err
			}
			known, err := st.find(args[0])
			if err != nil {
				return err
			}
			if err := env.set(cmd, st, known, args[0], args[1]); err != nil {
				return executing(err)
			}
			return env.reportSetting(st, known, args[0], &args[1])
		},
	}
	st.flags(cmd)
	return cmd
}

func (env *Env) set(cmd *cobra.Command, st setting, known *resource.Setting, name, value string) error {
	if known == nil {
		return env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
			return s.SetRaw(ctx, resource.Component(st.raw), st.node, name, value)
		})
	}
	values, err := known.Parse(value)
	if err != nil {
		return err
	}
	return env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
		return s.Set(ctx, *known, st.node, values)
	})
}

func newConfigGet(env *Env) *cobra.Command {
	var st setting
	cmd := &cobra.Command{
		Use:   "get NAME",
		Short: "Show a configuration value",
		Long: "Show the value that holds: the node's own if --node is given, else the global one, else\n" +
			"the default.\n" + settingsHelp,
		Example: `  # Show the AS number of nodes that have none of their own.
  calicoctl config get asNumber`,
		ValidArgsFunction: completeSettings,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(args, "NAME"); err != nil {
				return err
			}
			known, err := st.find(args[0])
			if err != nil {
				return err
			}
			return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
				value, err := readSetting(ctx, s, st, known, args[0])
				switch {
				case err != nil:
					return err
				case st.json():
					return env.reportSetting(st, known, args[0], &value)
				}
				fmt.Fprintln(env.Stdout, value)
				return nil
			}))
		},
	}
	st.flags(cmd)
	return cmd
}

func readSetting(ctx context.Context, s *resource.Store, st setting, known *resource.Setting, name string) (string, error) {
	if known != nil {
		return s.Value(ctx, *known, st.node)
	}
	v, err := s.Raw(ctx, resource.Component(st.raw), st.node, name)
	if err != nil {
		return "", err
	}
	if v == nil {
		return "", fmt.Errorf("%s is not set", name)
	}
	return *v, nil
}

func newConfigUnset(env *Env) *cobra.Command {
	var st setting
	cmd := &cobra.Command{
		Use:   "unset NAME",
		Short: "Remove a configuration value",
		Long: "Remove a configuration value, so that the default holds again, or for a node the global\n" +
			"value.\n" + settingsHelp,
		Example: `  # Give a node the global log level again.
  calicoctl config unset logLevel --node=node01`,
		ValidArgsFunction: completeSettings,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(args, "NAME"); err != nil {
				return err
			}
			known, err := st.find(args[0])
			if err != nil {
				return err
			}
			return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
				var err error
				if known == nil {
					err = s.UnsetRaw(ctx, resource.Component(st.raw), st.node, args[0])
				} else {
					err = s.Unset(ctx, *known, st.node)
				}
				if err != nil {
					return err
				}
				return env.reportSetting(st, known, args[0], nil)
			}))
		},
	}
	st.flags(cmd)
	return cmd
}
