// Package kernel is the edge to the kernel's routing table, by netlink. [FIB] is the
// target for our routes (package reconcile), finds the way to next hops, and tells what
// others change:
//
//	reconcile.Table ──Apply, List──► FIB ──RTM_NEWROUTE, many in one write──► table main
//	calc.Engine ◄──Resolve, HostRoutes, Changes ──┘ ◄──── notifications ────┘
//
// Our routes are known by their protocol number. A route of another protocol is never
// replaced or removed, not even one to the same prefix: the kernel would let a
// replacement hit it, so that a prefix is created exclusively the first time and
// replaced only while it is known to be ours alone. What we wrote ourselves is not told
// back to us. All is left in place when the program ends.
package kernel
