package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/version"
)

func newVersion(env *Env) *cobra.Command {
	var out outputFlag
	clientOnly := false
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Display the version of calicoctl and of the cluster",
		Example: `  # Show only the version of this program, without asking the datastore.
  calicoctl version --client`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if out.json() {
				return env.versionJSON(cmd, clientOnly)
			}
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
	out.flag(cmd)
	return cmd
}

// versions is the answer in JSON; what the cluster does not tell is left out.
type versions struct {
	ClientVersion  string `json:"clientVersion"`
	BuildDate      string `json:"buildDate"`
	GitCommit      string `json:"gitCommit"`
	ClusterVersion string `json:"clusterVersion,omitempty"`
	ClusterType    string `json:"clusterType,omitempty"`
}

func (env *Env) versionJSON(cmd *cobra.Command, clientOnly bool) error {
	v := versions{ClientVersion: version.Version, BuildDate: version.BuildDate, GitCommit: version.Commit}
	var err error
	if !clientOnly {
		err = env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
			for name, field := range map[string]*string{"CalicoVersion": &v.ClusterVersion, "ClusterType": &v.ClusterType} {
				value, err := s.Raw(ctx, resource.Felix, "", name)
				if err != nil {
					return err
				}
				if value != nil {
					*field = *value
				}
			}
			return nil
		})
	}
	if err != nil {
		err = fmt.Errorf("Unable to retrieve Cluster Version or Type: %w", err) //nolint:staticcheck // ST1005: the original's message
	}
	return errors.Join(err, writeJSON(env.Stdout, v))
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
