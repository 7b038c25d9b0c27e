// Package ssm has the names that confd's SSM backend is compiled against.
package ssm

import (
	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/session"
)

// ErrCodeParameterNotFound is the code of a missing parameter.
const ErrCodeParameterNotFound = "ParameterNotFound"

// SSM is the client.
type SSM struct{}

// What the calls take and return.
type (
	Parameter                struct{ Name, Value *string }
	GetParametersByPathInput struct {
		Path                      *string
		Recursive, WithDecryption *bool
	}
	GetParametersByPathOutput struct{ Parameters []*Parameter }
	GetParameterInput         struct {
		Name           *string
		WithDecryption *bool
	}
	GetParameterOutput struct{ Parameter *Parameter }
)

// New returns a client that only answers with [aws.ErrAbsent].
func New(*session.Session, ...*aws.Config) *SSM { return &SSM{} }

// GetParametersByPathPages always fails.
func (*SSM) GetParametersByPathPages(*GetParametersByPathInput, func(*GetParametersByPathOutput, bool) bool) error {
	return aws.ErrAbsent
}

// GetParameter always fails.
func (*SSM) GetParameter(*GetParameterInput) (*GetParameterOutput, error) { return nil, aws.ErrAbsent }
