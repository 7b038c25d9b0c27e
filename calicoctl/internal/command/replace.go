package command

import (
	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/resource"
)

var replaceVerb = verb{"replace", "replaced"}

func newReplace(env *Env) *cobra.Command {
	return newWriter(env, replaceVerb, &cobra.Command{
		Use:   "replace -f FILE",
		Short: "Replace resources by file or standard input",
		Long: "Replace resources. A resource that does not exist is an error, and then none is\n" +
			"replaced.\n\n" + manifestHelp,
		Example: `  # Replace the policies of a file.
  calicoctl replace -f policy.yaml`,
	}, func() resource.Mode { return resource.Replace })
}
