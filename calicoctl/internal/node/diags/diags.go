// Package diags collects what is needed to find out what is wrong with a host, in one
// file without secrets. It needs neither a registry nor anything but what the host has:
// what is missing is listed, and the rest is collected.
package diags

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Missed is something that could not be collected.
type Missed struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Result is what was collected.
type Result struct {
	Bundle string   `json:"bundle"`
	Files  int      `json:"files"`
	Missed []Missed `json:"missed"`
}

// Source is a file of the bundle that is made by the caller: by Read, or by Stream, which is
// for what may be large and takes the secrets out itself.
type Source struct {
	Name   string
	Read   func(context.Context) ([]byte, error)
	Stream func(context.Context, io.Writer) error
}

// Config says what to collect.
type Config struct {
	// Dir gets the bundle.
	Dir string
	// Name is the bundle's name without its ending, and the folder in it.
	Name string
	// LogDir is the folder with the programs' logs.
	LogDir string
	// StateDir is what the host remembers, which has secrets' files too: they stay out.
	StateDir string
	// Wanted are the programs that should run here; there are none on a host that is no node.
	Wanted []string
	// Files are files of the host that are copied, if they are there.
	Files []string
	// Sources are made first.
	Sources  []Source
	Redactor *Redactor
	Now      time.Time
}

const (
	commandTimeout = 8 * time.Second
	// maxFile is how much of a file or an output is kept, from its end.
	maxFile = 16 << 20
)

// Collect makes the bundle.
func Collect(ctx context.Context, cfg Config) (Result, error) {
	path := filepath.Join(cfg.Dir, cfg.Name+".tar.gz")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return Result{}, err
	}
	z := gzip.NewWriter(out)
	c := collector{cfg: cfg, tar: tar.NewWriter(z), result: Result{Bundle: path, Missed: []Missed{}}}
	err = c.all(ctx)
	err = errors.Join(err, c.tar.Close(), z.Close(), out.Close())
	if err != nil {
		return c.result, errors.Join(err, os.Remove(path))
	}
	return c.result, nil
}

type collector struct {
	cfg    Config
	tar    *tar.Writer
	result Result
	// inside says that calico-node's container runs.
	inside   bool
	manifest []entry
	started  time.Time
}

// entry says what became of one thing.
type entry struct {
	Name string `json:"name"`
	// Bytes is its size in the bundle; 0 when it is not there.
	Bytes int64 `json:"bytes"`
	// Milliseconds is how long it took.
	Milliseconds int64  `json:"milliseconds"`
	Why          string `json:"why,omitempty"`
}

func (c *collector) all(ctx context.Context) error {
	c.learn(ctx)
	for _, s := range c.cfg.Sources {
		if err := c.source(ctx, s); err != nil {
			return err
		}
	}
	for _, part := range []func(context.Context) error{c.commands, c.container, c.docker, c.files, c.logs} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	var missed bytes.Buffer
	for _, m := range c.result.Missed {
		fmt.Fprintf(&missed, "%s: %s\n", m.Name, m.Reason)
	}
	if err := c.add("missed.txt", missed.Bytes()); err != nil {
		return err
	}
	manifest, err := json.MarshalIndent(c.manifest, "", "  ")
	if err != nil {
		return err
	}
	return c.add("manifest.json", manifest)
}

// learn finds out whether the container runs, and which secrets it was given: they are taken
// out wherever they stand.
func (c *collector) learn(ctx context.Context) {
	out, err := run(ctx, "docker", "container", "inspect", "--format", "{{.State.Running}} {{json .Config.Env}}", nodeContainer)
	running, env, _ := strings.Cut(string(out), " ")
	c.inside = err == nil && running == "true"
	var variables []string
	if json.Unmarshal([]byte(env), &variables) == nil {
		c.cfg.Redactor.KnowVariables(variables)
	}
	files, err := filepath.Glob(filepath.Join(c.cfg.StateDir, "*.env"))
	if err != nil {
		return // the pattern is not at fault
	}
	for _, name := range files {
		if text, err := os.ReadFile(name); err == nil {
			c.cfg.Redactor.KnowVariables(strings.Split(string(text), "\n"))
		}
	}
}

func (c *collector) files(context.Context) error {
	for _, name := range c.cfg.Files {
		c.started = time.Now()
		data, err := readEnd(name)
		if errors.Is(err, fs.ErrNotExist) {
			err = errAbsent
		}
		if err := c.keep("files"+name, data, err); err != nil {
			return err
		}
	}
	if _, err := os.Stat(c.cfg.StateDir); errors.Is(err, fs.ErrNotExist) {
		return nil // a host that is no node
	}
	return c.folder("state", c.cfg.StateDir, func(name string) bool {
		return strings.HasSuffix(name, ".env") || strings.HasSuffix(name, ".key") || strings.HasSuffix(name, ".pem")
	})
}

func (c *collector) source(ctx context.Context, s Source) error {
	c.started = time.Now()
	if s.Stream != nil {
		return c.stream(ctx, s)
	}
	data, err := s.Read(ctx)
	return c.keep(s.Name, data, err)
}

// stream adds what a source writes. The archive has to know its size before, so that it is
// kept beside the bundle meanwhile, in a file without a name.
func (c *collector) stream(ctx context.Context, s Source) error {
	f, err := os.CreateTemp(c.cfg.Dir, "."+c.cfg.Name+"-") // mode 0600
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it has no name, nothing is left of it
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	out := bufio.NewWriter(f)
	if err := errors.Join(s.Stream(ctx, out), out.Flush()); err != nil {
		return c.keep(s.Name, nil, err)
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	c.manifest = append(c.manifest, entry{Name: s.Name, Bytes: size, Milliseconds: time.Since(c.started).Milliseconds()})
	return c.addFrom(s.Name, f, size)
}

// fileName is a command as the name of a file.
func fileName(command []string) string {
	name, _, _ := strings.Cut(strings.Join(command, "_"), "_--format")
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(`/\^$|()*' `, r) {
			return -1
		}
		return r
	}, name) + ".txt"
}

// keep adds a file, or notes why there is none.
func (c *collector) keep(name string, data []byte, err error) error {
	e := entry{Name: name, Milliseconds: time.Since(c.started).Milliseconds()}
	if err != nil {
		e.Why = string(c.cfg.Redactor.Redact([]byte(strings.TrimSpace(err.Error()))))
		if !errors.Is(err, errAbsent) {
			c.result.Missed = append(c.result.Missed, Missed{name, e.Why})
		}
	}
	if len(data) > 0 {
		data = c.cfg.Redactor.Redact(data)
		e.Bytes = int64(len(data))
	}
	c.manifest = append(c.manifest, e)
	if len(data) == 0 {
		return nil
	}
	return c.addFrom(name, bytes.NewReader(data), e.Bytes)
}

func (c *collector) add(name string, data []byte) error {
	data = c.cfg.Redactor.Redact(data)
	return c.addFrom(name, bytes.NewReader(data), int64(len(data)))
}

func (c *collector) addFrom(name string, r io.Reader, size int64) error {
	err := c.tar.WriteHeader(&tar.Header{Name: c.cfg.Name + "/" + name, Mode: 0o600, Size: size, ModTime: c.cfg.Now})
	if err != nil {
		return err
	}
	c.result.Files++
	_, err = io.Copy(c.tar, r)
	return err
}

// run returns what a program printed, also when it failed.
func run(ctx context.Context, command ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.WaitDelay = time.Second
	data, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, errNotInstalled
	case ctx.Err() != nil:
		err = fmt.Errorf("it did not end within %s", commandTimeout)
	case err != nil:
		said, _, _ := bytes.Cut(bytes.TrimSpace(data), []byte("\n"))
		err = fmt.Errorf("%w: %s", err, said)
	}
	return data[max(0, len(data)-maxFile):], err
}

// readEnd reads the end of a file.
func readEnd(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	if info, err := f.Stat(); err == nil && info.Size() > maxFile {
		if _, err := f.Seek(-maxFile, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}
