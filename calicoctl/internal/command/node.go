package command

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/nodestart"
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
	cmd.AddCommand(newNodeRun(env), newNodeStop(env), newNodeUpgrade(env), newNodeLogs(env), newNodePrepare(env), newNodeStatus(env), newNodeCheckSystem(env), newNodeDiags(env), newNodeStartup(env))
	return cmd
}

func newNodeStartup(env *Env) *cobra.Command {
	var runDir, stateDir string
	var check, force bool
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
			_, err = nodestart.Run(cmd.Context(), nodestart.Config{
				Getenv: env.Getenv, Out: env.Stdout, Version: version.Version,
				RunDir: runDir, EnvFile: filepath.Join(dir, "startup.env"), StateDir: stateDir, Running: localnet.Running, Store: etcd,
				Check: check, Force: force,
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
	cmd.Flags().BoolVar(&check, "check", false, "decide and say everything, and write nothing")
	cmd.Flags().BoolVar(&force, "force", false, "take the node's name from another host that has it (CALICO_FORCE_NAME)")
	cmd.Flags().StringVar(&stateDir, "state-dir", hostrecord.Dir(env.Getenv), "`directory` for what this host remembers of itself, node.json")
	return cmd
}
