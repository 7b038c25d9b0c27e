package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/resource"
	"calico.internal/calicoctl/internal/transfer"
	"calico.internal/libcalico/ipam"
)

func newDatastoreImport(env *Env) *cobra.Command {
	var t transferring
	var file string
	cmd := &cobra.Command{
		Use:   "import -f FILE",
		Short: "Bring an exported file into the datastore",
		Long:  "Bring what \"datastore export\" wrote into a datastore.\n\n" + transferHelp,
		Example: `  # See what a backup would change, and bring it back.
  calicoctl datastore import -f calico-backup.json --dry-run
  calicoctl datastore import -f calico-backup.json

  # After a loss: bring back what is wanted, look at it, and have the nodes follow it.
  calicoctl datastore import -f calico-backup.json --only=policy
  calicoctl datastore unlock`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := t.check(); err != nil {
				return err
			}
			if file == "" {
				return usagef("--filename is missing: it names the exported file, - is standard input")
			}
			return executing(env.importFile(cmd, t, file))
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", "the exported `file`; - is standard input")
	t.flags(cmd)
	return cmd
}

// importFile imports an exported file. Standard input, which cannot be read again, is kept in
// a file meanwhile that nobody else sees.
func (env *Env) importFile(cmd *cobra.Command, t transferring, name string) error {
	f, shown, err := env.openSource(name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	source, err := transfer.File(shown, f)
	if err != nil {
		return err
	}
	return env.transfer(cmd, t, source)
}

// openSource opens a file that can be read again and again, and says how messages call it.
func (env *Env) openSource(name string) (f *os.File, shown string, err error) {
	if name == "-" {
		f, err = spool(func(w io.Writer) error {
			if _, err := io.Copy(w, env.Stdin); err != nil {
				return fmt.Errorf("read standard input: %w", err)
			}
			return nil
		})
		return f, stdinName, err
	}
	f, err = os.Open(name)
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = fmt.Errorf("%s: %w", name, pe.Err)
	}
	return f, name, err
}

// spool is a file without a name that holds what write writes.
func spool(write func(io.Writer) error) (*os.File, error) {
	f, err := os.CreateTemp("", "calicoctl-") // mode 0600
	if err != nil {
		return nil, err
	}
	if err = os.Remove(f.Name()); err == nil {
		err = write(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

const transferHelp = `Everything is read and checked first, and compared with the datastore: nothing is written
if anything is not valid or, as for "create", must not be beside what else comes or stays, such
as a pool that overlaps another (unless --skip-invalid leaves that out), or is in the datastore
already with another value (unless --overwrite replaces that). Then the datastore is locked;
all is compared once more and written on the condition that it still is as it was compared,
compared in the end, and the lock is given back: the datastore is as it was, open or locked.
It can be repeated: what is the same already is not written again, and one that broke off goes
on where it was. Of two at once the second is refused.

What is, is not overwritten: an address in use on either side stays in use, by the owner that
the datastore knows; handles are counted from the blocks; nodes that live keep their own record
and those of their endpoints; so do Docker's networks. Addresses are verified by the rules of
"ipam check", and what the datastore proves is mended: handles and affinities follow from blocks,
and an endpoint has its address in use. What is not certain is an error that says what to do; a
datastore without a Ready flag gets none then, and is opened by "datastore unlock".

With --only=policy nothing of all that is brought in, but only what is wanted: policies,
profiles, tiers, network sets, host endpoints, pools, BGP peers and filters, and settings. A
datastore that has lost its Ready flag does not get it by that: look at it, and say that it is
right by "datastore unlock".

An import that was killed leaves its lock. The same user takes it over by repeating the import
where it is sure that its process has died: on the same host, not booted since, and not in
another container. With --take-lock anybody does, also a lock of "datastore lock", under which
the import then works and which stays.`

// transferring is the flags of commands that bring in what another datastore held.
type transferring struct {
	outputFlag

	dryRun, verify, overwrite, skipInvalid, keepLocked, takeLock, force bool
	only                                                                string
}

// onlyPolicy is the value of --only.
const onlyPolicy = "policy"

func (t *transferring) flags(cmd *cobra.Command) {
	t.flag(cmd)
	f := cmd.Flags()
	f.BoolVar(&t.dryRun, "dry-run", false, "say what would be done, and write nothing")
	f.BoolVar(&t.verify, "verify", false, "only compare; what is missing or different is an error")
	f.BoolVar(&t.overwrite, "overwrite", false, "replace what has another value in the datastore")
	f.BoolVar(&t.skipInvalid, "skip-invalid", false, "leave out what is not valid")
	f.BoolVar(&t.keepLocked, "keep-locked", false, "leave the datastore locked in the end")
	f.BoolVar(&t.takeLock, "take-lock", false, "import although somebody else has locked the datastore")
	f.BoolVar(&t.force, "force", false, "bring in pools also over networks of hosts, and warn of them")
	f.StringVar(&t.only, "only", "", "`policy`: only what is wanted, nothing of what is (nodes, endpoints, addresses, networks)")
	mustComplete(cmd, "only", []string{onlyPolicy})
}

func (t *transferring) check() error {
	if t.only != "" && t.only != onlyPolicy {
		return usagef("unknown --only=%s: expected %s", t.only, onlyPolicy)
	}
	return t.outputFlag.check()
}

// transferResult is the answer in JSON.
type transferResult struct {
	Source  string             `json:"source"`
	DryRun  bool               `json:"dryRun,omitempty"`
	Kinds   []transfer.Count   `json:"kinds"`
	Skipped []transfer.Problem `json:"skipped"`
	Invalid []transfer.Problem `json:"invalid"`
	// Refused are those that must not be beside others.
	Refused []transfer.Problem `json:"refused,omitempty"`
	// LeftOut is how many resources --only left out.
	LeftOut int `json:"leftOut,omitempty"`
	// Written is how many resources were written, and Verified that all of them were
	// found in the datastore afterwards.
	Written int `json:"written"`
	// Ended is how many endpoints are not brought back, since their containers ended meanwhile.
	Ended    int  `json:"ended,omitempty"`
	Mended   int  `json:"mended,omitempty"`
	Verified bool `json:"verified"`
	// Addresses are the inconsistencies of addresses that came with the import, and Lock says
	// how the datastore is in the end.
	Addresses []ipam.Problem `json:"addresses,omitempty"`
	Lock      string         `json:"lock,omitempty"`
}

func (env *Env) transfer(cmd *cobra.Command, t transferring, source transfer.Source) error {
	return env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
		if t.force {
			s.AllowTaken()
		}
		im := transfer.Import{
			Resources: s,
			Store:     s.Etcd(), Source: source, Intents: t.only == onlyPolicy, Overwrite: t.overwrite,
			KeepLocked: t.keepLocked, TakeLock: t.takeLock, By: env.locker(cmd),
			Progress: func(done, all int) { fmt.Fprintf(env.Stderr, "Written %d of %d resources\n", done, all) },
		}
		plan, err := im.Look(ctx)
		if err != nil {
			return err
		}
		result := transferResult{
			Source: source.Name, DryRun: t.dryRun, Kinds: plan.Counts, LeftOut: plan.LeftOut,
			Skipped: append([]transfer.Problem{}, plan.Skipped...), Invalid: append([]transfer.Problem{}, plan.Invalid...),
			Refused: plan.Refused,
		}
		err = t.refuse(plan)
		if t.dryRun && !t.verify {
			err = errors.Join(err, im.MayLock(ctx))
		}
		if err == nil && !t.dryRun && !t.verify {
			// A reader of what is printed who goes away must not end it while it has the lock.
			signal.Ignore(syscall.SIGPIPE)
			var done transfer.Result
			done, err = im.Run(ctx, plan)
			result.Written, result.Mended, result.Addresses, result.Lock = done.Written, done.Mended, done.Problems, done.Lock
			result.Ended = done.Ended
			result.Refused = append(result.Refused, done.Refused...)
			if n := len(done.Refused); n > 0 {
				err = errors.Join(err, fmt.Errorf("%d resources cannot be beside what came into the datastore meanwhile, and are left out", n))
			}
			if n := done.Raced.N; n > 0 {
				err = errors.Join(err, fmt.Errorf("%d resources came into the datastore with another value meanwhile, and are left as they are%s", n, listed(done.Raced)))
			}
		}
		result.Verified = err == nil && (t.verify || !t.dryRun)
		if t.json() {
			return errors.Join(err, writeJSON(env.Stdout, result))
		}
		env.printTransfer(t, result, err)
		return err
	})
}

// refuse says why nothing can be written, or why the comparison fails.
func (t *transferring) refuse(plan transfer.Plan) error {
	var faults []error
	if n := len(plan.Invalid); n > 0 && !t.skipInvalid {
		faults = append(faults, fmt.Errorf("%d values are not valid; nothing was written: mend them, or leave them out by --skip-invalid", n))
	}
	if n := len(plan.Refused); n > 0 && !t.skipInvalid {
		faults = append(faults, fmt.Errorf("%d resources cannot be beside others; nothing was written: mend them, or leave them out by --skip-invalid", n))
	}
	if n := plan.Different.N; n > 0 && (!t.overwrite || t.verify) {
		advice := "; nothing was written: --overwrite replaces it"
		if t.verify {
			advice = ""
		}
		faults = append(faults, fmt.Errorf("%d resources have other values in the datastore%s%s", n, advice, listed(plan.Different)))
	}
	if n := plan.Missing.N; t.verify && n > 0 {
		faults = append(faults, fmt.Errorf("%d resources are not in the datastore%s", n, listed(plan.Missing)))
	}
	return errors.Join(faults...)
}

// listed lists the first few of some objects.
func listed(keys transfer.Keys) string {
	var b strings.Builder
	for _, k := range keys.First {
		b.WriteString("\n  " + k.String())
	}
	if more := keys.N - len(keys.First); more > 0 {
		fmt.Fprintf(&b, "\n  and %d more", more)
	}
	return b.String()
}

func (env *Env) printTransfer(t transferring, r transferResult, err error) {
	for _, p := range r.Invalid {
		fmt.Fprintf(env.Stderr, "Not valid: %s: %s\n", p.Path, p.Reason)
	}
	for _, p := range r.Refused {
		fmt.Fprintf(env.Stderr, "Refused: %s: %s\n", p.Path, p.Reason)
	}
	for _, p := range r.Skipped {
		fmt.Fprintf(env.Stderr, "Skipped: %s: %s\n", p.Path, p.Reason)
	}
	for _, p := range r.Addresses {
		fmt.Fprintf(env.Stderr, "Addresses: %s: %s\n", p.Kind, p.Text)
	}
	if err := env.table(countRows(r.Kinds)); err != nil {
		return
	}
	if r.LeftOut > 0 {
		fmt.Fprintf(env.Stdout, "%d resource(s) that tell what is, not what is wanted, are left out\n", r.LeftOut)
	}
	switch {
	case err != nil:
	case t.verify:
		fmt.Fprintf(env.Stdout, "All of %s is in the datastore\n", r.Source)
	case t.dryRun:
		fmt.Fprintf(env.Stdout, "Nothing was written (dry run)\n")
	default:
		fmt.Fprintf(env.Stdout, "Successfully imported %s: %d resource(s) written, all compared\n", r.Source, r.Written)
		if r.Ended > 0 {
			fmt.Fprintf(env.Stdout, "%d endpoint(s) are left out: their containers have ended meanwhile\n", r.Ended)
		}
		if r.Mended > 0 {
			fmt.Fprintf(env.Stdout, "%d inconsistencies of addresses were mended\n", r.Mended)
		}
		fmt.Fprintf(env.Stdout, "%s.\n", strings.ToUpper(r.Lock[:1])+r.Lock[1:])
	}
}

// countRows is a table of the states; the columns of the rare ones are there when needed.
func countRows(counts []transfer.Count) [][]string {
	rare := slices.ContainsFunc(counts, func(c transfer.Count) bool { return c.Merged+c.Kept > 0 })
	rows := [][]string{{"KIND", "NEW", "SAME", "DIFFERENT"}}
	if rare {
		rows[0] = append(rows[0], "MERGED", "KEPT")
	}
	for _, c := range counts {
		row := []string{string(c.Kind), fmt.Sprint(c.New), fmt.Sprint(c.Same), fmt.Sprint(c.Different)}
		if rare {
			row = append(row, fmt.Sprint(c.Merged), fmt.Sprint(c.Kept))
		}
		rows = append(rows, row)
	}
	return rows
}
