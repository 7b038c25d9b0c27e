// Package redis has the names that confd's Redis backend is compiled against.
package redis

import (
	"errors"
	"time"
)

// ErrNil is Redis's answer for a missing value, and ErrAbsent what every call of this package answers.
var (
	ErrNil    = errors.New("nil returned")
	ErrAbsent = errors.New("this confd has no Redis backend")
)

// Conn is a connection.
type Conn interface {
	Do(command string, args ...any) (any, error)
	Close() error
}

// DialOption is an option of Dial.
type DialOption struct{}

// PubSubConn is a subscribed connection.
type PubSubConn struct{ Conn Conn }

// PMessage is a published message.
type PMessage struct {
	Channel string
	Data    []byte
}

// Subscription is a change of what is subscribed.
type Subscription struct {
	Kind, Channel string
	Count         int
}

// Close does nothing.
func (PubSubConn) Close() error { return nil }

// Receive always answers ErrAbsent.
func (PubSubConn) Receive() any { return ErrAbsent }

// PSubscribe always fails with ErrAbsent.
func (PubSubConn) PSubscribe(...any) error { return ErrAbsent }

// PUnsubscribe always fails with ErrAbsent.
func (PubSubConn) PUnsubscribe(...any) error { return ErrAbsent }

// Dial always fails with ErrAbsent.
func Dial(string, string, ...DialOption) (Conn, error) { return nil, ErrAbsent }

// DialConnectTimeout is an option without effect.
func DialConnectTimeout(time.Duration) DialOption { return DialOption{} }

// DialReadTimeout is an option without effect.
func DialReadTimeout(time.Duration) DialOption { return DialOption{} }

// DialWriteTimeout is an option without effect.
func DialWriteTimeout(time.Duration) DialOption { return DialOption{} }

// DialDatabase is an option without effect.
func DialDatabase(int) DialOption { return DialOption{} }

// DialPassword is an option without effect.
func DialPassword(string) DialOption { return DialOption{} }

// String always fails with ErrAbsent.
func String(any, error) (string, error) { return "", ErrAbsent }

// Strings always fails with ErrAbsent.
func Strings(any, error) ([]string, error) { return nil, ErrAbsent }

// Int always fails with ErrAbsent.
func Int(any, error) (int, error) { return 0, ErrAbsent }

// Values always fails with ErrAbsent.
func Values(any, error) ([]any, error) { return nil, ErrAbsent }
