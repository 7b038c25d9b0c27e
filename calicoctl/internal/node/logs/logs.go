// Package logs reads what the programs of a node have logged: a folder for each program, in
// which svlogd keeps the file current and, beside it, those that it was before. It is the
// edge to these files.
package logs

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// current is the file that svlogd writes; older ones are called after the time of their end,
// "@" and 24 hexadecimal digits (TAI64N), and so stand in order.
const current = "current"

// Entry is what a program has logged at once: a line with its time, and lines without one
// that follow it.
type Entry struct {
	Program string
	// Time is as svlogd writes it, in UTC; it sorts as text.
	Time string
	// Text is whole lines, Time among them, without the last line's end.
	Text string
}

// Programs lists those that have a log below a directory.
func Programs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		if files, err := list(filepath.Join(dir, e.Name())); err == nil && len(files) > 0 {
			all = append(all, e.Name())
		}
	}
	return all, nil
}

// list is the files of a program's log, the oldest first.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if name := e.Name(); name == current || strings.HasPrefix(name, "@") {
			files = append(files, name)
		}
	}
	// "@" sorts before "c".
	slices.Sort(files)
	return files, nil
}

// Last is the last n lines of a program's log.
func Last(dir, program string, n int) ([]string, error) {
	r, err := open(filepath.Join(dir, program))
	if err != nil {
		return nil, err
	}
	defer r.close()
	var last []string
	for {
		line, err := r.line()
		if errors.Is(err, io.EOF) {
			return last, nil
		}
		if err != nil {
			return nil, err
		}
		last = append(last, line)
		if len(last) > n {
			last = last[1:]
		}
	}
}

// reader reads a program's log from its oldest file on, line by line, and goes on to the
// next file when svlogd has begun one.
type reader struct {
	dir  string
	file *os.File
	buf  *bufio.Reader
	// part is a line whose end is not written yet.
	part string
}

// open begins at a program's oldest file.
func open(dir string) (*reader, error) {
	r := &reader{dir: dir}
	if _, err := list(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is not there", dir)
		}
		return nil, err
	}
	return r, nil
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close() // only read
	}
}

// line is the next whole line; [io.EOF] says that there is none yet.
func (r *reader) line() (string, error) {
	for {
		if r.file != nil {
			text, err := r.buf.ReadString('\n')
			if err == nil {
				text, r.part = r.part+strings.TrimSuffix(text, "\n"), ""
				return text, nil
			}
			if !errors.Is(err, io.EOF) {
				return "", err
			}
			r.part += text
		}
		moved, err := r.next()
		if err != nil {
			return "", err
		}
		if !moved {
			return "", io.EOF
		}
	}
}

// next goes to the file after the one that is read, if there is one. What was written into
// the old one until svlogd left it has then been read, since it is looked at once more.
func (r *reader) next() (moved bool, err error) {
	files, at, err := r.position()
	if err != nil || at+1 >= len(files) {
		return false, err
	}
	if r.file != nil {
		if rest, err := r.buf.Peek(1); err == nil && len(rest) > 0 {
			return true, nil // written meanwhile
		}
	}
	f, err := os.Open(filepath.Join(r.dir, files[at+1]))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil // renamed meanwhile: look again
	}
	if err != nil {
		return false, err
	}
	r.close()
	r.file, r.buf = f, bufio.NewReader(f)
	return true, nil
}

// lookAgain is how often a file is looked for that may just get another name.
const lookAgain = 3

// position is the files, and which of them is read, by what it is, since its name changes;
// -1 before the first, or when it is gone.
func (r *reader) position() (files []string, at int, err error) {
	for range lookAgain {
		if files, err = list(r.dir); err != nil || r.file == nil {
			return files, -1, err
		}
		own, err := r.file.Stat()
		if err != nil {
			return nil, 0, err
		}
		at = slices.IndexFunc(files, func(name string) bool {
			other, err := os.Stat(filepath.Join(r.dir, name))
			return err == nil && os.SameFile(own, other)
		})
		if at >= 0 {
			break
		}
	}
	return files, at, nil
}

// stampLength is that of the times that svlogd writes (-tt): 2026-01-31_12:00:00.12345.
const stampLength = len("2026-01-31_12:00:00.12345")

// stamp is the time that a line begins with; empty when it begins with none.
func stamp(line string) string {
	if len(line) < stampLength || line[4] != '-' || line[10] != '_' || line[13] != ':' {
		return ""
	}
	return line[:stampLength]
}

// source reads the entries of a program one ahead.
type source struct {
	program string
	reader  *reader
	// ahead is a line that belongs to the entry after the one that was returned last.
	ahead  string
	has    bool
	latest string
}

// entry is the next one; [io.EOF] says that there is none yet.
func (s *source) entry() (Entry, error) {
	if !s.has {
		line, err := s.reader.line()
		if err != nil {
			return Entry{}, err
		}
		s.ahead, s.has = line, true
	}
	e := Entry{Program: s.program, Time: cmp.Or(stamp(s.ahead), s.latest), Text: s.ahead}
	s.has, s.latest = false, e.Time
	for {
		line, err := s.reader.line()
		if errors.Is(err, io.EOF) {
			return e, nil
		}
		if err != nil {
			return e, err
		}
		if stamp(line) != "" {
			s.ahead, s.has = line, true
			return e, nil
		}
		e.Text += "\n" + line
	}
}
