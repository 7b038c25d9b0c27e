package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/clientconfig"
	"calico.internal/calicoctl/internal/node/checksystem"
	"calico.internal/calicoctl/internal/node/diags"
	"calico.internal/calicoctl/internal/node/launch"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/calicoctl/internal/transfer"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/nodename"
)

func newNodeCheckSystem(env *Env) *cobra.Command {
	var out outputFlag
	var config, runDir string
	cmd := &cobra.Command{
		Use:   "checksystem",
		Short: "Check whether this host has what Calico needs",
		Long: `Check whether this host has what Calico needs. In a network namespace of its own, which
ends with the command, it tries what felix and the plugin do: rules, sets, connections,
interfaces, settings. It reads the host's own settings, and asks Docker's engine and etcd. Each
line says what was tried and what to do. It needs root; without, it says what the kernel's
files tell. With --kernel-config it only reads that file.

Ends with 0 when there are no faults (warnings may be), and with 1 when there are.`,
		Example: `  # Check this host.
  calicoctl node checksystem

  # Check a kernel by the file with its configuration.
  calicoctl node checksystem --kernel-config=/boot/config-6.1.0-9-amd64`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if config == "" {
				return env.printSystem(checksystem.Find(cmd.Context(), env.host(runDir)), out)
			}
			text, err := os.ReadFile(config)
			if err != nil {
				return executing(err)
			}
			return env.printKernel(checksystem.Check(os.DirFS("/"), text), out)
		},
	}
	cmd.Flags().StringVarP(&config, "kernel-config", "f", "", "`file` with the kernel's configuration, which then alone decides")
	cmd.Flags().StringVar(&runDir, "run-dir", runDirectory, "`directory` of the programs' sockets")
	out.flag(cmd)
	return cmd
}

// datastoreLimit bounds all questions to etcd of "node checksystem".
const datastoreLimit = 2500 * time.Millisecond

// host is this host, with its configured datastore.
func (env *Env) host(runDir string) checksystem.Host {
	return checksystem.Host{
		Root: os.DirFS("/"), Sys: "/proc/sys", RunDir: runDir, BGPPort: launch.BGPPortHolder,
		Datastore: func(ctx context.Context) []checksystem.Finding {
			cfg, err := env.Config()
			if err != nil {
				return checksystem.NoDatastore(err)
			}
			ctx, cancel := context.WithTimeout(ctx, datastoreLimit)
			defer cancel()
			etcd, err := cfg.Resolve(ctx)
			if err != nil {
				return checksystem.NoDatastore(err)
			}
			node, err := nodename.Resolve("", env.Getenv)
			if err != nil {
				return checksystem.NoDatastore(err)
			}
			return checksystem.Datastore(ctx, etcd, node, func(ctx context.Context) (*etcdstore.Client, error) { return Connect(ctx, cfg) })
		},
	}
}

const (
	notMet = "System does not meet minimum system requirements to run Calico"
	isMet  = "System meets minimum system requirements to run Calico!"
)

func (env *Env) printSystem(s checksystem.System, out outputFlag) error {
	if out.json() {
		if err := writeJSON(env.Stdout, s); err != nil {
			return err
		}
	} else if err := env.printFindings(s); err != nil {
		return err
	}
	if s.OK {
		return nil
	}
	var names []string
	for _, f := range s.In(checksystem.Fault) {
		names = append(names, f.Check)
	}
	return executing(fmt.Errorf("%s: %s", notMet, strings.Join(names, ", ")))
}

// printFindings writes a line for each thing, and what to do below it where there is something.
func (env *Env) printFindings(s checksystem.System) error {
	rows := [][]string{{"CHECK", "STATE", "TRIED", "FOUND"}}
	for _, f := range s.Checks {
		found := f.Found
		if f.Cure != "" { // where it is said in full
			found = "see below"
		}
		rows = append(rows, []string{f.Check, f.State, f.Tried, found})
	}
	if err := env.table(rows); err != nil {
		return err
	}
	for _, f := range s.Checks {
		if f.Cure != "" {
			fmt.Fprintf(env.Stdout, "%s: %s: %s\n   CURE: %s\n", strings.ToUpper(f.State), f.Check, f.Found, f.Cure)
		}
	}
	if s.OK {
		fmt.Fprintln(env.Stdout, isMet)
	}
	return nil
}

func (env *Env) printKernel(r checksystem.Report, out outputFlag) error {
	if out.json() {
		if err := writeJSON(env.Stdout, r); err != nil {
			return err
		}
	} else {
		rows := [][]string{{"NAME", "STATE", "NEEDED FOR", "HOW"}}
		for _, it := range r.Items {
			what := it.For
			if !it.Needed {
				what += " (optional)"
			}
			rows = append(rows, []string{it.Name, it.State, what, it.How})
		}
		if err := env.table(rows); err != nil {
			return err
		}
		for _, it := range r.In(checksystem.Missing, false) {
			fmt.Fprintf(env.Stderr, "WARNING: %s is missing, and with it %s\n", it.Name, it.For)
		}
		for _, it := range r.In(checksystem.Unknown, true) {
			fmt.Fprintf(env.Stderr, "WARNING: nothing on this host tells whether there is %s\n", it.Name)
		}
	}
	if !r.OK {
		var names []string
		for _, it := range r.In(checksystem.Missing, true) {
			names = append(names, it.Name)
		}
		return executing(fmt.Errorf("%s: %s missing", notMet, strings.Join(names, ", ")))
	}
	if !out.json() {
		fmt.Fprintln(env.Stdout, isMet)
	}
	return nil
}

func newNodeDiags(env *Env) *cobra.Command {
	var out outputFlag
	var logDir, dir, runDir string
	cmd := &cobra.Command{
		Use:   "diags",
		Short: "Collect what is needed to find out what is wrong with this host",
		Long: `Collect what is needed to find out what is wrong with this host in one file: its addresses,
routes and rules, what its programs say over their sockets, the state and logs of Calico and of
Docker's engine, and what the datastore holds. Secrets (passwords, tokens, private keys) are
taken out. Nothing is sent anywhere. What should be there and could not be collected is listed;
manifest.json in the file says of everything how large it is and how long it took.`,
		Example: `  calicoctl node diags --output-dir=/tmp`,
		Args:    atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			result, err := env.diags(cmd.Context(), dir, logDir, runDir)
			if err != nil {
				return executing(err)
			}
			if out.json() {
				return writeJSON(env.Stdout, result)
			}
			for _, m := range result.Missed {
				fmt.Fprintf(env.Stderr, "Not collected: %s: %s\n", m.Name, m.Reason)
			}
			fmt.Fprintf(env.Stdout, "Diags saved to %s (%d files)\n", result.Bundle, result.Files)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&logDir, "log-dir", "/var/log/calico", "`directory` with Calico's logs")
	f.StringVar(&dir, "output-dir", "", "`directory` for the file (default: the system's for temporary files)")
	f.StringVar(&runDir, "run-dir", runDirectory, "`directory` of the services' sockets")
	out.flag(cmd)
	return cmd
}

func (env *Env) diags(ctx context.Context, dir, logDir, runDir string) (diags.Result, error) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(env.Stderr, "Warning: without super user privileges much cannot be collected")
	}
	node, err := nodename.Resolve("", env.Getenv)
	if err != nil {
		return diags.Result{}, err
	}
	redactor := diags.NewRedactor()
	redactor.Know(env.Getenv("ETCD_PASSWORD"))
	if cfg, err := env.Config(); err == nil {
		redactor.Know(cfg.Etcd.Password)
	}
	config := env.configPath
	if config == "" {
		config = clientconfig.DefaultPath
	}
	stateDir := hostrecord.Dir(env.Getenv)
	record, _, err := hostrecord.Read(stateDir)
	if err != nil {
		fmt.Fprintf(env.Stderr, "Warning: which programs should run here is not known: %v\n", err)
	}
	now := time.Now()
	return diags.Collect(ctx, diags.Config{
		Dir: cmp.Or(dir, os.TempDir()), Name: "calico-diags-" + node + "-" + now.UTC().Format("20060102-150405"),
		LogDir: logDir, StateDir: stateDir, Wanted: record.Programs, Redactor: redactor, Now: now,
		Files: []string{
			config, "/etc/docker/daemon.json", "/etc/resolv.conf", "/proc/meminfo", "/proc/loadavg",
			"/proc/self/mountinfo", "/proc/modules", "/proc/net/netfilter/nf_log", "/etc/os-release",
		},
		Sources: append([]diags.Source{
			{Name: "datastore.json", Stream: func(ctx context.Context, w io.Writer) error { return env.exportRedacted(ctx, redactor, w) }},
			{Name: "status.json", Read: func(ctx context.Context) ([]byte, error) { return env.statusJSON(ctx, runDir) }},
			{Name: "nodes.json", Read: env.nodesJSON},
			{Name: "system.json", Read: func(ctx context.Context) ([]byte, error) {
				return jsonOf(checksystem.Find(ctx, env.host(runDir)))
			}},
		}, diags.Programs(runDir, record.Programs)...),
	})
}

// exportRedacted writes the contents of the datastore without secrets, which are known from
// then on. It is read twice: a secret is taken out wherever it stands, also before its name.
func (env *Env) exportRedacted(ctx context.Context, redactor *diags.Redactor, w io.Writer) error {
	return env.inStore(ctx, func(ctx context.Context, s *resource.Store) error {
		e := transfer.Exporting{Store: s.Etcd(), Now: time.Now()}
		revision, err := e.Each(ctx, func(_ string, value []byte) error {
			redactor.KnowValues(string(value))
			return nil
		})
		if err != nil {
			return err
		}
		e.Revision, e.Edit = revision, redactor.RedactValue
		_, err = e.Write(ctx, w)
		return err
	})
}

func (env *Env) nodesJSON(ctx context.Context) (data []byte, err error) {
	err = env.inStore(ctx, func(ctx context.Context, s *resource.Store) error {
		nodes, err := readNodes(ctx, s)
		if err == nil {
			data, err = jsonOf(nodes)
		}
		return err
	})
	return data, err
}

func jsonOf(v any) ([]byte, error) { return json.MarshalIndent(v, "", "  ") }
