package command

import (
	"context"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/resource"
)

func newDelete(env *Env) *cobra.Command {
	d := deletion{env: env}
	cmd := &cobra.Command{
		Use:   "delete (KIND NAME... | -f FILE)",
		Short: "Delete resources by file, by standard input, or by kind and names",
		Long: `Delete resources, named on the command line or in files, of which only what identifies
the resources is read. A resource that does not exist is an error, and then none is
deleted, unless --skip-not-exists is given.

What is in use is refused with who uses it, and then none is deleted: a node that is
alive or has workload endpoints, a workload endpoint on a node that is alive, a pool
with addresses in use, a profile that endpoints name, a network set that rules select,
a tier with policies in it. --force deletes it all the same. What refers to others is
deleted before them.

A pool gives out no more addresses from the moment its deletion begins, and its empty
blocks go; addresses in use stay in use, and their containers keep their routes. A
deletion that was interrupted is gone on with by the next; "get" tells of it, and
applying the pool again keeps it. Deleting a workload endpoint releases its addresses.
Deleting a node also deletes its workload endpoints, releases all addresses that it has,
gives back its blocks, takes it out of Docker's networks, and deletes its host
endpoints, the BGP peers and settings of its own.

Valid resource types are bgpPeer, hostEndpoint, ipPool, node, policy, profile and
workloadEndpoint. Their names are case insensitive and may be plural. A pool is named by
its network, a BGP peer by its IP address.`,
		Example: `  # Delete the resources of a file.
  calicoctl delete -f policy.yaml

  # Delete two policies.
  calicoctl delete policy web database

  # Delete the global BGP peer 192.0.2.1.
  calicoctl delete bgpPeer 192.0.2.1 --scope=global`,
		RunE:              d.run,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: env.completeResources(&d.ids),
	}
	d.files.flags(cmd, "delete")
	d.how.flags(cmd)
	d.ids.flags(cmd)
	env.dialectFlag(cmd)
	cmd.Flags().BoolVar(&d.deletion.Force, "force", false, "delete also what is in use, and say what comes of it")
	cmd.Flags().BoolVarP(&d.deletion.SkipMissing, "skip-not-exists", "s", false, "skip over resources that do not exist, and count them as done")
	return cmd
}

type deletion struct {
	env      *Env
	files    inputs
	ids      identifiers
	how      changing
	deletion resource.Deletion
}

func (d *deletion) run(cmd *cobra.Command, args []string) error {
	if err := d.how.check(); err != nil {
		return err
	}
	objects, err := d.objects(args)
	if err != nil {
		return err
	}
	return d.env.execute(cmd, verb{"delete", "deleted"}, d.how, objects, change{
		plan: func(ctx context.Context, s *resource.Store) ([]resource.Change, error) {
			return s.TryDelete(ctx, objects, d.deletion)
		},
		do: func(ctx context.Context, s *resource.Store) ([]resource.Outcome, error) {
			return s.Delete(ctx, objects, d.deletion)
		},
	})
}

// objects is what to delete, from the files or from the command line.
func (d *deletion) objects(args []string) ([]manifest.Object, error) {
	switch {
	case len(d.files.names) > 0 && len(args)+len(d.ids.used()) > 0:
		return nil, usagef("--filename names what to delete, so no kind, name or identifier may be given")
	case len(d.files.names) > 0:
		return d.env.readObjects(d.files, true)
	case len(args) == 0:
		return nil, usagef("name what to delete by --filename, or by KIND and NAME")
	}
	kind, err := d.env.kindNamed(args[0])
	if err != nil {
		return nil, err
	}
	if err := d.ids.check(kind); err != nil {
		return nil, err
	}
	if len(args) == 1 {
		return nil, usagef("insufficient identifiers, missing 'name'")
	}
	var objects []manifest.Object
	for _, arg := range args[1:] {
		n, err := parseNameOf(kind, arg)
		if err != nil {
			return nil, err
		}
		key, err := d.ids.key(kind, n)
		if err != nil {
			return nil, err
		}
		objects = append(objects, manifest.Object{Kind: kind, Key: key})
	}
	return unique(objects), nil
}

// unique drops objects that are named twice.
func unique(objects []manifest.Object) []manifest.Object {
	var out []manifest.Object
	seen := map[any]bool{}
	for _, o := range objects {
		if !seen[o.Key] {
			seen[o.Key] = true
			out = append(out, o)
		}
	}
	return out
}
