package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/resource"
	"calico.internal/calicoctl/internal/transfer"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nodestart"
)

func newDatastoreLock(env *Env) *cobra.Command {
	var out outputFlag
	cmd := &cobra.Command{
		Use:   "lock",
		Short: "Lock the datastore against changes",
		Long: `Lock the datastore against changes, by setting its Ready flag to false: calicoctl refuses
to change anything, new nodes do not start, and containers get no addresses, until "datastore
unlock" opens it. What is in force on the nodes stays so and is repaired, and containers that
end still give their addresses back.

A lock that you took before, as the same user of the same host, is yours: that is no error. One
of anybody else, or of an import, is: it may be opened under you at any time.`,
		Example: "  calicoctl datastore lock",
		Args:    atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
				return env.lock(ctx, s, env.locker(cmd), out)
			}))
		},
	}
	out.flag(cmd)
	return cmd
}

// locker is how this command signs a lock.
func (env *Env) locker(cmd *cobra.Command) *model.Lock {
	l := &model.Lock{By: env.operator(), Command: cmd.CommandPath(), Since: time.Now().UTC().Truncate(time.Second)}
	transfer.SignProcess(l, os.Getpid())
	return l
}

// operator is user@host of whoever runs the command, also where it runs by sudo.
func (env *Env) operator() string {
	name := env.Getenv("SUDO_USER")
	if name == "" {
		name = strconv.Itoa(os.Getuid())
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return name + "@" + host
}

// lockResult is the answer in JSON of the commands about the lock.
type lockResult struct {
	Locked  bool `json:"locked"`
	Changed bool `json:"changed"`
	// Lock is who has locked the datastore, or had until now; absent where nobody has said so.
	Lock *model.Lock `json:"lock,omitempty"`
}

func (env *Env) lock(ctx context.Context, s *resource.Store, by *model.Lock, out outputFlag) error {
	done, err := s.Lock(ctx, by)
	if err != nil {
		return err
	}
	own := done.By != nil && !done.By.Import && done.By.By == by.By // an import opens its lock, also the caller's own
	if out.json() {
		err = writeJSON(env.Stdout, lockResult{Locked: true, Changed: done.Changed, Lock: done.By})
	}
	switch {
	case !done.Changed && !own:
		return errors.Join(err, fmt.Errorf("it was not locked for you: %w", etcdstore.Locked(done.By)))
	case out.json():
		return err
	case done.Changed:
		fmt.Fprintln(env.Stdout, "The datastore is locked.")
	default:
		fmt.Fprintf(env.Stdout, "The datastore is locked already by you (%s).\n", done.By)
	}
	return nil
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
the flag, makes a GUID if there is none, and accepts the GUID for all nodes that know the same
one as this host, or, if this host knows none, for all nodes. Then they take away what the
datastore does not hold. Look at it first.

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
	cmd.Flags().BoolVar(&accept, "accept", false, "have the nodes follow the datastore that know this host's GUID (all nodes, if it knows none)")
	out.flag(cmd)
	return cmd
}

// unlockResult is the answer in JSON.
type unlockResult struct {
	lockResult

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
	done, err := s.Unlock(ctx, resource.Unlocking{HostGUID: host.ClusterGUID, NewGUID: nodestart.NewGUID(), Accept: accept})
	if err != nil {
		return err
	}
	if out.json() {
		return writeJSON(env.Stdout, unlockResult{
			lockResult: lockResult{Changed: done.Changed, Lock: done.By}, ClusterGUID: done.GUID, HostClusterGUID: host.ClusterGUID, Accepted: done.Accepted,
		})
	}
	env.sayUnlocked(done)
	fmt.Fprintf(env.Stdout, "The datastore's cluster GUID is %s.\n", done.GUID)
	if host.ClusterGUID != "" {
		fmt.Fprintf(env.Stdout, "The cluster GUID that this host knows is %s.\n", host.ClusterGUID)
	}
	switch {
	case done.Accepted && host.ClusterGUID != "" && host.ClusterGUID != done.GUID:
		fmt.Fprintln(env.Stdout, "All nodes that know that GUID follow the datastore from now on.")
	case done.Accepted:
		fmt.Fprintln(env.Stdout, "All nodes follow the datastore from now on, whichever GUID they know.")
	case !accept:
		fmt.Fprintln(env.Stdout, "Nodes that know another GUID keep off it; to have them follow it: calicoctl datastore unlock --accept")
	}
	return nil
}

func (env *Env) sayUnlocked(done resource.Unlocked) {
	if !done.Changed {
		fmt.Fprintln(env.Stdout, "The datastore is unlocked already.")
		return
	}
	fmt.Fprintln(env.Stdout, "The datastore is unlocked.")
	if !done.WasLocked || done.By == nil {
		return
	}
	fmt.Fprintf(env.Stdout, "It was locked by %s.\n", done.By)
	if done.By.Import {
		fmt.Fprintln(env.Stdout, "That was an import, which stops now if it still runs: the datastore may hold only a part; repeat the import.")
	}
}

func newDatastoreStatus(env *Env) *cobra.Command {
	var out outputFlag
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether the datastore is locked, and by whom",
		Long: `Say whether the datastore is locked, and by whom: user and host, command, process, and since when.
A datastore without a Ready flag is not set up yet, or has lost its data.`,
		Example: "  calicoctl datastore status",
		Args:    atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
				state, err := s.Etcd().LockState(ctx)
				if err != nil {
					return err
				}
				return env.printLock(state, out)
			}))
		},
	}
	out.flag(cmd)
	return cmd
}

func (env *Env) printLock(state etcdstore.LockState, out outputFlag) error {
	if out.json() {
		return writeJSON(env.Stdout, struct {
			Locked bool        `json:"locked"`
			SetUp  bool        `json:"setUp"`
			Lock   *model.Lock `json:"lock,omitempty"`
		}{state.Locked, state.ReadyRevision != 0, state.By})
	}
	switch {
	case state.ReadyRevision == 0:
		fmt.Fprintln(env.Stdout, "The datastore has no Ready flag: it is not set up, or has lost its data.")
	case !state.Locked:
		fmt.Fprintln(env.Stdout, "The datastore is unlocked.")
	case state.By == nil:
		fmt.Fprintln(env.Stdout, "The datastore is locked, by somebody who has not said so.")
	default:
		fmt.Fprintf(env.Stdout, "The datastore is locked by %s.\n", state.By)
		if state.By.Import && transfer.HolderDied(state.By) {
			fmt.Fprintln(env.Stdout, "The process that held the lock has died: repeat the import, which goes on where it broke off.")
		}
		for under := state.By.Under; under != nil; under = under.Under {
			fmt.Fprintf(env.Stdout, "It was locked before by %s, and stays so when the import ends.\n", under)
		}
	}
	return nil
}
