package logattr

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pipePart is how much a pipe that is ready takes at once (PIPE_BUF, pipe(7)).
	pipePart = 4096
	// pipePatience is how long a reader that has fallen behind is waited for.
	pipePatience = time.Second
)

// Lossy is a file for the log of a program that must go on when nobody reads that: svlogd reads
// no more while its disk is full, and a full pipe would stop the program at its next line. Such
// lines are lost, and how many is told once there is a reader again. What is no file stays as it
// is.
func Lossy(w io.Writer) io.Writer {
	f, ok := w.(*os.File)
	if !ok {
		return w
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return w
	}
	return &lossy{file: f, conn: conn, patience: pipePatience}
}

type lossy struct {
	file *os.File
	conn syscall.RawConn

	mu sync.Mutex
	// patience is none once a reader has not come.
	patience time.Duration
	lost     int
	// torn says that the last line is only half there.
	torn bool
}

// Write writes lines, or counts them as lost, which is no error.
func (l *lossy) Write(lines []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ready(l.patience) {
		l.patience = 0
		l.lost++
		return len(lines), nil
	}
	l.patience = pipePatience
	if l.lost > 0 || l.torn {
		note := fmt.Sprintf("%d entries of this log were lost: nothing took them (a full disk?)\n", l.lost)
		if l.torn {
			note = "…\n" + note
		}
		l.lost, l.torn = 0, false
		if _, err := l.file.WriteString(note); err != nil {
			return 0, err
		}
	}
	return l.parts(lines)
}

// parts writes what is more than a pipe takes at once bit by bit.
func (l *lossy) parts(lines []byte) (n int, err error) {
	for rest := lines; len(rest) > 0; {
		if !l.ready(l.patience) {
			l.patience, l.torn = 0, n > 0
			l.lost++
			return len(lines), nil
		}
		part := rest[:min(len(rest), pipePart)]
		written, err := l.file.Write(part)
		n += written
		if err != nil {
			return n, err
		}
		rest = rest[len(part):]
	}
	return n, nil
}

// ready says whether the file takes a part within a time. One that cannot be asked does.
func (l *lossy) ready(within time.Duration) bool {
	ready := true
	err := l.conn.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}} //nolint:gosec // a file descriptor
		for deadline := time.Now().Add(within); ; {
			n, err := unix.Poll(poll, int(max(0, time.Until(deadline)).Milliseconds()))
			if !errors.Is(err, unix.EINTR) {
				ready = err != nil || n > 0
				return
			}
		}
	})
	return err != nil || ready
}
