package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/resource"
	"calico.internal/calicoctl/internal/transfer"
)

func newDatastoreExport(env *Env) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write all that the datastore holds to a file",
		Long: `Write all that the datastore holds, as of one moment, as a JSON document to standard
output or to a file that only its owner may read: passwords of BGP peers are in it. What
running programs report by themselves is left out. A file that is there is replaced when all
is written, not before. Lock the datastore first if nothing may change between the export and
what follows.`,
		Example: `  # Make a backup.
  calicoctl datastore export -f calico-backup.json`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
				return env.export(ctx, s, file)
			}))
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "-", "`file` to write; - is standard output")
	return cmd
}

func (env *Env) export(ctx context.Context, s *resource.Store, file string) error {
	e := transfer.Exporting{Store: s.Etcd(), Now: time.Now()}
	if file == "-" {
		out := bufio.NewWriter(env.Stdout)
		_, err := e.Write(ctx, out)
		return errors.Join(err, out.Flush())
	}
	n := 0
	err := transfer.WriteFile(file, func(w io.Writer) (err error) {
		n, err = e.Write(ctx, w)
		return err
	})
	switch {
	case errors.Is(err, transfer.ErrNotLasting):
		return fmt.Errorf("exported %d keys to %s, but a loss of power may bring back what it was; export again, or sync: %w", n, file, err)
	case err != nil:
		return fmt.Errorf("nothing was exported, %s is as it was: %w", file, err)
	}
	fmt.Fprintf(env.Stdout, "Exported %d keys to %s\n", n, file)
	return nil
}
