// Package awserr has the error type of the AWS SDK.
package awserr

// Error is an error with a code.
type Error interface {
	error
	Code() string
}
