// Package store is a typed in-memory view of the datastore. It is pure: whoever
// watches the datastore feeds it with batches, and it answers with events about whole
// resources.
//
//	Batch (paths, bytes) ──View.Apply──► []Event (keys, resources)
//
// A resource that is spread over several paths is put together, a snapshot is applied
// as a difference, and a value that cannot be used is set aside without stopping the
// rest.
package store

import (
	"calico.internal/libcalico/model"
)

// Batch is one step of a watch: a snapshot of everything that is watched, or the
// changes up to a revision. A path occurs in it at most once; Puts and Deletes are in the
// order of their paths.
type Batch struct {
	// Snapshot says that Puts are all there is: whatever is not in them is gone. Its
	// Revision may be lower than that of the batch before, when the datastore was
	// restored from a backup.
	Snapshot bool
	// Restored says of a snapshot that the datastore's history went back before it: it was
	// restored from a backup, or is another one. What a receiver knew and the snapshot does
	// not hold was not deleted by anybody, except for what Deletes names: that was there, and
	// was deleted, since.
	Restored bool
	// Revision is that of the datastore after the batch.
	Revision int64
	Puts     []KV
	// Deletes are the paths that are gone.
	Deletes []string
	// Err is set, and all else empty, when the datastore cannot be reached; the next
	// batch without it says that it can be reached again.
	Err error
	// Held is set, and all else empty, when the datastore answers but what it holds is not
	// followed, because it was emptied or is another cluster's; its text says what is the
	// matter and what to do. The next batch with neither Err nor Held is a snapshot.
	Held error
}

// KV is one value of the datastore.
type KV struct {
	Path        string
	Value       []byte
	ModRevision int64
}

// Quarantined is a stored value that is not usable.
type Quarantined struct {
	// Key is nil when the path itself cannot be read.
	Key  model.Key
	Path string
	// Value is the resource as far as it could be decoded, or nil.
	Value model.Resource
	// Unreadable names the fields of the value that could not be decoded.
	Unreadable []string
	Err        error
	// Revision is the highest ModRevision of the resource's parts; 0 where it was not kept.
	Revision int64
}
