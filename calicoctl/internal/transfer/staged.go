package transfer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// staged is a file that is to take the place of another. As long as it is written it has no
// name where the file system can do that, so that nothing is left of it when its writer is
// killed; it may hold passwords. Whoever writes one holds its lock: one with a name that nobody
// holds was left behind.
type staged struct {
	*os.File

	path string // which it is to be
	name string // that it has meanwhile; empty while it has none
}

// stage begins a file that only its owner may read.
func stage(path string) (*staged, error) {
	if f, err := unnamed(filepath.Dir(path)); err == nil {
		return &staged{File: f, path: path}, nil
	}
	return stageNamed(path)
}

// stageNamed is stage for a file system that has no files without a name.
func stageNamed(path string) (*staged, error) {
	for {
		f, err := os.CreateTemp(filepath.Dir(path), stagedPrefix(path)) // mode 0600
		if err != nil {
			return nil, err
		}
		s := &staged{File: f, path: path, name: f.Name()}
		if hold(s.File, 0); s.named() {
			return s, nil
		}
		_ = s.Close() // somebody took it for one that was left behind
	}
}

// unnamed is a locked file in a directory that has no name, and can get one.
func unnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), dir)
	if _, err = os.Stat(procName(f)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	hold(f, 0)
	return f, nil
}

// procName is the name of an open file by which it can be linked.
func procName(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// hold locks a file; it is false when it is locked already, or cannot be.
func hold(f *os.File, how int) bool { return unix.Flock(int(f.Fd()), unix.LOCK_EX|how) == nil }

// named says whether the file still is the one of its name.
func (s *staged) named() bool {
	mine, err := s.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(s.name)
	return err == nil && os.SameFile(mine, there)
}

// replace makes the file, which is written and synced, the one that it is to be.
func (s *staged) replace() error {
	if s.name == "" {
		err := s.link(s.path)
		if err == nil || !errors.Is(err, os.ErrExist) {
			return err
		}
		if err = s.linkBeside(); err != nil {
			return err
		}
	}
	if err := os.Rename(s.name, s.path); err != nil {
		return err
	}
	s.name = ""
	return nil
}

// linkBeside gives the file a name of its own, by which it can be renamed.
func (s *staged) linkBeside() error {
	for n := os.Getpid(); ; n++ {
		name := filepath.Join(filepath.Dir(s.path), stagedPrefix(s.path)+strconv.Itoa(n))
		err := s.link(name)
		if err == nil {
			s.name = name
		}
		if !errors.Is(err, os.ErrExist) {
			return err
		}
	}
}

func (s *staged) link(name string) error {
	err := unix.Linkat(unix.AT_FDCWD, procName(s.File), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return &os.LinkError{Op: "link", Old: "a file without a name", New: name, Err: err}
	}
	return nil
}

// drop removes what has not become what it was to be.
func (s *staged) drop() error {
	if s.name == "" {
		return nil
	}
	return ignoreMissing(os.Remove(s.name))
}

// stagedPrefix begins the names of files that are to be a path; a number follows.
func stagedPrefix(path string) string { return "." + filepath.Base(path) + "-" }

var onlyDigits = regexp.MustCompile(`^[0-9]+$`)

// sweepStaged removes files of the same user that were to be a path, and that no program
// writes any more: it was killed. What cannot be removed is left, as it was before.
func sweepStaged(path string) {
	dir, prefix := filepath.Dir(path), stagedPrefix(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if len(e.Name()) <= len(prefix) || e.Name()[:len(prefix)] != prefix || !onlyDigits.MatchString(e.Name()[len(prefix):]) {
			continue
		}
		if info, err := e.Info(); err == nil && isStaged(info) {
			removeUnheld(filepath.Join(dir, e.Name()))
		}
	}
}

// isStaged says whether a file may be one that this user has staged.
func isStaged(info os.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode() == 0o600 && int(owner.Uid) == os.Geteuid()
}

// removeUnheld removes a file that no program holds the lock of.
func removeUnheld(name string) {
	f, err := os.OpenFile(name, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer f.Close() //nolint:errcheck // nothing was written
	if left := (&staged{File: f, name: name}); hold(f, unix.LOCK_NB) && left.named() {
		_ = left.drop()
	}
}
