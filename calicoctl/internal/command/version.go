package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/version"
)

func newVersion(env *Env) *cobra.Command {
	clientOnly := false
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Display the version of calicoctl and of the cluster",
		Example: `  # Show only the version of this program, without asking the datastore.
  calicoctl version --client`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(env.Stdout, "Client Version:    %s\n", version.Version)
			fmt.Fprintf(env.Stdout, "Build date:        %s\n", version.BuildDate)
			fmt.Fprintf(env.Stdout, "Git commit:        %s\n", version.Commit)
			if clientOnly {
				return nil
			}
			err := env.withStore(cmd, env.clusterVersion)
			if err != nil {
				return fmt.Errorf("Unable to retrieve Cluster Version or Type: %w", err) //nolint:staticcheck // ST1005: the original's message
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "show only the version of this program")
	return cmd
}

func (env *Env) clusterVersion(ctx context.Context, s *resource.Store) error {
	for _, line := range []struct{ label, name string }{
		{"Cluster Version:   ", "CalicoVersion"}, {"Cluster Type:      ", "ClusterType"},
	} {
		value, err := s.Raw(ctx, resource.Felix, "", line.name)
		if err != nil {
			return err
		}
		if value == nil {
			fmt.Fprintf(env.Stdout, "%sunknown\n", line.label)
			continue
		}
		fmt.Fprintf(env.Stdout, "%s%s\n", line.label, *value)
	}
	return nil
}
