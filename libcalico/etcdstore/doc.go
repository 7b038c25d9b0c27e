// Package etcdstore reads, writes and watches the resources of the model in etcd
// over its v3 API.
//
// A resource is read at one revision and written in one transaction, also when it is
// spread over several keys. Writes can be made conditional on the revision that the
// caller has seen. A watch gives a snapshot and then every change; it survives the
// loss of etcd, a compaction and a restored backup.
//
// Certificates, the CA's included, are read again for each new connection.
//
// An operation whose context has no deadline gets one, and gives up sooner when no
// connection can be made; with a deadline it waits for etcd as long as that allows.
package etcdstore
