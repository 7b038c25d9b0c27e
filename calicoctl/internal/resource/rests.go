package resource

import (
	"context"
	"slices"
	"strings"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// maxStill is how many keys etcd is asked to look at within a transaction, which holds up
// everybody's writes for that long. Beyond it a decision rests on a list that was read
// just before.
const maxStill = 5000

// rest is a list that a decision rests on: it holds as long as nothing was written under
// its prefix after its revision.
type rest struct {
	prefix   string
	revision int64
	// of is what is said to have changed when it does not hold.
	of model.Key
}

func (r *rest) condition() etcdstore.Write { return etcdstore.StillWrite(r.of, r.prefix, r.revision) }

// rests is what a plan rests on.
type rests []*rest

// under is what must still be so when steps are done: the lists of what they write.
func (rs rests) under(steps []step) []*rest {
	var out []*rest
	for _, r := range rs {
		within := func(path string) bool { return strings.HasPrefix(path, r.prefix) }
		if slices.ContainsFunc(steps, func(st step) bool {
			return len(st.writes) > 0 && slices.ContainsFunc(model.Paths(st.object.Key), within)
		}) {
			out = append(out, r)
		}
	}
	return out
}

// while calls commit with the conditions under which what is rested on for some steps holds,
// for their transaction. What that has written at its revision is our own.
func (rs rests) while(steps []step, commit func(conditions []etcdstore.Write) (int64, error)) error {
	under := rs.under(steps)
	conditions := make([]etcdstore.Write, len(under))
	for i, r := range under {
		conditions[i] = r.condition()
	}
	revision, err := commit(conditions)
	if err != nil {
		return err
	}
	for _, r := range under {
		r.revision = revision
	}
	return nil
}

// add makes a plan rest on a list; of two of one prefix the older counts.
func (rs *rests) add(of model.Key, prefix string, revision int64) {
	for _, r := range *rs {
		if r.prefix == prefix {
			r.revision = min(r.revision, revision)
			return
		}
	}
	*rs = append(*rs, &rest{prefix, revision, of})
}

// addFew makes a plan rest on what is now under some prefixes, and is read after this, where
// that is not too much to look at.
func (s *Store) addFew(ctx context.Context, rs *rests, of model.Key, prefixes []string) error {
	for _, prefix := range prefixes {
		n, revision, err := s.etcd.Count(ctx, prefix)
		if err != nil {
			return err
		}
		if n <= maxStill {
			rs.add(of, prefix, revision)
		}
	}
	return nil
}
