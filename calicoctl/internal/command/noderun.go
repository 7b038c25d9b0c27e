package command

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/calicoctl/internal/node/hostplugin"
	"calico.internal/calicoctl/internal/node/launch"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/nodename"
	"calico.internal/libcalico/version"
)

// defaultImage is what runs unless something else is asked for: of the version of this calicoctl.
var defaultImage = "calico/node:" + version.Version

func newNodeRun(env *Env) *cobra.Command {
	var o launch.Options
	var out string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Start the container calico-node on this host",
		Long: `Start the container calico-node on this host, and wait until every service in it is ready.

Nothing is changed until all of this holds: the engine answers; the image is here, or can be
pulled, and is ours; addresses are this host's; the port of BGP is free; and the start-up in
a container of the new image, which only looks, says that it would be done.

A calico-node that runs already is then stopped in order and replaced; traffic flows on
meanwhile. It is kept until the new one is ready: if that fails, or does not become ready in
time, the former one runs again, and the command says why and ends with 1.

Secrets (etcd's password, and what --env gives a name like PASSWORD, TOKEN or SECRET) stand in
` + launch.SecretsFile + ` (mode 0600), not in the command line. The folders of etcd's
certificates are mounted, so that renewed files are seen.

With --plugin=host, Docker's plugin is no program of the container but a systemd service of
this host, made of the image's program (` + hostplugin.Program + `): an engine that starts finds it
there, rather than wait for a container that it must start itself, and calls wait in its
sockets while it is replaced. It goes by --plugin=container, and by "node stop --purge".

With --dryrun, only show how it would be started: as a docker command, or as a compose file
or a systemd unit, none of which hold secrets.`,
		Example: `  # Run a node with an address and a name.
  calicoctl node run --ip=172.17.8.100 --name node00

  # Only show the docker command.
  calicoctl node run --dryrun

  # Found a cluster with a pool of its own, and let felix log more.
  calicoctl node run --ipv4pool-cidr=10.64.0.0/12 --felix LogSeverityScreen=debug

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
	cmd.Flags().StringVarP(&out, "output", "o", "", "output `format`: json; with --dryrun also compose or systemd; without it, text")
	mustComplete(cmd, "output", runFormats)
	runFlags(cmd, &o)
	return cmd
}

// runFlags are the options of a container calico-node.
func runFlags(cmd *cobra.Command, o *launch.Options) {
	f := cmd.Flags()
	f.StringVar(&o.Name, "name", "", "`name` of this node (default: NODENAME, then the host's name)")
	f.StringVar(&o.IP, "ip", "", "IPv4 `address` of this node, with or without its subnet, autodetect, or none")
	f.StringVar(&o.IP6, "ip6", "", "IPv6 `address` of this node, with or without its subnet, autodetect, or none")
	f.StringVar(&o.AS, "as", "", "AS `number` of this node (default: the cluster's)")
	f.StringVar(&o.IPMethod, "ip-autodetection-method", "", "how the IPv4 address is found: first-found, interface=REGEX, skip-interface=REGEX, can-reach=HOST or cidr=CIDR; by default that by which etcd is reached, else the first that is found")
	f.StringVar(&o.IP6Method, "ip6-autodetection-method", "", "how the IPv6 address is found")
	f.StringVar(&o.LogDir, "log-dir", launch.DefaultLogDir, "`directory` of this host for the logs")
	f.StringVar(&o.Image, "node-image", defaultImage, "`image` to run")
	f.StringVar(&o.Backend, "backend", "gobgp", "BGP backend: gobgp, bird (the same) or none")
	f.BoolVar(&o.NoDefaultPools, "no-default-ippools", false, "make no default pools")
	f.StringVar(&o.Pool4.CIDR, "ipv4pool-cidr", "", "`range` of the default IPv4 pool, which a cluster gets that has none (default 192.168.0.0/16)")
	f.StringVar(&o.Pool4.BlockSize, "ipv4pool-block-size", "", "`length` of the prefixes of that pool's blocks, of which each node takes its own (default 26)")
	f.StringVar(&o.Pool4.NodeSelector, "ipv4pool-node-selector", "", "`selector` of the nodes that take blocks of that pool (default all())")
	f.StringVar(&o.Pool4.NATOutgoing, "ipv4pool-nat-outgoing", "", "whether that pool's addresses are hidden behind their host's towards others (default true)")
	f.StringVar(&o.Pool4.IPIP, "ipv4pool-ipip", "", "IP-in-IP of that pool: off, always or cross-subnet (default off)")
	f.StringVar(&o.Pool6.CIDR, "ipv6pool-cidr", "", "`range` of the default IPv6 pool (default fd80:24e2:f998:72d6::/64)")
	f.StringVar(&o.Pool6.BlockSize, "ipv6pool-block-size", "", "`length` of the prefixes of that pool's blocks (default 122)")
	f.StringVar(&o.Pool6.NodeSelector, "ipv6pool-node-selector", "", "`selector` of the nodes that take blocks of that pool (default all())")
	f.StringVar(&o.Pool6.NATOutgoing, "ipv6pool-nat-outgoing", "", "whether that pool's addresses are hidden behind their host's (default false)")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "further variable `NAME=VALUE` of the container, or NAME to take it from the environment; may be repeated")
	f.StringArrayVar(&o.Felix, "felix", nil, "parameter `NAME=VALUE` of felix, such as LogSeverityScreen=debug; may be repeated")
	f.BoolVar(&o.Force, "force", false, "take the node's name from another host that has it")
	f.DurationVar(&o.Timeout, "timeout", launch.DefaultTimeout, "how long the start-up, and after it the services, may each take")
	f.BoolVar(&o.DryRun, "dryrun", false, "show the docker command and do nothing")
	f.BoolVar(&o.InitSystem, "init-system", false, "run in the foreground, as an init system wants it")
	f.BoolVar(&o.Privileged, "privileged", false, "start the container with --privileged rather than with single capabilities")
	f.BoolVar(&o.DisableDockerNetworking, "disable-docker-networking", false, "do not serve Docker's networks")
	f.StringVar(&o.Plugin, "plugin", launch.PluginInContainer, "`where` Docker's plugin runs: container, or host, as a systemd service that is there before Docker's engine")
	mustComplete(cmd, "plugin", []string{launch.PluginInContainer, launch.PluginOnHost})
	f.StringVar(&o.IfPrefix, "docker-networking-ifprefix", "cali", "`prefix` of the interfaces inside containers")
	f.BoolVar(&o.UseLabels, "use-docker-networking-container-labels", false, "give endpoints the labels org.projectcalico.label.* of their containers, and no profile")
	mustComplete(cmd, "felix", launch.FelixParameters())
	mustComplete(cmd, "backend", []string{"gobgp", "bird", "none"})
	mustComplete(cmd, "ipv4pool-ipip", []string{"off", "always", "cross-subnet"})
}

// The output formats of "node run".
const (
	formatJSON    = "json"
	formatCompose = "compose"
	formatSystemd = "systemd"
)

var runFormats = []string{formatJSON, formatCompose, formatSystemd}

func (env *Env) runNode(cmd *cobra.Command, o launch.Options, out string) error {
	for i, name := range o.Env {
		if value := env.Getenv(name); !strings.Contains(name, "=") && value != "" {
			o.Env[i] = name + "=" + value
		}
	}
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
	o.BootFile = env.Getenv(hostrecord.BootFileVariable)
	if err := o.Probe(cmd.Context(), etcd); err != nil {
		return err
	}
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
	ready, err := launch.Run(cmd.Context(), progress, o, etcd)
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
		return err
	case formatSystemd:
		_, err = io.WriteString(env.Stdout, launch.Unit(o, etcd))
	default:
		env.showCommand(o, command)
	}
	if names := launch.SecretNames(o, etcd); len(names) > 0 {
		fmt.Fprintf(env.Stderr, "%s must stand in %s, as NAME=VALUE and readable by root alone; calicoctl node prepare puts etcd's password of calicoctl.cfg there.\n",
			strings.Join(names, ", "), launch.SecretsFile)
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
	fmt.Fprintf(env.Stdout, "Use the following command to start the calico/node container:\n\n%s\n\n", launch.Shell(command))
	if o.InitSystem {
		fmt.Fprintf(env.Stdout, "Use the following command to stop the calico/node container:\n\ndocker stop %s\n\n", launch.ContainerName)
		return
	}
	fmt.Fprintf(env.Stdout, "If you are running calico/node in an init system, use the --init-system flag\nto show the appropriate start and stop commands.\n")
}
