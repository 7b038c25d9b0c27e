package command

import (
	"fmt"
	"log/slog"
	"slices"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/clientconfig"
	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/version"
)

var logLevels = []string{"panic", "fatal", "error", "warn", "info", "debug"}

// NewRoot returns the command calicoctl with all its commands; those that the
// builders make come beside the ones of this package.
func NewRoot(env *Env, more ...Builder) *cobra.Command {
	env.registry = manifest.NewRegistry()
	var logLevel string
	root := &cobra.Command{
		Use:   "calicoctl",
		Short: "Manage Calico for Docker",
		Long: "The calicoctl command line tool manages Calico network and security policy, views and\n" +
			"manages endpoint configuration, and runs and inspects Calico nodes.",
		Version:       version.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if !slices.Contains(logLevels, logLevel) {
				return usagef("unknown log level %q: expected %s", logLevel, tree.OneOf(logLevels))
			}
			level, err := logattr.ParseLevel(logLevel)
			env.log, env.traced = logattr.New(env.Stderr, level, logattr.FormatText), level <= slog.LevelDebug
			return err
		},
		RunE: group,
		Args: cobra.ArbitraryArgs,
	}
	root.SetVersionTemplate(fmt.Sprintf("calicoctl version %s, build %s\n", version.Version, version.Commit))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%s", err) })
	flags := root.PersistentFlags()
	flags.StringVarP(&logLevel, "log-level", "l", "panic", "set the log level (one of panic, fatal, error, warn, info, debug)")
	flags.StringVarP(&env.configPath, "config", "c", "",
		"`file` with connection configuration in YAML or JSON (default "+clientconfig.DefaultPath+")")
	builders := slices.Concat([]Builder{
		newCreate, newApply, newReplace, newDelete, newGet, newExplain, newConfig, newIPAM, newVersion,
	}, verbs(), more)
	for _, build := range builders {
		root.AddCommand(build(env))
	}
	root.SetHelpCommand(newHelp())
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		completion.Args, completion.RunE = cobra.ArbitraryArgs, group
	}
	return root
}

// newHelp is the command "calicoctl help": other than cobra's own, it fails when there
// is nothing to explain.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return group(cmd.Root(), args)
			}
			return found.Help()
		},
	}
}

// group is what a command does that only groups others: it explains itself, or says
// that there is no such command.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return usagef("unknown command %q for %q%s", args[0], cmd.CommandPath(), tree.DidYouMean(args[0], names))
}
