// Package daemon wires felix together. One goroutine, the [loop], owns the store's view,
// the calculation and all tables; everything else sends to it or reads what it posted.
//
//	etcd watch ─batches─┐                        ┌─► statusapi.Board ─► gRPC, health,
//	interface monitor ──┼─► loop: view → calc →  │                     reports, metrics
//	audit ticker ───────┘   trackers → tables ───┘
//	                              │ Pass
//	                              ▼
//	    sets → members → chains → settings, gateway addresses, neighbours → routes
//
// Nothing is touched in the kernel before the store has delivered a whole snapshot. In
// a pass, sets come first and routes last, so that no packet reaches an endpoint
// before the rules that police it. At the end everything stays in the kernel. What waits
// for what, and what "in force" means, stands in felix/DESIGN.md.
package daemon
