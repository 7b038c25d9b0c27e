// Package zk has the names that confd's ZooKeeper backend is compiled against.
package zk

import (
	"errors"
	"time"
)

// ErrAbsent is what every call of this package answers.
var ErrAbsent = errors.New("this confd has no ZooKeeper backend")

// EventType says what an event tells.
type EventType int

// The events that confd waits for.
const (
	EventNodeDataChanged EventType = iota
	EventNodeChildrenChanged
)

// Event is a change of a node.
type Event struct {
	Type EventType
	Err  error
}

// Stat describes a node.
type Stat struct{ NumChildren int32 }

// Conn is the client.
type Conn struct{}

// Connect always fails with ErrAbsent.
func Connect([]string, time.Duration) (*Conn, <-chan Event, error) { return nil, nil, ErrAbsent }

// Children always fails with ErrAbsent.
func (*Conn) Children(string) ([]string, *Stat, error) { return nil, nil, ErrAbsent }

// ChildrenW always fails with ErrAbsent.
func (*Conn) ChildrenW(string) ([]string, *Stat, <-chan Event, error) {
	return nil, nil, nil, ErrAbsent
}

// Get always fails with ErrAbsent.
func (*Conn) Get(string) ([]byte, *Stat, error) { return nil, nil, ErrAbsent }

// GetW always fails with ErrAbsent.
func (*Conn) GetW(string) ([]byte, *Stat, <-chan Event, error) { return nil, nil, nil, ErrAbsent }

// Exists always fails with ErrAbsent.
func (*Conn) Exists(string) (bool, *Stat, error) { return false, nil, ErrAbsent }
