package command

import "github.com/spf13/cobra"

func newDatastore(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "datastore",
		Short: "Export, import and lock the datastore",
		RunE:  group,
		Args:  cobra.ArbitraryArgs,
	}
	cmd.AddCommand(newDatastoreExport(env), newDatastoreImport(env), newDatastoreLock(env), newDatastoreUnlock(env), newDatastoreStatus(env))
	return cmd
}
