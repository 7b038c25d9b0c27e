package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/node/startup"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/calicoctl/internal/transfer"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/model"
)

func newDatastore(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "datastore",
		Short: "Export, import and lock the datastore",
		RunE:  group,
		Args:  cobra.ArbitraryArgs,
	}
	cmd.AddCommand(newDatastoreExport(env), newDatastoreImport(env), newDatastoreLock(env), newDatastoreUnlock(env))
	return cmd
}

func newDatastoreExport(env *Env) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write all that the datastore holds to a file",
		Long: `Write all that the datastore holds, as of one moment, as a JSON document to standard
output or to a file that only its owner may read: passwords of BGP peers are in it. What
running programs report by themselves is left out. Lock the datastore first if nothing
may change between the export and what follows.`,
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
	var text bytes.Buffer
	n, err := transfer.Export(ctx, s.Etcd(), &text, time.Now())
	if err != nil {
		return err
	}
	if file == "-" {
		_, err := env.Stdout.Write(text.Bytes())
		return err
	}
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(env.Stdout, "Exported %d keys to %s\n", n, file)
	return nil
}

func newDatastoreImport(env *Env) *cobra.Command {
	var t transferring
	var file string
	cmd := &cobra.Command{
		Use:   "import -f FILE",
		Short: "Bring an exported file into the datastore",
		Long:  "Bring what \"datastore export\" wrote into a datastore.\n\n" + transferHelp,
		Example: `  # See what a backup would change, and bring it back.
  calicoctl datastore import -f calico-backup.json --dry-run
  calicoctl datastore import -f calico-backup.json`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := t.check(); err != nil {
				return err
			}
			if file == "" {
				return usagef("--filename is missing: it names the exported file, - is standard input")
			}
			data, err := env.readFile(file)
			if err != nil {
				return executing(err)
			}
			dump, err := transfer.ReadFile(file, data)
			if err != nil {
				return executing(err)
			}
			return executing(env.transfer(cmd, t, dump))
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", "the exported `file`; - is standard input")
	t.flags(cmd)
	return cmd
}

const transferHelp = `Everything is read and checked first, and compared with the datastore: nothing is written
if anything is not valid (unless --skip-invalid leaves that out), or is in the datastore
already with another value (unless --overwrite replaces that). Then the datastore is
locked, written, compared once more, and opened. It can be repeated: what is the same
already is not written again, and one that broke off goes on where it was.`

// transferring is the flags of commands that bring in what another datastore held.
type transferring struct {
	outputFlag

	dryRun, verify, overwrite, skipInvalid, keepLocked bool
}

func (t *transferring) flags(cmd *cobra.Command) {
	t.flag(cmd)
	f := cmd.Flags()
	f.BoolVar(&t.dryRun, "dry-run", false, "say what would be done, and write nothing")
	f.BoolVar(&t.verify, "verify", false, "only compare; what is missing or different is an error")
	f.BoolVar(&t.overwrite, "overwrite", false, "replace what has another value in the datastore")
	f.BoolVar(&t.skipInvalid, "skip-invalid", false, "leave out what is not valid")
	f.BoolVar(&t.keepLocked, "keep-locked", false, "leave the datastore locked in the end")
}

// transferResult is the answer in JSON.
type transferResult struct {
	Source  string             `json:"source"`
	DryRun  bool               `json:"dryRun,omitempty"`
	Kinds   []transfer.Count   `json:"kinds"`
	Skipped []transfer.Problem `json:"skipped"`
	Invalid []transfer.Problem `json:"invalid"`
	// Written is how many resources were written, and Verified that all of them were
	// found in the datastore afterwards.
	Written  int  `json:"written"`
	Verified bool `json:"verified"`
}

func (env *Env) transfer(cmd *cobra.Command, t transferring, dump transfer.Dump) error {
	return env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
		plan := transfer.Read(dump)
		if err := plan.Compare(ctx, s.Etcd()); err != nil {
			return err
		}
		result := transferResult{
			Source: dump.Source, DryRun: t.dryRun, Kinds: plan.Counts(),
			Skipped: append([]transfer.Problem{}, plan.Skipped...), Invalid: append([]transfer.Problem{}, plan.Invalid...),
		}
		toWrite := len(plan.Items) - len(plan.In(transfer.Same))
		err := t.refuse(plan)
		if err == nil && !t.dryRun && !t.verify {
			err = plan.Write(ctx, s.Etcd(), t.keepLocked, func(done, all int) {
				fmt.Fprintf(env.Stderr, "Written %d of %d resources\n", done, all)
			})
			if err != nil {
				err = fmt.Errorf("%w\nthe datastore stays locked, since it may hold only a part: run this again", err)
			}
			result.Written = toWrite
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
	different := plan.In(transfer.Different)
	if len(different) > 0 && (!t.overwrite || t.verify) {
		advice := "; nothing was written: --overwrite replaces it"
		if t.verify {
			advice = ""
		}
		faults = append(faults, fmt.Errorf("%d resources have other values in the datastore%s%s", len(different), advice, listed(different)))
	}
	if n := len(plan.In(transfer.New)); t.verify && n > 0 {
		faults = append(faults, fmt.Errorf("%d resources are not in the datastore", n))
	}
	return errors.Join(faults...)
}

// maxListed is how many objects a message lists.
const maxListed = 20

func listed(keys []model.Key) string {
	var b strings.Builder
	for i, k := range keys {
		if i == maxListed {
			fmt.Fprintf(&b, "\n  and %d more", len(keys)-i)
			break
		}
		b.WriteString("\n  " + k.String())
	}
	return b.String()
}

func (env *Env) printTransfer(t transferring, r transferResult, err error) {
	for _, p := range r.Invalid {
		fmt.Fprintf(env.Stderr, "Not valid: %s: %s\n", p.Path, p.Reason)
	}
	for _, p := range r.Skipped {
		fmt.Fprintf(env.Stderr, "Skipped: %s: %s\n", p.Path, p.Reason)
	}
	rows := [][]string{{"KIND", "NEW", "SAME", "DIFFERENT"}}
	for _, c := range r.Kinds {
		rows = append(rows, []string{string(c.Kind), fmt.Sprint(c.New), fmt.Sprint(c.Same), fmt.Sprint(c.Different)})
	}
	if err := env.table(rows); err != nil {
		return
	}
	switch {
	case err != nil:
	case t.verify:
		fmt.Fprintf(env.Stdout, "All of %s is in the datastore\n", r.Source)
	case t.dryRun:
		fmt.Fprintf(env.Stdout, "Nothing was written (dry run)\n")
	default:
		fmt.Fprintf(env.Stdout, "Successfully imported %s: %d resource(s) written, all compared\n", r.Source, r.Written)
	}
}

func newDatastoreLock(env *Env) *cobra.Command {
	var out outputFlag
	cmd := &cobra.Command{
		Use:   "lock",
		Short: "Lock the datastore against changes",
		Long: `Lock the datastore against changes, by setting its Ready flag to false: calicoctl refuses
to change anything, new nodes do not start, and containers get no addresses, until "datastore
unlock" opens it. What is in force on the nodes stays so and is repaired, and containers that
end still give their addresses back.`,
		Example: "  calicoctl datastore lock",
		Args:    atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
				return env.lock(ctx, s, out)
			}))
		},
	}
	out.flag(cmd)
	return cmd
}

func (env *Env) lock(ctx context.Context, s *resource.Store, out outputFlag) error {
	changed, err := s.Lock(ctx)
	if err != nil {
		return err
	}
	if out.json() {
		return writeJSON(env.Stdout, struct {
			Locked  bool `json:"locked"`
			Changed bool `json:"changed"`
		}{true, changed})
	}
	env.sayLocked("locked", changed)
	return nil
}

func (env *Env) sayLocked(word string, changed bool) {
	if !changed {
		word += " already"
	}
	fmt.Fprintf(env.Stdout, "The datastore is %s.\n", word)
}

func newDatastoreUnlock(env *Env) *cobra.Command {
	var out outputFlag
	var accept bool
	cmd := &cobra.Command{
		Use:   "unlock",
		Short: "Open the datastore for changes, and say that it is the right one",
		Long: `Open the datastore for changes again, by setting its Ready flag to true.

Nodes follow no datastore that has lost its Ready flag or its cluster's GUID, or that has
another one than they know: they keep and repair what is in force, and say so ("calicoctl
node status"), since a datastore that was emptied would else empty the network. When the data
is lost for good, or the nodes shall follow another datastore, this command says so: it sets
the flag, makes a GUID if there is none, and accepts the GUID for all nodes, whichever they
know. Then they take away what the datastore does not hold. Look at it first.

A datastore that has its flag and its GUID is only opened, unless this host knows another
GUID; with --accept the GUID is accepted in any case.`,
		Example: `  # Open the datastore after a lock.
  calicoctl datastore unlock

  # See what the nodes would follow, and have them follow it.
  calicoctl get nodes,ippools,policies,profiles,workloadendpoints
  calicoctl datastore unlock --accept`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
				return env.unlock(ctx, s, accept, out)
			}))
		},
	}
	cmd.Flags().BoolVar(&accept, "accept", false, "have all nodes follow the datastore, whichever cluster's GUID they know")
	out.flag(cmd)
	return cmd
}

// unlockResult is the answer in JSON.
type unlockResult struct {
	Locked  bool `json:"locked"`
	Changed bool `json:"changed"`
	// ClusterGUID is the datastore's, HostClusterGUID the one that this host knows.
	ClusterGUID     string `json:"clusterGUID"`
	HostClusterGUID string `json:"hostClusterGUID,omitempty"`
	Accepted        bool   `json:"accepted"`
}

func (env *Env) unlock(ctx context.Context, s *resource.Store, accept bool, out outputFlag) error {
	// Whoever may not read this host's record belongs to no cluster, as somebody elsewhere.
	host, _, err := hostrecord.Read(hostrecord.Dir(env.Getenv))
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		fmt.Fprintf(env.Stderr, "WARNING: %v\n", err)
	}
	done, err := s.Unlock(ctx, resource.Unlocking{HostGUID: host.ClusterGUID, NewGUID: startup.NewGUID(), Accept: accept})
	if err != nil {
		return err
	}
	if out.json() {
		return writeJSON(env.Stdout, unlockResult{
			Changed: done.Changed, ClusterGUID: done.GUID, HostClusterGUID: host.ClusterGUID, Accepted: done.Accepted,
		})
	}
	env.sayLocked("unlocked", done.Changed)
	fmt.Fprintf(env.Stdout, "The datastore's cluster GUID is %s.\n", done.GUID)
	if host.ClusterGUID != "" {
		fmt.Fprintf(env.Stdout, "The cluster GUID that this host knows is %s.\n", host.ClusterGUID)
	}
	switch {
	case done.Accepted:
		fmt.Fprintln(env.Stdout, "All nodes follow the datastore from now on, whichever GUID they know.")
	case !accept:
		fmt.Fprintln(env.Stdout, "Nodes that know another GUID keep off it; to have them follow it: calicoctl datastore unlock --accept")
	}
	return nil
}
