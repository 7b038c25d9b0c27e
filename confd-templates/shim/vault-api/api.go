// Package api has the names that confd's Vault backend is compiled against.
package api

import (
	"errors"
	"net/http"
)

// ErrAbsent is what every call of this package answers.
var ErrAbsent = errors.New("this confd has no Vault backend")

// What the calls take and return.
type (
	Config struct {
		Address    string
		HttpClient *http.Client
	}
	SecretAuth struct{ ClientToken string }
	Secret     struct {
		Auth *SecretAuth
		Data map[string]any
	}
)

// Client is the client.
type Client struct{}

// Logical reads and writes secrets.
type Logical struct{}

// DefaultConfig returns empty settings.
func DefaultConfig() *Config { return &Config{HttpClient: &http.Client{}} }

// NewClient always fails with ErrAbsent.
func NewClient(*Config) (*Client, error) { return nil, ErrAbsent }

// Logical returns the reader and writer of secrets.
func (*Client) Logical() *Logical { return &Logical{} }

// SetToken does nothing.
func (*Client) SetToken(string) {}

// Token returns nothing.
func (*Client) Token() string { return "" }

// Read always fails with ErrAbsent.
func (*Logical) Read(string) (*Secret, error) { return nil, ErrAbsent }

// List always fails with ErrAbsent.
func (*Logical) List(string) (*Secret, error) { return nil, ErrAbsent }

// Write always fails with ErrAbsent.
func (*Logical) Write(string, map[string]any) (*Secret, error) { return nil, ErrAbsent }
