// Package diags collects what is needed to find out what is wrong with a host, in one
// file without secrets. It needs neither a registry nor anything but what the host has:
// what is missing is listed, and the rest is collected.
package diags

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
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

// Source is a file of the bundle that is made by the caller.
type Source struct {
	Name string
	Read func(context.Context) ([]byte, error)
}

// Config says what to collect.
type Config struct {
	// Dir gets the bundle.
	Dir string
	// Name is the bundle's name without its ending, and the folder in it.
	Name string
	// LogDir is the folder with the programs' logs.
	LogDir string
	// Files are files of the host that are copied.
	Files []string
	// Sources are made first.
	Sources  []Source
	Redactor *Redactor
	Now      time.Time
}

const (
	commandTimeout = 20 * time.Second
	// maxFile is how much of a file or an output is kept, from its end.
	maxFile = 16 << 20
)

// commands are what is asked of the host.
var commands = [][]string{
	{"date"},
	{"hostname"},
	{"uname", "-a"},
	{"uptime"},
	{"ip", "-details", "-statistics", "link"},
	{"ip", "address"},
	{"ip", "-4", "route", "show", "table", "all"},
	{"ip", "-6", "route", "show", "table", "all"},
	{"ip", "rule"},
	{"ip", "neighbour"},
	{"iptables-save", "-c"},
	{"ip6tables-save", "-c"},
	{"ipset", "list"},
	{"nft", "list", "ruleset"},
	{"ss", "-tanp"},
	{"ps", "auxww"},
	{"lsmod"},
	{"sysctl", "-a", "-r", `^net\.(ipv4|ipv6|netfilter)`},
	{"journalctl", "--no-pager", "-n", "5000", "-u", "docker"},
	{"journalctl", "--no-pager", "-n", "2000", "-k"},
	{"docker", "version"},
	{"docker", "info"},
	{"docker", "ps", "-a", "--no-trunc"},
	{"docker", "network", "ls", "--no-trunc"},
}

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
}

func (c *collector) all(ctx context.Context) error {
	for _, s := range c.cfg.Sources {
		data, err := s.Read(ctx)
		if err := c.keep(s.Name, data, err); err != nil {
			return err
		}
	}
	for _, command := range commands {
		if err := c.command(ctx, "commands/"+fileName(command), command...); err != nil {
			return err
		}
	}
	if err := c.docker(ctx); err != nil {
		return err
	}
	for _, name := range c.cfg.Files {
		data, err := readEnd(name)
		if err := c.keep("files"+name, data, err); err != nil {
			return err
		}
	}
	if err := c.logs(); err != nil {
		return err
	}
	var missed bytes.Buffer
	for _, m := range c.result.Missed {
		fmt.Fprintf(&missed, "%s: %s\n", m.Name, m.Reason)
	}
	return c.add("missed.txt", missed.Bytes())
}

// fileName is a command as the name of a file.
func fileName(command []string) string {
	name := strings.Join(command, "_")
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(`/\^$|()*' `, r) {
			return -1
		}
		return r
	}, name) + ".txt"
}

// keep adds a file, or notes why there is none.
func (c *collector) keep(name string, data []byte, err error) error {
	if err != nil {
		c.result.Missed = append(c.result.Missed, Missed{name, strings.TrimSpace(err.Error())})
	}
	if len(data) == 0 {
		return nil
	}
	return c.add(name, data)
}

func (c *collector) add(name string, data []byte) error {
	data = c.cfg.Redactor.Redact(data)
	err := c.tar.WriteHeader(&tar.Header{
		Name: c.cfg.Name + "/" + name, Mode: 0o600, Size: int64(len(data)), ModTime: c.cfg.Now,
	})
	if err != nil {
		return err
	}
	c.result.Files++
	_, err = c.tar.Write(data)
	return err
}

func (c *collector) command(ctx context.Context, file string, command ...string) error {
	data, err := run(ctx, command...)
	return c.keep(file, data, err)
}

// run returns what a program printed, also when it failed.
func run(ctx context.Context, command ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.WaitDelay = time.Second
	data, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("the command is not installed")
	}
	return data[max(0, len(data)-maxFile):], err
}

// docker asks the engine about the networks of this project and the containers that
// run it.
func (c *collector) docker(ctx context.Context) error {
	networks, err := run(ctx, "docker", "network", "ls", "-q", "--filter", "driver=calico")
	if ids := strings.Fields(string(networks)); err == nil && len(ids) > 0 {
		if err := c.command(ctx, "docker/networks.json", append([]string{"docker", "network", "inspect"}, ids...)...); err != nil {
			return err
		}
	}
	names, err := run(ctx, "docker", "ps", "-a", "--format", "{{.Names}}", "--filter", "name=calico")
	if err != nil {
		return nil //nolint:nilerr // "docker ps" has said so before
	}
	for name := range strings.FieldsSeq(string(names)) {
		if err := c.command(ctx, "docker/"+name+".json", "docker", "inspect", name); err != nil {
			return err
		}
		if err := c.command(ctx, "docker/"+name+".log", "docker", "logs", "--timestamps", "--tail", "20000", name); err != nil {
			return err
		}
	}
	return nil
}

// logs copies the log folder.
func (c *collector) logs() error {
	return filepath.WalkDir(c.cfg.LogDir, func(path string, d fs.DirEntry, err error) error {
		name, relErr := filepath.Rel(c.cfg.LogDir, path)
		switch {
		case err != nil || relErr != nil:
			return c.keep("logs/"+name, nil, errors.Join(err, relErr))
		case !d.Type().IsRegular() || d.Name() == "lock":
			return nil
		}
		data, err := readEnd(path)
		return c.keep("logs/"+name, data, err)
	})
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
