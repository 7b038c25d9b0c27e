package command

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/node/status"
	"calico.internal/libcalico/hostrecord"
)

// watchPause is between two looks of "node status --watch".
const watchPause = time.Second

// nodeStatusOptions are what the user may choose.
type nodeStatusOptions struct {
	output, runDir string
	all, watch     bool
}

func newNodeStatus(env *Env) *cobra.Command {
	var o nodeStatusOptions
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how this host is: its programs, its BGP sessions, and what is wrong",
		Long: "Show the programs that should run on this host, how they are, its BGP sessions, and what is\n" +
			"wrong, with what to do about it. With --all, show all nodes, by what their programs keep in the\n" +
			"datastore while they live. Ends with 0 when all is as it should be, and with 1 when it is not.",
		Example: `  # Show this host.
  calicoctl node status

  # Show it again whenever something changes.
  calicoctl node status --watch

  # Show all nodes.
  calicoctl node status --all`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.output != "" && o.output != formatJSON {
				return usagef("unknown output format %q: expected json", o.output)
			}
			if o.watch {
				return env.watchStatus(cmd, o)
			}
			return env.showStatus(cmd, o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "output `format`: json")
	f.StringVar(&o.runDir, "run-dir", runDirectory, "`directory` of the programs' sockets")
	f.BoolVar(&o.all, "all", false, "show all nodes, as the datastore knows them")
	f.BoolVarP(&o.watch, "watch", "w", false, "show it again whenever something changes")
	return cmd
}

func (env *Env) showStatus(cmd *cobra.Command, o nodeStatusOptions) error {
	text, healthy, err := env.statusText(cmd, o, time.Now())
	if err != nil {
		return executing(err)
	}
	if _, err := env.Stdout.Write(text); err != nil {
		return err
	}
	if !healthy {
		return &statusError{code: exitFailed}
	}
	return nil
}

// statusText is what is shown, and whether all is as it should be.
func (env *Env) statusText(cmd *cobra.Command, o nodeStatusOptions, now time.Time) (text []byte, healthy bool, err error) {
	var b bytes.Buffer
	if o.all {
		healthy, err = env.statusOfAll(cmd, &b, o.output == formatJSON)
		return b.Bytes(), healthy, err
	}
	s, err := status.Read(cmd.Context(), env.whereStatus(o.runDir))
	if err != nil {
		return nil, false, err
	}
	if o.output == formatJSON {
		err = s.PrintJSON(&b)
	} else {
		err = s.Print(&b, now)
	}
	return b.Bytes(), s.Healthy(), err
}

// watchStatus shows it until the command is ended, whenever something has changed.
func (env *Env) watchStatus(cmd *cobra.Command, o nodeStatusOptions) error {
	tick := time.NewTicker(watchPause)
	defer tick.Stop()
	var shown []byte
	for first := true; ; first = false {
		// Times of today turn into dates; that is no change.
		text, _, err := env.statusText(cmd, o, time.Now())
		switch {
		case cmd.Context().Err() != nil:
			return nil
		case err != nil && first:
			return executing(err)
		case err != nil:
			text = fmt.Appendf(nil, "%v\n", err)
		}
		if !bytes.Equal(text, shown) {
			if o.output != formatJSON {
				fmt.Fprintf(env.Stdout, "--- %s\n", time.Now().Format(time.DateTime))
			}
			if _, err := env.Stdout.Write(text); err != nil {
				return err
			}
			shown = text
		}
		select {
		case <-tick.C:
		case <-cmd.Context().Done():
			return nil
		}
	}
}

func (env *Env) statusJSON(ctx context.Context, runDir string) ([]byte, error) {
	s, err := status.Read(ctx, env.whereStatus(runDir))
	if err != nil {
		return nil, err
	}
	return jsonOf(s)
}

// whereStatus is where this host's programs are, and which they are as the host remembers it. One
// that remembers nothing is asked for what it shows.
func (env *Env) whereStatus(runDir string) status.Where {
	record, _, _ := hostrecord.Read(hostrecord.Dir(env.Getenv)) // only for when calico-node is away
	return status.Where{RunDir: runDir, Programs: record.Programs}
}
