package services

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Dir is the directory of services that runsvdir runs.
type Dir string

const (
	exitFile = "exit"
	// finish notes how the program ended. It is run by runsv in the service's directory.
	finish = "#!/bin/sh\necho \"$1 $2\" >supervise/" + exitFile + "\n"
)

// Lay fills the directory with the named services, which lie ready in another one. What was
// there before is removed: of a container that is started again it is the last run's. Without
// files the programs log to where the whole container does.
func (d Dir) Lay(available string, names []string, files bool) error {
	if err := os.RemoveAll(string(d)); err != nil {
		return fmt.Errorf("services: %w", err)
	}
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return fmt.Errorf("services: %w", err)
	}
	for _, name := range names {
		if err := d.lay(filepath.Join(available, name), name, files); err != nil {
			return fmt.Errorf("service %s: %w", name, err)
		}
	}
	// runsvdir waits until the second is over in which the directory was changed.
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(string(d), past, past); err != nil {
		return fmt.Errorf("services: %w", err)
	}
	return nil
}

func (d Dir) lay(from, name string, files bool) error {
	if err := os.CopyFS(d.file(name), os.DirFS(from)); err != nil {
		return err
	}
	if !files {
		if err := os.RemoveAll(d.file(name, "log")); err != nil {
			return err
		}
	}
	if err := os.WriteFile(d.file(name, "finish"), []byte(finish), 0o755); err != nil {
		return err
	}
	// runsv makes it if it is not there; so it can be watched before.
	return os.Mkdir(d.file(name, "supervise"), 0o700)
}

// Command is an order to runsv, a byte of its control file.
type Command byte

// The commands that are used.
const (
	Stop Command = 'd' // send TERM, do not start it again
	End  Command = 'x' // the same, and runsv ends after it and its logger
	Kill Command = 'k' // send KILL
)

// ErrNotSupervised says that no runsv listens.
var ErrNotSupervised = errors.New("no runsv looks after it")

// Send gives a command to the runsv of a service.
func (d Dir) Send(name string, c Command) error {
	f, err := os.OpenFile(d.file(name, "supervise", "control"), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return notSupervised(name, err)
	}
	_, err = f.Write([]byte{byte(c)})
	return errors.Join(err, f.Close())
}

func notSupervised(name string, err error) error {
	// A fifo that nobody reads (fifo(7)), or none yet.
	if errors.Is(err, syscall.ENXIO) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("service %s: %w", name, ErrNotSupervised)
	}
	return fmt.Errorf("service %s: %w", name, err)
}

// supervised is whether a runsv looks after a service: it reads the fifo ok for as long as it
// lives.
func (d Dir) supervised(name string) bool {
	f, err := os.OpenFile(d.file(name, "supervise", "ok"), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}

// Supervised lists those of the named services that a runsv looks after.
func (d Dir) Supervised(names []string) []string {
	var out []string
	for _, name := range names {
		if d.supervised(name) {
			out = append(out, name)
		}
	}
	return out
}
