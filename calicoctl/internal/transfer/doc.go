// Package transfer carries the contents of a datastore into a file and into another
// datastore: of a file that was exported, or of the etcd v2 tree of an old Calico v2.6.
//
//	etcd ──Exporting──► file ───File──► Source ──Import──► etcd
//	v2.6's etcd ──V2──► file ──V2File──────┘
//
// An import says first what would become of everything, and refuses what must not be together:
// package resource tells, as for a create. Then it locks the datastore, compares resource by
// resource, writes each on the condition that it still is as it was compared, compares in the
// end, mends what is certain of addresses, and gives the lock back. What is wanted (policies,
// pools, settings) is written as the source has it; of what is (addresses in use, living nodes)
// the datastore knows better, and nothing is taken away. All of it can be repeated: what is
// there already is not written again.
package transfer
