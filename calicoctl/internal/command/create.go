package command

import (
	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/resource"
)

func newCreate(env *Env) *cobra.Command {
	skip := false
	cmd := &cobra.Command{
		Use:   "create -f FILE",
		Short: "Create resources by file or standard input",
		Long: "Create resources. A resource that exists already is an error, and then none is created,\n" +
			"unless --skip-exists is given.\n\n" + manifestHelp,
		Example: `  # Create the policies of a file.
  calicoctl create -f policy.yaml

  # Create what standard input describes and does not exist yet.
  cat policy.yaml | calicoctl create -f - --skip-exists`,
	}
	cmd.Flags().BoolVar(&skip, "skip-exists", false, "skip over resources that exist already, and count them as done")
	return newWriter(env, verb{"create", "created"}, cmd, func() resource.Mode {
		if skip {
			return resource.CreateMissing
		}
		return resource.Create
	})
}
