// Package rules turns desired state into chains of firewall rules. It is pure, and it
// knows no command's syntax: a [Chain] is data that the iptables package prints, and that
// another dataplane can print in its own way. A [Renderer] renders single objects, a
// [Tracker] says which chains a change of the desired state touches.
//
// # A packet's way
//
// Kernel chains on the left, and the hook in each that leads to ours, in the order in
// which a packet meets them. "X →" is a jump that comes back, "X ⇒" a goto.
//
//	raw PREROUTING      cali-PREROUTING   clear our marks; from a workload: drop 127/8 and
//	                                      forged sources; else → cali-from-host-endpoint
//	                                      (untracked policy); what is marked
//	                                      ⇒ cali-untracked-in: not tracked, accepted
//	mangle PREROUTING   cali-PREROUTING   known connections pass; from a workload:
//	                                      → cali-from-wl-guard, the rest passes; else
//	                                      → cali-from-host-endpoint (preDNAT policy)
//	nat PREROUTING      cali-PREROUTING   → cali-fip-dnat: floating addresses
//	filter INPUT        cali-INPUT        names of the gateway → cali-dns-in: accept from
//	                                      workloads and Docker's bridges, drop from others;
//	                                      from a workload ⇒ cali-wl-to-host: egress policy,
//	                                      then ping of the gateway, then the
//	                                      endpoint-to-host action; else → host endpoints
//	filter FORWARD      cali-FORWARD      → cali-from-hep-forward, from a workload
//	                                      → cali-from-wl-dispatch, to a workload
//	                                      → cali-to-wl-dispatch, → cali-to-hep-forward;
//	                                      what came back and is a workload's
//	                                      ⇒ cali-forward-wl: accept, but leave to Docker
//	                                      what comes from or goes to a bridge of its
//	raw OUTPUT          cali-OUTPUT       clear our marks; untracked policy, ⇒ cali-untracked-out
//	nat OUTPUT          cali-OUTPUT       → cali-fip-dnat: floating addresses
//	filter OUTPUT       cali-OUTPUT       answers about names → cali-dns-out; to a workload: not policed; else → host endpoints
//	mangle POSTROUTING  cali-POSTROUTING  what the host itself sends with a rewritten destination
//	                                      → cali-to-host-endpoint
//	nat POSTROUTING     cali-POSTROUTING  → cali-fip-snat, → cali-nat-outgoing: masquerade what leaves the pools
//
//	cali-from-wl-dispatch ⇒ cali-from-wl-dispatch-<c> ⇒ cali-fw-<interface>
//	cali-fw-<interface>   known connections pass; clear accept and pass;
//	                      → cali-from-wl-guard; tier by tier
//	                      → cali-po-<policy> … until one decides (asked after every fifth),
//	                      accepted? return; nobody decided? drop;
//	                      then → cali-pro-<profile> …, accepted? return; drop
//	cali-po-<policy>      rule by rule: allow ⇒ cali-allow, pass ⇒ cali-pass, deny: drop
//	cali-allow, cali-pass mark, and return to the chain that asked the policy
//	cali-from-wl-guard    drop what no workload may send, whatever its policy says:
//	                      encapsulated packets; connections to etcd (set etcd-endpoints)
//	                      and to a node's BGP port (set all-hosts, and any local address)
//
// A packet between two workloads of the host passes both its sender's and its receiver's
// chain, because an allow in them only marks and returns.
//
// # Decisions
//
// Docker gives FORWARD the policy DROP. An allowed packet is therefore accepted inside
// cali-FORWARD, which stands first in FORWARD; see [Renderer.Hooks] for the case that the
// host's own rules are to have a look before.
//
// The guard of the control plane is asked before DNAT, where a published port still has the
// number and address that the workload called, and again behind it, where it leads. Packets
// of known connections have left by then, so that they do not pay for it; a connection that
// was there before it was guarded goes on. Nodes and etcd's members that come and go are
// members of sets, and change no rule. The same set of etcd's addresses and ports is what
// no host endpoint closes.
//
// Untracked policy never meets traffic to or from addresses of pools, which workloads of any
// host have: it would not find its way back, and workloads have policies of their own. What
// goes to the host itself is untracked only where a program of the host waits for it; the
// rest may be the answer to a masqueraded packet of a workload, and is accepted but tracked.
//
// Between a workload and a bridge of Docker's, felix only denies: what it allows goes on to
// Docker's own chains, so that ports that are not published, and networks that are internal,
// stay closed to workloads. Docker's bridges are known by their names, and by Docker's own
// rules. Many begin with "br-", but so do bridges of the host's own, and to leave these to
// Docker's policy DROP would cut the host's workloads off; so each bridge is named, in a
// few chains, which are all that is written when one comes or goes.
//
// A rule that names networks is one for their families: in the other family it is not
// rendered, also when the list is a negated one.
//
// The dispatch chains are a tree of fixed shape, so that a new endpoint only adds rules;
// see dispatch.go. The order of a tree's rules, and every chain's content, depends on the
// present state only, so that a restart finds nothing to change.
package rules
