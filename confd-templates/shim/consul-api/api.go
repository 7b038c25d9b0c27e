// Package api has the names that confd's Consul backend is compiled against.
package api

import "errors"

// ErrAbsent is what every call of this package answers.
var ErrAbsent = errors.New("this confd has no Consul backend")

// What the calls take and return.
type (
	HttpBasicAuth struct{ Username, Password string }
	TLSConfig     struct{ CertFile, KeyFile, CAFile string }
	Config        struct {
		Scheme, Address string
		HttpAuth        *HttpBasicAuth
		TLSConfig       TLSConfig
	}
	QueryOptions struct{ WaitIndex uint64 }
	QueryMeta    struct{ LastIndex uint64 }
	KVPair       struct {
		Key   string
		Value []byte
	}
	KVPairs []*KVPair
)

// Client is the client.
type Client struct{}

// KV reads keys.
type KV struct{}

// DefaultConfig returns empty settings.
func DefaultConfig() *Config { return &Config{} }

// NewClient always fails with ErrAbsent.
func NewClient(*Config) (*Client, error) { return nil, ErrAbsent }

// KV returns the reader of keys.
func (*Client) KV() *KV { return &KV{} }

// List always fails with ErrAbsent.
func (*KV) List(string, *QueryOptions) (KVPairs, *QueryMeta, error) { return nil, nil, ErrAbsent }
