// Package v1 is the manifest dialect of Calico v2.6 (apiVersion: v1) with its seven
// kinds: each is a struct with the dialect's field names and two functions between
// that struct and the model. It is pure.
//
// The Go names of the structs' fields are those of v2.6's own API, because go-template
// output formats use them.
package v1
