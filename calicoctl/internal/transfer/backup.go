package transfer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// ErrNotLasting says that a file is written and holds what it should, but that a loss of
// power may bring back what it was.
var ErrNotLasting = errors.New("its directory cannot be synced")

// WriteFile makes a file hold what write writes, which only its owner may read. The file
// changes all at once and lastingly, or, when that fails or the host loses power, stays what
// it was: it is written beside, synced and renamed. What writers that were killed have left
// beside it is removed. What is no regular file, such as a pipe,
// is written to as it is. [ErrNotLasting] is the one error after which the file has changed.
func WriteFile(path string, write func(io.Writer) error) (err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return writeTo(path, write)
	}
	sweepStaged(path)
	f, err := stage(path)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.drop())
		}
	}()
	err = errors.Join(buffered(f.File, write), f.Sync())
	if err == nil {
		err = f.replace()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("%w: %w", ErrNotLasting, err)
	}
	return nil
}

func writeTo(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(buffered(f, write), f.Close())
}

func buffered(f *os.File, write func(io.Writer) error) error {
	b := bufio.NewWriter(f)
	if err := write(b); err != nil {
		return err
	}
	return b.Flush()
}

// syncDir makes a rename in a directory last.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
