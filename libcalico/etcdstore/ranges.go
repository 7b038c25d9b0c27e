package etcdstore

import (
	"cmp"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
)

// keyRange is the keys from (included) to (excluded).
type keyRange struct {
	from, to string
	// beside says that the range is a host tree ([model.IsHostTree]) of which the keys about
	// workload endpoints do not matter: they are read only where that cannot be avoided.
	beside bool
}

// ranges are disjoint and in order.
type ranges []keyRange

// newRanges makes the ranges of some prefixes; one inside another is left out.
func newRanges(prefixes []string) ranges {
	prefixes = slices.Sorted(slices.Values(prefixes))
	var rs ranges
	last := ""
	for _, prefix := range prefixes {
		if len(rs) > 0 && strings.HasPrefix(prefix, last) {
			continue
		}
		rs = append(rs, under(prefix))
		last = prefix
	}
	return rs
}

// under is the keys with a prefix.
func under(prefix string) keyRange {
	return keyRange{from: prefix, to: clientv3.GetPrefixRangeEnd(prefix)}
}

// rangesOf makes the ranges in which the resources of a kind in a scope stand.
func rangesOf(kind model.Kind, scope model.Scope) ranges {
	rs := newRanges(model.ScopedPrefixes(kind, scope))
	for i := range rs {
		rs[i].beside = model.BesideWorkloads(kind) && model.IsHostTree(rs[i].from)
	}
	return rs
}

func (rs ranges) hold(key string) bool {
	return slices.ContainsFunc(rs, func(r keyRange) bool { return r.holds(key) })
}

// holds says whether a key is in the range and matters.
func (r keyRange) holds(key string) bool {
	if key < r.from || key >= r.to {
		return false
	}
	if r.beside {
		_, about := model.WorkloadSubtreeOf(r.from, key)
		return !about
	}
	return true
}

// exactly is the range of one key.
func exactly(path string) keyRange { return keyRange{from: path, to: path + "\x00"} }

func byFrom(a, b keyRange) int {
	return cmp.Or(strings.Compare(a.from, b.from), strings.Compare(b.to, a.to))
}

// disjoint puts ranges in order, and together those that have keys in common.
func disjoint(rs ranges) ranges {
	rs = slices.Clone(rs)
	slices.SortFunc(rs, byFrom)
	var out ranges
	for _, r := range rs {
		if last := len(out) - 1; last >= 0 && r.from < out[last].to {
			out[last].to = max(out[last].to, r.to)
			continue
		}
		out = append(out, r)
	}
	return out
}

// span is the one range that covers all.
func (rs ranges) span() keyRange { return keyRange{from: rs[0].from, to: rs[len(rs)-1].to} }
