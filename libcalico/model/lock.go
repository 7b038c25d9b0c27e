package model

import (
	"fmt"
	"time"
)

// Lock is the value of [LockKey]: who has locked the store.
type Lock struct {
	// ID is random, and tells this lock from all others. Locks of older programs have none.
	ID string `json:"id,omitempty"`
	// By is user@host.
	By string `json:"by"`
	// Command is what locked it, such as "calicoctl datastore lock", and PID the process.
	Command string    `json:"command,omitempty"`
	PID     int       `json:"pid,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	// Boot, PIDNamespace and Started say which process that is, for whoever wants to know
	// whether it still runs: the id of the host's boot, the namespace in which PID is its
	// number, and when it started, in clock ticks since the boot (proc(5)).
	Boot         string `json:"boot,omitempty"`
	PIDNamespace string `json:"pidNamespace,omitempty"`
	Started      uint64 `json:"started,omitempty"`
	// Import says that an import has locked the store and writes: what is there may be half
	// of what is to come.
	Import bool `json:"import,omitempty"`
	// Founding says that the store had no Ready flag before the import.
	Founding bool `json:"founding,omitempty"`
	// Under is the lock that the import found and goes back to; nil when the store was open.
	Under   *Lock   `json:"under,omitempty"`
	Unknown Unknown `json:"-"`
}

// Is says whether two locks, of which either may be nil, are one, which its holder may have
// written again. Of locks of older programs, which have no id, who took them and when tells.
func (l *Lock) Is(o *Lock) bool {
	switch {
	case l == nil || o == nil || l.Import != o.Import:
		return false
	case l.ID != "" || o.ID != "":
		return l.ID == o.ID
	}
	return l.By == o.By && l.PID == o.PID && l.Since.Equal(o.Since)
}

// String is who has locked it, with what, and since when.
func (l *Lock) String() string {
	text := l.By
	switch {
	case l.Command != "" && l.PID != 0:
		text += fmt.Sprintf(" (%s, process %d)", l.Command, l.PID)
	case l.Command != "":
		text += " (" + l.Command + ")"
	}
	if !l.Since.IsZero() {
		text += " since " + l.Since.UTC().Format(time.RFC3339)
	}
	return text
}
