// Package iptables keeps the chains of one iptables table equal to what felix wants. It
// is the only package that knows iptables' syntax: it prints the rules that package
// rules describes, writes them with one iptables-restore per table and pass, and
// recognises them again by the hash that each carries in its first comment.
//
//	rules.Chain ──NewChain──► Chain{hash, text} ──Target.Apply──► iptables-restore ──► kernel
//	                          Chain{hash}       ◄──Target.List─── iptables-save, or netlink ◄──
//
// # Reading back
//
// The kernel does not give back the text that was written, so nothing of a rule is read
// but its hash. The hash covers the name of the chain and the text of the rule, and not
// the rules before it: what a chain holds is the sequence of its hashes, and a rule put
// in the middle is one insert, not a rewrite of all that follow.
//
// The whole table is read at start and when the kernel's fingerprint of it (the number
// and size of the entries of a legacy table and the order of the rules around hooks, the
// generation of nf_tables) is not the one that the last own write left behind. It is never read just because something is to
// be written.
//
// # Whose rules
//
// Chains whose name begins with "cali-" are felix's as a whole. In all other chains
// felix owns only the rules that carry its comment ("hooks"); nothing else there is ever
// changed, and hooks are deleted by their text, in nf_tables by their handle, and never by
// position. In nf_tables, rules of others may be of any form, also of one that iptables'
// own tools do not understand: to felix they are rules that carry no hash.
//
// # Failures
//
// A restore is one transaction. When the kernel or the command refuses it, the
// chains are tried in halves until the one at fault is found; a stand-in takes its place
// (rules.Renderer.StandIn), it is reported, and the rest is in force.
package iptables
