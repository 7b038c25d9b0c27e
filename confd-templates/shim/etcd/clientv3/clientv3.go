// Package clientv3 gives confd's etcdv3 backend, which was written for an import path that is gone, the names it
// needs from today's etcd client.
package clientv3

import clientv3 "go.etcd.io/etcd/client/v3"

// The client, its settings and its operations.
type (
	Client   = clientv3.Client
	Config   = clientv3.Config
	Op       = clientv3.Op
	OpOption = clientv3.OpOption
)

// The order of a listing.
const (
	SortByKey   = clientv3.SortByKey
	SortDescend = clientv3.SortDescend
)

// Constructors and options.
var (
	New               = clientv3.New
	OpGet             = clientv3.OpGet
	WithPrefix        = clientv3.WithPrefix
	WithCreatedNotify = clientv3.WithCreatedNotify
	WithRev           = clientv3.WithRev
	WithSort          = clientv3.WithSort
)
