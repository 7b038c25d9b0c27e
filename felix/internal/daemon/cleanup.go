package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"calico.internal/felix/internal/config"
	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/ipsets"
	"calico.internal/felix/internal/iptables"
	"calico.internal/felix/internal/routes"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/reconcile"
)

// Cleanup removes all that felix keeps in the kernel, of both variants of iptables: what
// is left of containers is cut off first, then the rules go. say is told of each step.
func Cleanup(ctx context.Context, cfg *config.Config, say func(format string, args ...any)) error {
	if err := preflight(); err != nil {
		return err
	}
	steps := []func() error{
		func() error { return cleanRoutes(ctx, cfg, say) },
		func() error {
			return patiently(ctx, say, func(ctx context.Context) error { return cleanChains(ctx, iptables.Legacy, rules.Families[:], say) })
		},
		func() error {
			return patiently(ctx, say, func(ctx context.Context) error { return cleanChains(ctx, iptables.NFT, rules.Families[:], say) })
		},
		func() error { return cleanSets(ctx, rules.Families[:], say) },
	}
	var errs []error
	for _, step := range steps {
		errs = append(errs, step())
	}
	return errors.Join(errs...)
}

// patience bounds the wait of [Cleanup] for other programs that hold the lock of iptables.
const patience = 30 * time.Second

// patiently cleans, and goes on with that while other programs keep iptables busy.
func patiently(ctx context.Context, say func(string, ...any), clean func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for told := false; ; told = true {
		err := clean(ctx)
		if !iptables.IsBusy(err) || ctx.Err() != nil {
			return err
		}
		if !told {
			say("another program uses iptables; waiting for it, for up to %v", patience)
		}
		iptables.AwaitLock(ctx)
		select {
		case <-time.After(minSweepDelay / 10):
		case <-ctx.Done():
			return err
		}
	}
}

func cleanRoutes(ctx context.Context, cfg *config.Config, say func(string, ...any)) error {
	monitor, err := ifmonitor.New()
	if err != nil {
		return err
	}
	defer monitor.Close()
	present, err := monitor.Snapshot()
	if err != nil {
		return err
	}
	links := ifmonitor.NewLinks()
	links.Apply(present)
	k, err := routes.Open(routes.Config{
		Prefixes: cfg.InterfacePrefix, Protocol: cfg.DeviceRouteProtocol, RemoveExternal: true, IPv6: true, Interfaces: links,
	})
	if err != nil {
		return err
	}
	defer k.Close()
	return errors.Join(
		removeAll(ctx, "routes", k.Routes(), routes.Key.Compare, say),
		removeAll(ctx, "neighbour entries", k.Neighbours(), routes.NeighKey.Compare, say),
		removeAll(ctx, "gateway addresses", k.Addresses(routes.AddressRanges{IPv4: gatewayRange}), routes.AddrKey.Compare, say),
	)
}

// sweepOtherVariant removes what an earlier felix left in the variant of iptables that is
// not in use; it would go on deciding about packets besides the one that is.
func sweepOtherVariant(ctx context.Context, inUse string, families []rules.Family, say func(string, ...any)) error {
	other := iptables.Legacy
	if inUse == iptables.Legacy {
		other = iptables.NFT
	}
	return cleanChains(ctx, other, families, say)
}

// sweepFamilies removes what an earlier felix left of families that are not to be handled any
// more. Their routes are gone before; sets go after the chains that name them.
func sweepFamilies(ctx context.Context, families []rules.Family, say func(string, ...any)) error {
	err := errors.Join(cleanChains(ctx, iptables.Legacy, families, say), cleanChains(ctx, iptables.NFT, families, say))
	if err != nil {
		return err
	}
	return cleanSets(ctx, families, say)
}

// sweeper removes what an earlier felix left, until that is done.
type sweeper struct {
	mu  sync.Mutex
	why string
}

// The wait between two tries of the sweeper.
const (
	minSweepDelay = 500 * time.Millisecond
	maxSweepDelay = 30 * time.Second
)

// run tries until nothing is left or the context ends. fault is told why something is left, once for each reason.
func (s *sweeper) run(ctx context.Context, sweep func() error, fault func(error)) {
	for delay := minSweepDelay; ; delay = min(2*delay, maxSweepDelay) {
		err := sweep()
		if ctx.Err() != nil {
			return
		}
		if s.set(err) && err != nil {
			fault(err)
		}
		if err == nil {
			return
		}
		if iptables.IsLocked(err) {
			iptables.AwaitLock(ctx)
			delay = minSweepDelay / 2
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
	}
}

// set notes why something is left, and reports whether that is another reason than before.
func (s *sweeper) set(err error) (changed bool) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = why != s.why
	s.why = why
	return changed
}

// left says why something is left; empty when nothing is known to be.
func (s *sweeper) left() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

// cleanChains removes felix's chains and hooks from the tables of a variant that exist. It
// leaves the variant alone where it is not installed.
func cleanChains(ctx context.Context, variant string, families []rules.Family, say func(string, ...any)) error {
	backend, err := iptables.Detect(ctx, variant)
	if err != nil {
		return nil // what is not installed has nothing to clean
	}
	targets, err := iptables.Open(backend, nil)
	if err != nil {
		return err
	}
	defer targets.Close()
	var errs []error
	for _, f := range families {
		for _, t := range rules.Tables {
			if variant == iptables.Legacy && !slices.Contains(iptables.LegacyTables(f), string(t)) {
				continue
			}
			target, err := targets.Target(f, t)
			if err != nil {
				errs = append(errs, err)
				break
			}
			errs = append(errs, removeAll(ctx, fmt.Sprintf("chains and hooks in the IPv%d table %s (%s)", f, t, variant), target, compareStrings, say))
			target.Close()
		}
		errs = append(errs, targets.Reopen(f))
	}
	return errors.Join(errs...)
}

func cleanSets(ctx context.Context, families []rules.Family, say func(string, ...any)) error {
	k, err := ipsets.Open(families...)
	if err != nil {
		return nil // without IP sets in the kernel there are none
	}
	defer k.Close()
	return removeAll(ctx, "IP sets", k.Sets(), compareStrings, say)
}

// removeAll deletes everything that a target lists.
func removeAll[K comparable, V any](ctx context.Context, what string, target reconcile.Target[K, V], compare func(a, b K) int, say func(string, ...any)) error {
	have, err := target.List(ctx)
	if err != nil {
		return fmt.Errorf("remove %s: %w", what, err)
	}
	if len(have) == 0 {
		return nil
	}
	var c reconcile.Changes[K, V]
	for k := range have {
		c.Delete = append(c.Delete, k)
	}
	slices.SortFunc(c.Delete, compare)
	if err := target.Apply(ctx, c); err != nil {
		return fmt.Errorf("remove %s: %w", what, err)
	}
	if say != nil {
		say("removed %d %s", len(have), what)
	}
	return nil
}
