// Package services is the edge to runit (runsvdir(8), runsv(8)): it lays the services out,
// reads what runsv says of each, hears of changes, and passes commands on.
package services

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// State is what runsv says that a service does.
type State byte

// The states, as they stand in the status file.
const (
	Down      State = 0
	Running   State = 1
	Finishing State = 2 // the program has ended, ./finish runs
)

// Status is what runsv says of a service.
type Status struct {
	State State
	// PID is that of the program, or of ./finish; 0 when neither runs.
	PID int
	// Since is when that began.
	Since time.Time
	// Wanted is whether runsv is to start it again when it ends.
	Wanted bool
}

// Layout of supervise/status, as sv(8) of runit 2.x reads it: a TAI64N label of 12 bytes, the
// process id with its lowest byte first, then a byte each: paused, wanted (u, d, x), whether TERM was
// sent, and the state.
const (
	statusSize  = 20
	nanosAt     = 8
	pidAt       = 12
	wantedAt    = 17
	stateAt     = 19
	taiUnixZero = 4611686018427387914 // the label of 1970-01-01, as runit counts it
)

// Parse reads the content of a status file.
func Parse(b []byte) (Status, error) {
	if len(b) != statusSize {
		return Status{}, fmt.Errorf("%d bytes, not %d", len(b), statusSize)
	}
	s := Status{
		State: State(b[stateAt]), PID: int(binary.LittleEndian.Uint32(b[pidAt:])), Wanted: b[wantedAt] == 'u',
		Since: time.Unix(int64(binary.BigEndian.Uint64(b)-taiUnixZero), int64(binary.BigEndian.Uint32(b[nanosAt:]))), //nolint:gosec // years around today
	}
	if s.State > Finishing {
		return Status{}, fmt.Errorf("unknown state %d", s.State)
	}
	return s, nil
}

// Exit is how a program ended last.
type Exit struct {
	// Code is its exit code, or -1 when a signal ended it.
	Code   int
	Signal int
	At     time.Time
}

// Service is all that is known of a service.
type Service struct {
	Status

	// Supervised is whether a runsv looks after it; without one it is not started again.
	Supervised bool
	// Last is how it ended last; nil if it never has.
	Last *Exit
}

// Read reads what is known of a service. One that no runsv has looked at yet is down.
func (d Dir) Read(name string) (Service, error) {
	s := Service{Supervised: d.supervised(name)}
	text, err := os.ReadFile(d.file(name, "supervise", "status"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err != nil:
		return s, err
	}
	if s.Status, err = Parse(text); err != nil {
		return s, fmt.Errorf("status of service %s: %w", name, err)
	}
	s.Last = d.lastExit(name)
	return s, nil
}

// lastExit reads what ./finish left: the exit code and the lower byte of the wait status.
func (d Dir) lastExit(name string) *Exit {
	path := d.file(name, "supervise", exitFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	code, signal, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	e := &Exit{}
	if e.Code, err = strconv.Atoi(code); err != nil {
		return nil // ./finish is writing it
	}
	e.Signal, _ = strconv.Atoi(signal)
	e.Signal &= 0x7f // without the mark of a core dump
	if info, err := os.Stat(path); err == nil {
		e.At = info.ModTime()
	}
	return e
}

func (d Dir) file(parts ...string) string {
	return filepath.Join(append([]string{string(d)}, parts...)...)
}
