package command

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/calicoctl/internal/node/launch"
	"calico.internal/calicoctl/internal/node/logs"
)

func newNodeStop(env *Env) *cobra.Command {
	var purge, force bool
	var image string
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "Stop calico-node on this host; traffic flows on",
		Long: `Stop calico-node on this host in order: the plugin first answers the calls of Docker's engine
that it has begun. Everything that traffic needs stays in the kernel. A plugin that is a service
of this host (node run --plugin=host) serves on: Docker's engine would wait for it.

With --purge, this host ceases to be a node: the container, routes, rules, sets, and what the
host remembers of itself are removed, and so is the plugin's service; logs stay. That is refused while containers are on
Calico's networks.`,
		Example: `  calicoctl node stop

  # Take everything away.
  calicoctl node stop --purge`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if force && !purge {
				return usagef("--force is for --purge")
			}
			if purge {
				return executing(launch.Purge(cmd.Context(), env.Stdout, image, force))
			}
			return executing(launch.Stop(cmd.Context(), env.Stdout))
		},
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "take away from this host all that Calico has put there, but for logs")
	cmd.Flags().BoolVar(&force, "force", false, "with --purge, cut off containers that are on Calico's networks")
	cmd.Flags().StringVar(&image, "node-image", defaultImage, "with --purge, the `image` that removes, if there is no container any more")
	return cmd
}

func newNodeUpgrade(env *Env) *cobra.Command {
	var u launch.Upgrading
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Replace calico-node on this host by one of another image",
		Long: `Replace calico-node on this host by one of another image, with the same arguments as the
container has; a plugin that is a service of this host gets the image's program, too. What "node run" looks at before, and how it swaps and goes back, holds here, too.`,
		Example: `  # To the version of this calicoctl.
  calicoctl node upgrade

  # To another image.
  calicoctl node upgrade --node-image=registry.example/calico/node:v0.2.0`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return executing(launch.Upgrade(cmd.Context(), env.Stdout, u))
		},
	}
	cmd.Flags().StringVar(&u.Image, "node-image", defaultImage, "`image` to run")
	cmd.Flags().DurationVar(&u.Timeout, "timeout", launch.DefaultTimeout, "how long the start-up, and after it the services, may each take")
	return cmd
}

func newNodeLogs(env *Env) *cobra.Command {
	var o logs.Options
	cmd := &cobra.Command{
		Use:   "logs [PROGRAM]",
		Short: "Show what the programs of this host have logged",
		Long: `Show what a program of this host has logged, from its oldest file on; without a name, what
all have, in the order of time. Times are UTC. What the container's first process says, its
start-up above all, is in: docker logs calico-node.`,
		Example: `  # The last 100 entries of all programs, and what comes.
  calicoctl node logs -n 100 -f

  calicoctl node logs felix`,
		Args: atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return executing(env.showLogs(cmd, o, args))
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			programs, _ := logs.Programs(o.Dir)
			if len(args) > 0 {
				programs = nil
			}
			return programs, cobra.ShellCompDirectiveNoFileComp
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "go on with what is logged")
	f.IntVarP(&o.Tail, "tail", "n", -1, "show only the last `N` entries")
	f.StringVar(&o.Dir, "log-dir", launch.DefaultLogDir, "`directory` with Calico's logs")
	return cmd
}

func (env *Env) showLogs(cmd *cobra.Command, o logs.Options, args []string) error {
	programs, err := logs.Programs(o.Dir)
	if err != nil {
		return fmt.Errorf("there are no logs: %w; has calico-node run on this host? (--log-dir names another directory)", err)
	}
	width := 0
	o.Programs = programs
	if len(args) > 0 {
		if o.Programs = args[:1]; !slices.Contains(programs, args[0]) {
			return fmt.Errorf("%s has no log in %s: there are those of %s%s", args[0], o.Dir, cmp.Or(strings.Join(programs, ", "), "no program"), tree.DidYouMean(args[0], programs))
		}
	} else {
		for _, p := range programs {
			width = max(width, len(p))
		}
	}
	return logs.Read(cmd.Context(), o, func(e logs.Entry) error {
		if width == 0 {
			_, err := fmt.Fprintln(env.Stdout, e.Text)
			return err
		}
		for line := range strings.Lines(e.Text + "\n") {
			if _, err := fmt.Fprintf(env.Stdout, "%-*s | %s", width, e.Program, line); err != nil {
				return err
			}
		}
		return nil
	})
}

func newNodePrepare(env *Env) *cobra.Command {
	var logDir string
	cmd := &cobra.Command{
		Use:   "prepare",
		Short: "Prepare this host for calico-node, without starting it",
		Long: `Prepare this host for calico-node, without starting it: make directories, load kernel modules,
forward IPv4, and write etcd's password, if calicoctl.cfg or the environment has one, to
` + launch.SecretsFile + `. "node run" does so itself; this is for what starts the container
otherwise, such as the unit of "node run --dryrun -o systemd", which calls it.`,
		Example: `  calicoctl node prepare`,
		Args:    atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := env.Config()
			if err != nil {
				return executing(err)
			}
			if err := launch.Prepare(cmd.Context(), env.Stdout, logDir); err != nil {
				return executing(err)
			}
			return executing(launch.KeepSecret("ETCD_PASSWORD", cfg.Etcd.Password))
		},
	}
	cmd.Flags().StringVar(&logDir, "log-dir", launch.DefaultLogDir, "`directory` of this host for the logs")
	return cmd
}
