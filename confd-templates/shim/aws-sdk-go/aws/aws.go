// Package aws has the names of the AWS SDK that confd's DynamoDB and SSM backends are compiled against.
package aws

import "errors"

// ErrAbsent is what every call of these packages answers.
var ErrAbsent = errors.New("this confd has no AWS backend")

// Config says how to reach a service.
type Config struct {
	Endpoint    *string
	Credentials *Credentials
}

// Credentials are never found.
type Credentials struct{}

// Get always fails with ErrAbsent.
func (*Credentials) Get() (any, error) { return nil, ErrAbsent }

// String returns a pointer to a copy of s.
func String(s string) *string { return &s }

// Bool returns a pointer to a copy of b.
func Bool(b bool) *bool { return &b }
