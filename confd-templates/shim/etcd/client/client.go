// Package client gives confd's etcd backend, which speaks etcd's v2 API, the names that it is compiled against. The
// program has no such backend: New says so.
package client

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// ErrNoV2 is what New answers.
var ErrNoV2 = errors.New("this confd does not speak etcd's v2 API: use the backend etcdv3")

// Client is an etcd v2 client.
type Client any

// Config says how to reach etcd.
type Config struct {
	Endpoints               []string
	Transport               *http.Transport
	Username, Password      string
	HeaderTimeoutPerRequest time.Duration
}

// KeysAPI reads and watches keys.
type KeysAPI interface {
	Get(ctx context.Context, key string, opts *GetOptions) (*Response, error)
	Watcher(key string, opts *WatcherOptions) Watcher
}

// GetOptions are the options of KeysAPI.Get.
type GetOptions struct{ Recursive, Sort, Quorum bool }

// WatcherOptions are the options of KeysAPI.Watcher.
type WatcherOptions struct {
	AfterIndex uint64
	Recursive  bool
}

// Watcher waits for changes.
type Watcher interface {
	Next(ctx context.Context) (*Response, error)
}

// Response is etcd's answer.
type Response struct{ Node *Node }

// Node is a key or a directory.
type Node struct {
	Key, Value    string
	Dir           bool
	Nodes         []*Node
	ModifiedIndex uint64
}

// Error is etcd's refusal.
type Error struct{ Code int }

// Error describes the refusal.
func (e *Error) Error() string { return http.StatusText(e.Code) }

// New always fails with ErrNoV2.
func New(Config) (Client, error) { return nil, ErrNoV2 }

// NewKeysAPI returns nil: there is no client to call it with.
func NewKeysAPI(Client) KeysAPI { return nil }
