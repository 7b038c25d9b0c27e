package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/calicoctl/internal/node/launch"
	"calico.internal/calicoctl/internal/node/startup"
	"calico.internal/calicoctl/internal/node/status"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/nodename"
	"calico.internal/libcalico/version"
)

// runDirectory is where the programs of a host have their sockets.
const runDirectory = "/var/run/calico"

// NewNode makes the commands about this host.
func NewNode(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run calico/node on this host and see how it is",
		RunE:  group,
		Args:  cobra.ArbitraryArgs,
	}
	cmd.AddCommand(newNodeRun(env), newNodeStatus(env), newNodeCheckSystem(env), newNodeDiags(env), newNodeStartup(env))
	return cmd
}

func newNodeRun(env *Env) *cobra.Command {
	var o launch.Options
	var out string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Start the container calico-node on this host",
		Long: "Prepare this host, start the container calico-node on it, and wait until every service\n" +
			"in it is ready. A calico-node that runs already is replaced; traffic flows on meanwhile.\n" +
			"With --dryrun, only show how it would be started: as a docker command, or as a compose file\n" +
			"or a systemd unit, both of which hold etcd's password if there is one.",
		Example: `  # Run a node with an address and a name.
  calicoctl node run --ip=172.17.8.100 --name node00

  # Only show the docker command.
  calicoctl node run --dryrun

  # Let systemd run it.
  calicoctl node run --dryrun -o systemd > /etc/systemd/system/calico-node.service`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out != "" && !slices.Contains(runFormats, out) {
				return usagef("unknown output format %q: expected %s%s", out, tree.OneOf(runFormats), tree.DidYouMean(out, runFormats))
			}
			if (out == formatCompose || out == formatSystemd) && !o.DryRun {
				return usagef("--output=%s is for --dryrun, which shows how the container would be started", out)
			}
			return executing(env.runNode(cmd, o, out))
		},
	}
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", "", "output `format`: json; with --dryrun also compose or systemd; without it, text")
	mustComplete(cmd, "output", runFormats)
	f.StringVar(&o.Name, "name", "", "`name` of this node (default: NODENAME, then the host's name)")
	f.StringVar(&o.IP, "ip", "", "IPv4 `address` of this node, with or without its subnet, or autodetect")
	f.StringVar(&o.IP6, "ip6", "", "IPv6 `address` of this node, with or without its subnet, or autodetect")
	f.StringVar(&o.AS, "as", "", "AS `number` of this node (default: the cluster's)")
	f.StringVar(&o.IPMethod, "ip-autodetection-method", "first-found", "how the IPv4 address is found: first-found, interface=REGEX, skip-interface=REGEX, can-reach=HOST or cidr=CIDR")
	f.StringVar(&o.IP6Method, "ip6-autodetection-method", "first-found", "how the IPv6 address is found")
	f.StringVar(&o.LogDir, "log-dir", "/var/log/calico", "`directory` of this host for the logs")
	f.StringVar(&o.Image, "node-image", "calico/node:"+version.Version, "`image` to run")
	f.StringVar(&o.Backend, "backend", "gobgp", "BGP backend: gobgp, bird (the same) or none")
	f.BoolVar(&o.NoDefaultPools, "no-default-ippools", false, "make no default pools")
	f.BoolVar(&o.DryRun, "dryrun", false, "show the docker command and do nothing")
	f.BoolVar(&o.InitSystem, "init-system", false, "run in the foreground, as an init system wants it")
	f.BoolVar(&o.Privileged, "privileged", false, "start the container with --privileged rather than with single capabilities")
	f.BoolVar(&o.DisableDockerNetworking, "disable-docker-networking", false, "do not serve Docker's networks")
	f.StringVar(&o.IfPrefix, "docker-networking-ifprefix", "cali", "`prefix` of the interfaces inside containers")
	f.BoolVar(&o.UseLabels, "use-docker-networking-container-labels", false, "give endpoints the labels org.projectcalico.label.* of their containers, and no profile")
	return cmd
}

// The output formats of "node run".
const (
	formatJSON    = "json"
	formatCompose = "compose"
	formatSystemd = "systemd"
)

var runFormats = []string{formatJSON, formatCompose, formatSystemd}

func (env *Env) runNode(cmd *cobra.Command, o launch.Options, out string) error {
	if err := o.Validate(); err != nil {
		return err
	}
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	etcd, err := cfg.Resolve(cmd.Context())
	if err != nil {
		return err
	}
	o.Name, err = nodename.Resolve(o.Name, env.Getenv)
	if err != nil {
		return err
	}
	o.Probe(cmd.Context())
	if o.DryRun {
		return env.showNode(o, etcd, out)
	}
	if err := checkStore(cmd, etcd); err != nil {
		return err
	}
	progress := env.Stdout
	if out == formatJSON {
		progress = env.Stderr // the result alone is for programs
	}
	ready, err := launch.Run(cmd.Context(), progress, o, launch.Command(o, etcd))
	if err != nil || out != formatJSON {
		return err
	}
	return writeJSON(env.Stdout, struct {
		Node      string   `json:"node"`
		Container string   `json:"container"`
		Image     string   `json:"image"`
		Ready     []string `json:"ready"`
	}{o.Name, launch.ContainerName, o.Image, ready})
}

// showNode shows how the container would be started.
func (env *Env) showNode(o launch.Options, etcd etcdstore.Config, out string) (err error) {
	command := launch.Command(o, etcd)
	switch out {
	case formatJSON:
		return writeJSON(env.Stdout, struct {
			Start []string `json:"start"`
			Stop  []string `json:"stop"`
		}{command, []string{"docker", "stop", launch.ContainerName}})
	case formatCompose:
		_, err = io.WriteString(env.Stdout, launch.Compose(o, etcd))
	case formatSystemd:
		_, err = io.WriteString(env.Stdout, launch.Unit(o, etcd))
	default:
		env.showCommand(o, command)
	}
	return err
}

// checkStore makes sure that there is a store before anything on the host is
// changed.
func checkStore(cmd *cobra.Command, etcd etcdstore.Config) error {
	client, err := etcdstore.New(etcd)
	if err != nil {
		return err
	}
	defer client.Close() //nolint:errcheck // only asked
	return client.Ping(cmd.Context())
}

func (env *Env) showCommand(o launch.Options, command []string) {
	fmt.Fprintf(env.Stdout, "Use the following command to start the calico/node container:\n\n%s\n\n", launch.Shell(command, false))
	if o.InitSystem {
		fmt.Fprintf(env.Stdout, "Use the following command to stop the calico/node container:\n\ndocker stop %s\n\n", launch.ContainerName)
		return
	}
	fmt.Fprintf(env.Stdout, "If you are running calico/node in an init system, use the --init-system flag\nto show the appropriate start and stop commands.\n")
}

func newNodeStatus(env *Env) *cobra.Command {
	var output, runDir string
	all := false
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether the services of this host run, and its BGP sessions",
		Long: "Show whether the services of this host run, and its BGP sessions. With --all, show how all\n" +
			"nodes are, by what their services keep in the datastore while they live. Ends with 1\n" +
			"when a service does not run or is degraded.",
		Example: `  # Show this host.
  calicoctl node status

  # Show all nodes.
  calicoctl node status --all`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return usagef("unknown output format %q: expected json", output)
			}
			if all {
				return env.statusOfAll(cmd, output == "json")
			}
			s, err := status.Read(cmd.Context(), runDir)
			if err != nil {
				return executing(err)
			}
			if output == "json" {
				err = s.PrintJSON(env.Stdout)
			} else {
				err = s.Print(env.Stdout, time.Now())
			}
			if err == nil && !s.Healthy() {
				return &statusError{code: exitFailed}
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "output `format`: json")
	cmd.Flags().StringVar(&runDir, "run-dir", runDirectory, "`directory` of the services' sockets")
	cmd.Flags().BoolVar(&all, "all", false, "show all nodes, as the datastore knows them")
	return cmd
}

func newNodeStartup(env *Env) *cobra.Command {
	var runDir, stateDir string
	cmd := &cobra.Command{
		Use:    "startup",
		Short:  "What the container calico-node does first",
		Hidden: true,
		Args:   atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			etcd, err := etcdstore.ConfigFromEnv(env.Getenv)
			if err != nil {
				return err
			}
			dir, err := os.Getwd()
			if err != nil {
				return err
			}
			err = startup.Run(cmd.Context(), startup.Config{
				Getenv: env.Getenv, Out: env.Stdout, Version: version.Version,
				RunDir: runDir, EnvFile: filepath.Join(dir, "startup.env"), StateDir: stateDir, Running: localnet.Running, Store: etcd,
			})
			if err != nil {
				// One line, and the line that the original ended with.
				fmt.Fprintln(env.Stdout, strings.ReplaceAll(err.Error(), "\n", "\n  "))
				return errors.New("Terminating")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&runDir, "run-dir", runDirectory, "`directory` for the file nodename")
	cmd.Flags().StringVar(&stateDir, "state-dir", hostrecord.Dir(env.Getenv), "`directory` for what this host remembers of itself, node.json")
	return cmd
}
