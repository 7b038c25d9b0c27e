package resource

import (
	"crypto/rand"
	"fmt"
	"time"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/model"
)

// dropIdentity takes away the identity that a document brings for a new resource: it is
// another one's.
func dropIdentity(o manifest.Object) (warnings []string) {
	meta := model.MetadataOf(o.Value)
	if meta == nil || meta.UID == "" && meta.CreationTimestamp.IsZero() {
		return nil
	}
	meta.UID, meta.CreationTimestamp = "", time.Time{}
	return []string{o.Shown().String() + ": metadata.uid and metadata.creationTimestamp are made when a resource is created; those of the file are dropped"}
}

// stamp gives a new resource the identity that the store keeps for it: a random UID
// (RFC 9562, version 4) and the time of its creation. The v1 dialect does not show
// them.
func stamp(r model.Resource, now time.Time) {
	meta := model.MetadataOf(r)
	if meta == nil || meta.UID != "" {
		return
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	meta.UID = fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	meta.CreationTimestamp = now.UTC().Truncate(time.Second)
}
