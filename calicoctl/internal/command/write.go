package command

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/resource"
)

// verb is the name of a command that changes resources, as its messages use it.
type verb struct {
	present, past string
}

const manifestHelp = `Resources are read from files, directories or standard input in YAML or JSON format:
one object, a list of objects, or a stream of documents separated by "---". All of them
are checked before the first is written; if anything is wrong, every fault is named with
its file, line and column, and nothing is written.

Valid resource types are bgpPeer, hostEndpoint, ipPool, node, policy, profile and
workloadEndpoint of apiVersion v1, and the kinds of projectcalico.org/v3.`

// newWriter makes one of the commands that store the resources of files.
func newWriter(env *Env, v verb, cmd *cobra.Command, mode func() resource.Mode) *cobra.Command {
	var files inputs
	var how changing
	atomic := false
	var force forcing
	cmd.Args = atMost(0)
	files.flags(cmd, v.present)
	files.strictFlag(cmd)
	how.flags(cmd)
	force.flag(cmd, v)
	if v == applyVerb {
		cmd.Flags().BoolVar(&atomic, "atomic", false, "write everything in one transaction, or nothing; what is too much for one is refused")
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := how.check(); err != nil {
			return err
		}
		if len(files.names) == 0 {
			return usagef("--filename is missing: it names the file to %s, - is standard input", v.present)
		}
		objects, err := env.readObjects(files, false)
		if err != nil {
			return err
		}
		return env.execute(cmd, v, how, objects, change{
			plan: func(ctx context.Context, s *resource.Store) ([]resource.Change, error) {
				return force.on(s).Try(ctx, mode(), objects, atomic)
			},
			do: func(ctx context.Context, s *resource.Store) ([]resource.Outcome, error) {
				if atomic {
					return force.on(s).WriteAtomically(ctx, mode(), objects)
				}
				return force.on(s).Write(ctx, mode(), objects)
			},
		})
	}
	return cmd
}

// forcing is the flag by which a write does what is refused otherwise.
type forcing bool

func (f *forcing) flag(cmd *cobra.Command, v verb) {
	const (
		pools = "create pools also over networks of hosts"
		loss  = "lose what is not shown of rules and has no place left"
	)
	help := pools + ", and warn of them"
	switch v {
	case applyVerb:
		help = pools + ", and " + loss + "; warn of both"
	case replaceVerb, patchVerb:
		help = loss + ", and warn of it"
	}
	cmd.Flags().BoolVar((*bool)(f), "force", false, help)
}

// on is a store that does what is forced.
func (f forcing) on(s *resource.Store) *resource.Store {
	if f {
		s.AllowTaken()
		s.AllowLoss()
	}
	return s
}

// change is how a command changes resources, and how it finds out what it would do.
type change struct {
	plan func(context.Context, *resource.Store) ([]resource.Change, error)
	do   func(context.Context, *resource.Store) ([]resource.Outcome, error)
}

// execute changes resources and reports what became of them.
func (env *Env) execute(cmd *cobra.Command, v verb, how changing, objects []manifest.Object, c change) error {
	if how.dryRun == dryRunClient {
		env.warnUnserved(objects)
		done := make([]resource.Outcome, len(objects))
		for i, o := range objects {
			done[i] = resource.Outcome{Object: o, Did: valid}
		}
		return env.reportChange(v, how, objects, done, nil)
	}
	return env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
		if !how.dry() {
			done, err := c.do(ctx, s)
			return env.reportChange(v, how, objects, done, err)
		}
		planned, err := c.plan(ctx, s)
		done := make([]resource.Outcome, len(planned))
		for i, p := range planned {
			done[i] = p.Outcome
		}
		return env.reportChange(v, how, objects, done, err)
	})
}

// warnUnserved names what will be refused unless it is stored already, which only the
// datastore can tell.
func (env *Env) warnUnserved(objects []manifest.Object) {
	for _, o := range objects {
		for _, u := range manifest.UnservedBy(o.Value) {
			fmt.Fprintf(env.Stderr, "Warning: %s: %s (refused where it is not stored already)\n", o.Shown(), u)
		}
	}
}

// reportChange says what became of each object, and how far it got if not all were done.
func (env *Env) reportChange(v verb, how changing, objects []manifest.Object, done []resource.Outcome, err error) error {
	failed := err
	if err != nil {
		failed = env.failure(v, objects, done, err)
	}
	if how.json() {
		result := changeResult{Action: v.present, Resources: []objectResult{}, Total: len(objects)}
		if how.dry() {
			result.DryRun = how.dryRun
		}
		for _, o := range done {
			result.Resources = append(result.Resources, objectResult{objectNameOf(o.Object), o.Did})
		}
		if err != nil {
			result.Error = err.Error()
		}
		return cmp.Or(failed, writeJSON(env.Stdout, result))
	}
	out := bufio.NewWriter(env.Stdout)
	if v == applyVerb || how.dry() {
		for _, o := range done {
			fmt.Fprintf(out, "%s %s\n", o.Shown(), o.Did)
		}
	}
	if err == nil {
		fmt.Fprintf(out, "Successfully %s %d %sresource(s)%s\n", v.past, len(done), kindNote(objects), how.note())
	}
	return cmp.Or(failed, out.Flush())
}

// failure tells how far a change of several resources got, and what is not done.
func (env *Env) failure(v verb, objects []manifest.Object, done []resource.Outcome, err error) error {
	count, first := 0, true
	left := make(map[int]bool, len(objects))
	for i := range objects {
		left[i] = true
	}
	for i, o := range done {
		delete(left, o.At)
		first = first && o.At == i && o.Did != resource.Skipped
		if o.Did != resource.Skipped {
			count++
		}
	}
	switch {
	case len(objects) == 1:
		return fmt.Errorf("Failed to %s %sresource: %w", v.present, kindNote(objects), err) //nolint:staticcheck // ST1005: the original's message
	case count == 0:
		return fmt.Errorf("Failed to %s any %sresources: %w", v.present, kindNote(objects), err) //nolint:staticcheck // ST1005: the original's message
	}
	which := strconv.Itoa(count)
	if first {
		which = "the first " + which
	}
	return fmt.Errorf("Partial success: %s %s out of %d %sresources, not %s:\nHit error: %w", //nolint:staticcheck // ST1005: the original's message
		v.past, which, len(objects), kindNote(objects), fewNames(objects, left), err)
}

// fewNames names the first of some objects, and how many more there are.
func fewNames(objects []manifest.Object, some map[int]bool) string {
	const few = 3
	var names []string
	for i, o := range objects {
		if some[i] && len(names) < few {
			names = append(names, o.Shown().String())
		}
	}
	text := strings.Join(names, ", ")
	if more := len(some) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// kindNote is the kind of the objects in quotes with a space, if all are of one kind.
func kindNote(objects []manifest.Object) string {
	for _, o := range objects {
		if o.Kind != objects[0].Kind {
			return ""
		}
	}
	return fmt.Sprintf("'%s' ", objects[0].Kind.Name)
}
