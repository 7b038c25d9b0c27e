package etcdstore

import "time"

// Probing gives the options for a watch that notices the loss of etcd sooner.
func Probing(audit, probe, silence time.Duration) WatchOptions {
	return WatchOptions{Audit: audit, probe: probe, silence: silence}
}
