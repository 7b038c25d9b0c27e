package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/felix/internal/config"
	"calico.internal/felix/internal/daemon"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nodename"
	"calico.internal/libcalico/store"
	"calico.internal/libcalico/version"
)

// The exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// environment is all that the program takes from its surroundings.
type environment struct {
	lookup         func(string) string
	all            []string
	readFile       func(string) ([]byte, error)
	stdout, stderr io.Writer
}

// flags are the command line's; each also has an environment variable.
type flags struct {
	runDir, stateDir, configFile, logFormat            string
	etcdEndpoints, etcdCA, etcdCert, etcdKey, etcdUser string
	nodeName                                           string
	// localOnly leaves etcd out where parameters are printed.
	localOnly bool
}

// errUsage marks a mistake on the command line.
var errUsage = errors.New("usage")

// run is the program; it returns its exit code.
func run(ctx context.Context, args []string, env environment) int {
	root := newCommand(env) //nolint:contextcheck // cobra hands the context to the commands
	root.SetArgs(args)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintf(env.stderr, "calico-felix: %v\n", err)
		return exitUsage
	}
	fmt.Fprintf(env.stderr, "calico-felix: %v\n", err)
	return exitFailed
}

func newCommand(env environment) *cobra.Command {
	var f flags
	root := &cobra.Command{
		Use:   "calico-felix",
		Short: "Keeps a host's container routes and firewall rules as etcd says",
		Long: "calico-felix is Calico's agent on each host. From what is in etcd it programs the routes to this\n" +
			"host's containers and the rules that police them, and reports whether they are in force.",
		SilenceUsage: true, SilenceErrors: true,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDaemon(cmd.Context(), env, f) },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	root.CompletionOptions.HiddenDefaultCmd = true
	f.register(root, env)
	root.AddCommand(
		&cobra.Command{
			Use: "run", Short: "Run the agent (the default)", Args: noArguments,
			RunE: func(cmd *cobra.Command, _ []string) error { return runDaemon(cmd.Context(), env, f) },
		},
		configCommand(env, &f),
		&cobra.Command{
			Use: "cleanup", Short: "Remove all routes, rules and sets of felix from this host", Args: noArguments,
			Long: "Removes all that felix keeps in the kernel: routes and neighbour entries of containers, the gateway\n" +
				"address, chains and hooks in both variants of iptables, and IP sets. Containers are cut off, and the\n" +
				"host is open. Stop felix first.",
			RunE: func(cmd *cobra.Command, _ []string) error { return cleanup(cmd.Context(), env, f) },
		},
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: noArguments,
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Fprintln(env.stdout, version.String())
				return err
			},
		},
	)
	return root
}

func configCommand(env environment, f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Print the effective parameters and where each came from", Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return printConfig(cmd.Context(), env, *f) },
	}
	cmd.Flags().BoolVar(&f.localOnly, "local", false, "leave out the parameters in etcd")
	return cmd
}

func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: unknown command or argument %q; see calico-felix --help", errUsage, args[0])
	}
	return nil
}

func (f *flags) register(cmd *cobra.Command, env environment) {
	add := func(to *string, name, variable, def, usage string) {
		if v := env.lookup(variable); v != "" {
			def = v
		}
		cmd.PersistentFlags().StringVar(to, name, def, usage+" ("+variable+")")
	}
	add(&f.runDir, "run-dir", "CALICO_RUN_DIR", "/var/run/calico", "directory of the socket felix.sock")
	add(&f.stateDir, "state-dir", hostrecord.DirVariable, hostrecord.DefaultDir, "directory of what this host remembers, node.json")
	add(&f.configFile, "config-file", "FELIX_CONFIGFILE", "/etc/calico/felix.cfg", "file with parameters; may be absent")
	add(&f.logFormat, "log-format", "CALICO_LOG_FORMAT", "text", "format of the log on stderr: text or json")
	add(&f.nodeName, "node-name", "FELIX_FELIXHOSTNAME", "", "name of this host in etcd; else NODENAME, /var/run/calico/nodename, the host's name")
	add(&f.etcdEndpoints, "etcd-endpoints", "ETCD_ENDPOINTS", "", "URLs of etcd, separated by commas")
	add(&f.etcdCA, "etcd-ca-cert-file", "ETCD_CA_CERT_FILE", "", "certificates that etcd's is checked against")
	add(&f.etcdCert, "etcd-cert-file", "ETCD_CERT_FILE", "", "certificate that felix shows to etcd")
	add(&f.etcdKey, "etcd-key-file", "ETCD_KEY_FILE", "", "key of that certificate")
	add(&f.etcdUser, "etcd-username", "ETCD_USERNAME", "", "user of etcd; the password is in ETCD_PASSWORD")
}

// sources reads the parameters that are not in etcd.
func sources(env environment, f flags) (config.Sources, []string, error) {
	src := config.Sources{Environment: config.FromEnvironment(env.all)}
	// Names that the command line knows are no parameters.
	maps.DeleteFunc(src.Environment, func(name, _ string) bool { return strings.EqualFold(name, "CONFIGFILE") })
	text, err := env.readFile(f.configFile)
	if errors.Is(err, fs.ErrNotExist) {
		return src, nil, nil
	}
	if err != nil {
		return src, nil, fmt.Errorf("read parameters: %w", err)
	}
	values, warnings := config.ParseFile(string(text))
	for i, w := range warnings {
		warnings[i] = f.configFile + ": " + w
	}
	src.File = values
	return src, warnings, nil
}

func runDaemon(ctx context.Context, env environment, f flags) error {
	src, warnings, err := sources(env, f)
	if err != nil {
		return err
	}
	resolved, err := config.Resolve(src)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if f.logFormat != logattr.FormatText && f.logFormat != logattr.FormatJSON {
		return fmt.Errorf("%w: log format %q: want text or json", errUsage, f.logFormat)
	}
	level := &slog.LevelVar{}
	log := logattr.New(env.stderr, level, f.logFormat)
	for _, w := range warnings {
		log.Warn("configuration", "warning", w)
	}
	node, client, err := connect(env, f, &resolved.Config)
	if err != nil {
		return err
	}
	defer client.Close() //nolint:errcheck // the program ends
	record, _, err := hostrecord.Read(f.stateDir)
	if err != nil {
		log.Warn("this host does not know which cluster it belongs to", logattr.Err, err)
	}
	host, err := hostrecord.Identity(f.stateDir, env.lookup)
	if err != nil {
		log.Warn("this host has no identity: another one of the same name is not noticed", logattr.Err, err)
	}
	d, err := daemon.New(daemon.Config{
		Node: node, RunDir: f.runDir, Environment: src.Environment, File: src.File,
		Etcd: client, ClusterGUID: record.ClusterGUID, Host: host, Log: log, Level: level,
	})
	if err != nil {
		return err
	}
	return d.Run(ctx)
}

// connect finds out this host's name in etcd and makes a client, without waiting for the
// server.
func connect(env environment, f flags, c *config.Config) (node string, client *etcdstore.Client, err error) {
	name := f.nodeName
	if name == "" {
		name = c.FelixHostname
	}
	if node, err = nodename.Resolve(name, env.lookup); err != nil {
		return "", nil, err
	}
	server, err := etcdConfig(env, f, c)
	if err != nil {
		return "", nil, err
	}
	client, err = etcdstore.New(server)
	return node, client, err
}

// etcdConfig takes etcd's address from the command line or ETCD_…, and else from felix's
// own parameters.
func etcdConfig(env environment, f flags, c *config.Config) (etcdstore.Config, error) {
	out, err := etcdstore.ConfigFromEnv(func(name string) string {
		switch name {
		case "ETCD_ENDPOINTS":
			return f.etcdEndpoints
		case "ETCD_CA_CERT_FILE":
			return f.etcdCA
		case "ETCD_CERT_FILE":
			return f.etcdCert
		case "ETCD_KEY_FILE":
			return f.etcdKey
		case "ETCD_USERNAME":
			return f.etcdUser
		}
		return env.lookup(name)
	})
	if err != nil {
		return out, err
	}
	if len(out.Endpoints) == 0 {
		out.Endpoints = c.EtcdEndpoints
	}
	if len(out.Endpoints) == 0 {
		out.Endpoints = []string{c.EtcdScheme + "://" + c.EtcdAddr}
	}
	fill(&out.CACertFile, c.EtcdCaFile)
	fill(&out.CertFile, c.EtcdCertFile)
	fill(&out.KeyFile, c.EtcdKeyFile)
	fill(&out.Username, c.EtcdUsername)
	fill(&out.Password, c.EtcdPassword)
	return out, out.Check()
}

func fill(to *string, value string) {
	if *to == "" {
		*to = value
	}
}

// etcdTimeout is how long printing waits for etcd.
const etcdTimeout = 2 * time.Second

// readStored adds the parameters in etcd to those that are given.
func readStored(ctx context.Context, env environment, f flags, src *config.Sources) error {
	// Bad values are told when all sources are resolved.
	local, _ := config.Resolve(*src)
	node, client, err := connect(env, f, &local.Config)
	if err != nil {
		return err
	}
	defer client.Close() //nolint:errcheck // nothing was written
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	stored, _, _, err := client.List(ctx, model.KindFelixConfig, nil)
	if err != nil {
		return err
	}
	events := make([]store.Event, 0, len(stored))
	for _, e := range stored {
		events = append(events, store.Event{Key: e.Key, Value: e.Value})
	}
	src.Apply(node, events)
	return nil
}

func printConfig(ctx context.Context, env environment, f flags) error {
	src, warnings, err := sources(env, f)
	if err != nil {
		return err
	}
	if !f.localOnly {
		if err := readStored(ctx, env, f, &src); err != nil {
			warnings = append(warnings, "the parameters in etcd are left out: "+err.Error())
		}
	}
	result, err := config.Resolve(src)
	for _, w := range append(warnings, result.Warnings...) {
		fmt.Fprintf(env.stderr, "warning: %s\n", w)
	}
	w := tabwriter.NewWriter(env.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PARAMETER\tVALUE\tSOURCE")
	for _, v := range result.Values {
		fmt.Fprintf(w, "%s\t%s\t%s\n", v.Name, v.Value, v.Source)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return nil
}

func cleanup(ctx context.Context, env environment, f flags) error {
	src, _, err := sources(env, f)
	if err != nil {
		return err
	}
	result, err := config.Resolve(src)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return daemon.Cleanup(ctx, &result.Config, func(format string, args ...any) {
		fmt.Fprintf(env.stdout, format+"\n", args...)
	})
}
