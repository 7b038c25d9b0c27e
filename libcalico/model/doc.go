// Package model holds what Calico for Docker stores in etcd: the resources, their
// keys, how both are written, and which values are valid. It is pure: no I/O, no
// clock, no log.
//
// The key tree is the classic one of Calico v2.6, so that what operators know of
// /calico keeps being true and old data can be copied key by key. A resource has
// one [Key] and one [Resource] value. Most resources live in one etcd key; a node
// and a profile are spread over several, which [Paths], [Encode] and [Decode] hide:
// nobody above this package handles half a node.
//
//	Key ──Paths──► etcd paths ──ParsePath──► Key, part
//	Resource ──Encode──► {path: bytes} ──Decode──► Resource
package model
