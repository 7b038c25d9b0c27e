package command

import (
	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/resource"
)

var applyVerb = verb{"apply", "applied"}

func newApply(env *Env) *cobra.Command {
	return newWriter(env, applyVerb, &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Create or replace resources by file or standard input",
		Long: "Create the resources that do not exist and replace those that do. For each one is said\n" +
			"whether it was created or configured, or was unchanged, in which case nothing is written.\n\n" + manifestHelp,
		Example: `  # Apply the policies of a file.
  calicoctl apply -f policy.yaml

  # Apply what standard input describes.
  cat policy.yaml | calicoctl apply -f -`,
	}, func() resource.Mode { return resource.Apply })
}
