package etcdstore

import (
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// keyRange is the keys from (included) to (excluded).
type keyRange struct{ from, to string }

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
		rs = append(rs, keyRange{prefix, clientv3.GetPrefixRangeEnd(prefix)})
		last = prefix
	}
	return rs
}

func (rs ranges) hold(key string) bool {
	return slices.ContainsFunc(rs, func(r keyRange) bool { return key >= r.from && key < r.to })
}

// span is the one range that covers all.
func (rs ranges) span() keyRange { return keyRange{rs[0].from, rs[len(rs)-1].to} }
