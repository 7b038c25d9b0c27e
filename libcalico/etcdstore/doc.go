// Package etcdstore reads, writes and watches the resources of the model in etcd
// over its v3 API.
//
// A resource is read at one revision and written in one transaction, also when it is
// spread over several keys. Writes can be made conditional on the revision that the
// caller has seen. A watch gives a snapshot and then every change; it survives the
// loss of etcd, a compaction and a restored backup.
//
// What a newer program wrote and this one has no field for is kept ([model.Unknown]). Where
// that would not do, because older programs also act on what they do not know,
// [Write.Needs] shuts them out: every transaction that writes, but for the keys by which
// programs show that they live, has a condition on [model.MinVersionKey].
//
// Certificates, the CA's included, are read again for each new connection.
//
// An operation whose context has no deadline gets one, and gives up sooner when no
// connection can be made; with a deadline it waits for etcd as long as that allows.
package etcdstore
