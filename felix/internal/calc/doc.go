// Package calc turns what the store holds into the desired state of this host. It is
// pure and belongs to one goroutine.
//
// The state that comes out depends on the present content of the store only, never on
// the order, repetition or grouping of the events that led there; and a change costs in
// proportion to what it touches. Events are taken in at once (labels matched, members
// counted), and what they touch is marked; [Engine.Flush] then recomputes the marked
// objects and gives out those that came out different.
//
//	                    ┌► local index ──► endpoints ──► which policies and profiles
//	store events ───────┤   (policy selectors ×             are active here
//	 by kind            │    this host's endpoints)            │
//	                    ├► policies, profiles, tiers ──────────▼
//	                    │                             rules with set ids
//	                    ├► global index ──► sets ◄─────────────┘
//	                    │   (rule selectors ×
//	                    │    endpoints and network sets of all hosts)
//	                    └► pools ──► sets with fixed ids
package calc
