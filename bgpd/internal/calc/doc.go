// Package calc works out what bgpd wants: which sessions, which advertisements and
// which kernel routes. It is pure: configuration, etcd's resources, what peers say and
// what the kernel has go in as method calls, and [Engine.Flush] returns what changed.
// The clock is an argument.
//
//	config ─────┐
//	etcd ───────┤             ┌─► peers       (sessions to have)
//	peers' paths├─► Engine ───┼─► adverts     (own blocks, borrowed addresses)
//	kernel ─────┘    Flush    └─► routes      (own blocks as blackholes, others' blocks)
//
// The end state depends on what is true, not on the order in which it was told; the
// exception is a session's own history, which is in order by nature.
package calc
