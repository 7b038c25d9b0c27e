// Package systemd is what systemd, or whoever stands in for it, and a service tell one
// another: sockets that are handed over at the start (sd_listen_fds(3)), and the word that
// the service is ready (sd_notify(3)) (edge).
package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// firstFD is the number of the first socket that is handed over.
const firstFD = 3

// Listener is a listening unix socket that this process was handed. Its file is its
// holder's: closing the listener leaves it where it is, with the calls that wait.
type Listener struct {
	*net.UnixListener

	// Name is what the holder calls the socket; systemd names all sockets of a unit alike.
	Name string
}

// File is the last part of the socket's path, without its ".sock".
func (l Listener) File() string {
	return strings.TrimSuffix(filepath.Base(l.Addr().String()), ".sock")
}

// Listeners takes over the sockets that this process was handed. It is called once: a
// second call finds them closed. Without any it returns none.
func Listeners(getenv func(string) string) ([]Listener, error) {
	names, err := handed(getenv, os.Getpid())
	if err != nil {
		return nil, err
	}
	var taken []Listener
	for i, name := range names {
		l, err := take(firstFD+i, name)
		if err != nil {
			return nil, errors.Join(err, Close(taken))
		}
		taken = append(taken, l)
	}
	return taken, nil
}

// Close closes listeners, of which all files stay.
func Close(listeners []Listener) error {
	var errs []error
	for _, l := range listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// handed lists the names of the sockets that the variables hand to the process pid.
func handed(getenv func(string) string, pid int) ([]string, error) {
	// Variables that a parent left in the environment are for the parent.
	if getenv("LISTEN_PID") != strconv.Itoa(pid) {
		return nil, nil
	}
	count, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || count < 0 {
		return nil, fmt.Errorf("LISTEN_FDS is %q, not a number of sockets: start the plugin by its socket unit", getenv("LISTEN_FDS"))
	}
	names := make([]string, count)
	copy(names, strings.Split(getenv("LISTEN_FDNAMES"), ":"))
	return names, nil
}

// take makes a listener of a file descriptor, which is closed.
func take(fd int, name string) (Listener, error) {
	syscall.CloseOnExec(fd)
	file := os.NewFile(uintptr(fd), name)
	l, err := net.FileListener(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return Listener{}, fmt.Errorf("file descriptor %d (%q) that LISTEN_FDS hands over: %w", fd, name, err)
	}
	unix, ok := l.(*net.UnixListener)
	if !ok {
		return Listener{}, errors.Join(fmt.Errorf("file descriptor %d (%q) that LISTEN_FDS hands over is a socket of %s, not a unix socket",
			fd, name, l.Addr().Network()), l.Close())
	}
	unix.SetUnlinkOnClose(false)
	return Listener{UnixListener: unix, Name: name}, nil
}

// The states that a service tells.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
)

// Notify tells the service's manager a state, if there is one that wants to know.
func Notify(getenv func(string) string, state string) error {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	// A path that begins with "@" is in the abstract namespace; net knows it by that, too.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell the service's manager %s: %w", state, err)
	}
	if _, err := conn.Write([]byte(state)); err != nil {
		return errors.Join(fmt.Errorf("tell the service's manager %s: %w", state, err), conn.Close())
	}
	return conn.Close()
}
