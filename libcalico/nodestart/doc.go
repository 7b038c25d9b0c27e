// Package nodestart is the start-up of a node: it finds out who this host is, by which
// addresses others reach it and which programs must run on it, checks that against the store,
// and writes the host's node resource and whatever the cluster lacks of defaults, all in one
// transaction. What it may need to start without etcd it keeps on the host's disk. settings.go,
// plan.go, addresses.go and pools.go are pure.
//
//	environment ──► settings ─┐
//	interfaces ───────────────┼─► plan ──► one transaction, lines for the log, Outcome
//	etcd ──► cluster ─────────┘
package nodestart
