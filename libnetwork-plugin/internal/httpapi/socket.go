package httpapi

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// ErrInUse says that another process answers on a socket.
var ErrInUse = errors.New("socket is in use")

// Socket is a unix socket that appears under its name only when it is published, so
// that whoever finds it finds somebody who answers. Until then it accepts nobody.
type Socket struct {
	net.Listener
	// published and closed are closed when the socket is.
	published, closed chan struct{}
	// path is empty for a socket that another process holds.
	path string
	// made is the socket as it was made, by which it is known again at the end.
	made os.FileInfo
	// dir holds the socket until it is published.
	dir string
	// close is done once, however often Close is called.
	close func() error
}

// Listen makes a socket that only its owner can use. A socket at path on which nobody
// answers is replaced when this one is published; any other file there is refused.
func Listen(path string) (*Socket, error) {
	if err := checkFree(path); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".new")
	if err != nil {
		return nil, fmt.Errorf("make socket %s: %w", path, err)
	}
	s, err := listenIn(dir, path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make socket %s: %w", path, err), os.RemoveAll(dir))
	}
	return s, nil
}

// listenIn makes the socket in dir, under a name that Docker does not look for.
func listenIn(dir, path string) (*Socket, error) {
	file := filepath.Join(dir, "s")
	l, err := net.Listen("unix", file)
	if err != nil {
		return nil, err
	}
	// By the time it is closed, the file has another name.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	err = os.Chmod(file, 0o600)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	made, err := os.Lstat(file)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s := newSocket(l)
	s.path, s.made, s.dir = path, made, dir
	return s, nil
}

// Held returns a socket that another process made and holds, so its file is there
// already, and stays. Calls wait in its queue until it is published, and those that come
// after Close wait for a successor.
func Held(l net.Listener) *Socket { return newSocket(l) }

func newSocket(l net.Listener) *Socket {
	s := &Socket{Listener: l, published: make(chan struct{}), closed: make(chan struct{})}
	s.close = sync.OnceValue(s.closeOnce)
	return s
}

// Accept waits for the next call of a socket that is published.
func (s *Socket) Accept() (net.Conn, error) {
	select {
	case <-s.published:
	case <-s.closed:
		return nil, net.ErrClosed
	}
	return s.Listener.Accept()
}

// Publish makes the socket appear under its name, in one step.
func (s *Socket) Publish() error {
	defer close(s.published)
	if s.path == "" {
		return nil
	}
	if err := os.Rename(filepath.Join(s.dir, "s"), s.path); err != nil {
		return fmt.Errorf("publish socket %s: %w", s.path, err)
	}
	return os.Remove(s.dir)
}

// Close stops listening and removes the socket, unless another process holds it or has
// put its own in the place. The HTTP server closes it as well as its owner.
func (s *Socket) Close() error { return s.close() }

func (s *Socket) closeOnce() error {
	close(s.closed)
	err := s.Listener.Close()
	if s.path == "" {
		return err
	}
	if now, statErr := os.Lstat(s.path); statErr == nil && os.SameFile(now, s.made) {
		err = errors.Join(err, os.Remove(s.path))
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// checkFree finds out whether a socket may be made at path.
func checkFree(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is not a socket: remove it", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return nil // Left by a process that has gone.
	}
	if err := conn.Close(); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w: another plugin answers there; stop it first", path, ErrInUse)
}
