package command

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/clientconfig"
	"calico.internal/calicoctl/internal/node/checksystem"
	"calico.internal/calicoctl/internal/node/diags"
	"calico.internal/calicoctl/internal/node/status"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/calicoctl/internal/transfer"
	"calico.internal/libcalico/nodename"
)

func newNodeCheckSystem(env *Env) *cobra.Command {
	var out outputFlag
	var config string
	cmd := &cobra.Command{
		Use:   "checksystem",
		Short: "Check whether this host's kernel has what Calico needs",
		Long: `Check whether this host's kernel has what Calico needs, loaded, built in, or as a module
that can be loaded, and whether the host's settings let containers work. Ends with 1 when
something that is needed is missing.`,
		Example: `  # Check this host.
  calicoctl node checksystem

  # Check a kernel by the file with its configuration.
  calicoctl node checksystem --kernel-config=/boot/config-6.1.0-9-amd64`,
		Args: atMost(0),
		RunE: func(_ *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			var text []byte
			if config != "" {
				var err error
				if text, err = os.ReadFile(config); err != nil {
					return executing(err)
				}
			}
			return env.printSystem(checksystem.Check(os.DirFS("/"), text), out)
		},
	}
	cmd.Flags().StringVarP(&config, "kernel-config", "f", "", "`file` with the kernel's configuration, which then alone decides")
	out.flag(cmd)
	return cmd
}

func (env *Env) printSystem(r checksystem.Report, out outputFlag) error {
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
		return executing(fmt.Errorf("System does not meet minimum system requirements to run Calico: %s missing", strings.Join(names, ", "))) //nolint:staticcheck // ST1005: as the original's message
	}
	if !out.json() {
		fmt.Fprintln(env.Stdout, "System meets minimum system requirements to run Calico!")
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
routes and rules, the state and logs of Calico and of Docker's engine, and what the
datastore holds. Secrets (passwords, tokens, private keys) are taken out. Nothing is sent
anywhere; what could not be collected is listed.`,
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
	now := time.Now()
	return diags.Collect(ctx, diags.Config{
		Dir: cmp.Or(dir, os.TempDir()), Name: "calico-diags-" + node + "-" + now.UTC().Format("20060102-150405"),
		LogDir: logDir, Redactor: redactor, Now: now,
		Files: []string{
			config, "/etc/calico/confd/config/bgpd.toml", "/etc/docker/daemon.json", "/proc/meminfo",
			"/proc/self/mountinfo", "/proc/modules", "/etc/os-release",
		},
		Sources: []diags.Source{
			{Name: "datastore.json", Read: func(ctx context.Context) ([]byte, error) { return env.exported(ctx, redactor) }},
			{Name: "status.json", Read: func(ctx context.Context) ([]byte, error) { return statusJSON(ctx, runDir) }},
			{Name: "nodes.json", Read: env.nodesJSON},
			{Name: "system.json", Read: func(context.Context) ([]byte, error) { return jsonOf(checksystem.Check(os.DirFS("/"), nil)) }},
		},
	})
}

// exported is the contents of the datastore, whose secrets are known from then on.
func (env *Env) exported(ctx context.Context, redactor *diags.Redactor) ([]byte, error) {
	var text bytes.Buffer
	err := env.inStore(ctx, func(ctx context.Context, s *resource.Store) error {
		_, err := transfer.Export(ctx, s.Etcd(), &text, time.Now())
		return err
	})
	if err != nil {
		return nil, err
	}
	dump, err := transfer.ReadFile("export", text.Bytes())
	if err == nil {
		for _, value := range dump.Values {
			redactor.KnowValues(string(value))
		}
	}
	return text.Bytes(), nil
}

func statusJSON(ctx context.Context, runDir string) ([]byte, error) {
	s, err := status.Read(ctx, runDir)
	if err != nil {
		return nil, err
	}
	return jsonOf(s)
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
