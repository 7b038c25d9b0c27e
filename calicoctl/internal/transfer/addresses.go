package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
)

// problems checks all that the datastore says about addresses.
func (im Import) problems(ctx context.Context) ([]ipam.Problem, error) {
	inventory, err := inventoryOf(ctx, im.Store)
	if err != nil {
		return nil, err
	}
	return ipam.Check(inventory, ipam.Seen{}, time.Now()), nil
}

func inventoryOf(ctx context.Context, c *etcdstore.Client) (*ipam.Inventory, error) {
	inventory, err := ipam.New(c, "").Inventory(ctx)
	if err != nil {
		return nil, fmt.Errorf("check the addresses: %w", err)
	}
	return inventory, nil
}

// addressProblems is problems, and none where nothing of addresses is brought in.
func (im Import) addressProblems(ctx context.Context) ([]ipam.Problem, error) {
	if im.Intents {
		return nil, nil
	}
	return im.problems(ctx)
}

// errInconsistent says that addresses may come into two hands, and that it is for the operator
// to say what is right.
var errInconsistent = errors.New("the addresses in the datastore are not consistent, and it is not certain what is right")

// grave are the problems by which an address may come into two hands.
var grave = []string{ipam.ProblemDamagedBlock, ipam.ProblemOverlap, ipam.ProblemAffinity, ipam.ProblemHandle, ipam.ProblemDuplicate, ipam.ProblemUnassigned}

// isCertain tells grave problems of which the datastore alone proves what is right, whatever
// runs on the hosts. No address is taken from anybody by that, and no value is lost that
// cannot be read.
func isCertain(p ipam.Problem) bool {
	return slices.Contains(grave, p.Kind) && p.Proven() && !p.Blind()
}

// maxRounds is how often is mended: what one remedy brings to light is mended in the next
// round.
const maxRounds = 3

// settleAddresses mends what is certain, and checks the addresses by their rules: others go on
// giving addresses back, so that blocks need not be what was written.
func (r *run) settleAddresses(ctx context.Context, before []ipam.Problem) error {
	now, err := r.problems(ctx)
	failed := map[ipam.ID]error{}
	for range maxRounds {
		if err != nil || !slices.ContainsFunc(now, isCertain) {
			break
		}
		var mended int
		if mended, err = r.mend(ctx, now, failed); err != nil || mended == 0 {
			break
		}
		r.result.Mended += mended
		now, err = r.problems(ctx)
	}
	if err != nil {
		return err
	}
	return r.result.judge(before, now, failed)
}

// mend mends those of some problems that are certain, while the import holds the lock.
// failed gets those that could not be, with the reasons.
func (r *run) mend(ctx context.Context, problems []ipam.Problem, failed map[ipam.ID]error) (mended int, err error) {
	held, err := r.lock.held()
	if err != nil {
		return 0, err
	}
	client := ipam.New(r.Store, "", ipam.UnderLock(held...))
	for _, p := range problems {
		if !isCertain(p) {
			continue
		}
		done, err := client.Mend(ctx, p, ipam.OnlyProven)
		switch {
		case ctx.Err() != nil:
			return mended, ctx.Err()
		case errors.Is(err, etcdstore.ErrUnavailable), errors.Is(r.lock.lost(err), errLockLost):
			return mended, r.lock.lost(err)
		case err != nil:
			failed[p.ID] = err
		case done:
			mended++
			delete(failed, p.ID)
		}
	}
	return mended, nil
}

// judge fails for every grave problem, also one that was there before, which an earlier import
// that was repeated may have brought. The result gets those that are new.
func (result *Result) judge(before, now []ipam.Problem, failed map[ipam.ID]error) error {
	known := map[ipam.ID]bool{}
	for _, p := range before {
		known[p.ID] = true
	}
	var texts []string
	for _, p := range now {
		if !known[p.ID] {
			result.Problems = append(result.Problems, p)
		}
		if slices.Contains(grave, p.Kind) {
			texts = append(texts, p.Text+"; "+wayOn(p, failed[p.ID]))
		}
	}
	if len(texts) == 0 {
		return nil
	}
	more := ""
	if n := len(texts) - maxKeys; n > 0 {
		more = fmt.Sprintf("\n  and %d more: calicoctl ipam check", n)
	}
	return fmt.Errorf("%w:\n  %s%s", errInconsistent,
		strings.Join(texts[:min(len(texts), maxKeys)], "\n  "), more)
}

// wayOn is what the operator can do about a problem.
func wayOn(p ipam.Problem, failed error) string {
	switch {
	case failed != nil:
		return failed.Error()
	case p.Proven():
		return "calicoctl ipam check --fix would: " + p.Remedy
	}
	return cmp.Or(p.Advice, "calicoctl ipam check tells more")
}
