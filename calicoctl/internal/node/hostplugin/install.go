package hostplugin

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"unicode/utf8"

	"calico.internal/libcalico/wholefile"
)

// mainPackage is what the plugin's program was built from, as it says itself.
const mainPackage = "calico.internal/libnetwork-plugin/cmd/libnetwork-plugin"

// Content is what an installation holds.
type Content struct {
	// Program is read for the plugin's program.
	Program io.Reader
	// Variables are the service's, each as NAME=VALUE; nil leaves those of the installation.
	Variables []string
}

// file is one of an installation's, by its name below the root.
type file struct {
	name string
	mode fs.FileMode
	text []byte // nil: there is none
}

// Install puts the files in place, each whole or not at all, and has systemd read them. changed
// says whether a file is other than before; undo puts back what was there.
func (s Service) Install(ctx context.Context, c Content) (changed bool, undo func(context.Context) error, err error) {
	files, err := s.files(ctx, c)
	if err != nil {
		return false, nil, err
	}
	before := make([]file, len(files))
	for i, f := range files {
		before[i] = file{name: f.name, mode: f.mode}
		if before[i].text, err = os.ReadFile(s.path(f.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, nil, err
		}
		changed = changed || !bytes.Equal(f.text, before[i].text)
	}
	undo = func(ctx context.Context) error { return s.put(ctx, before) }
	if !changed {
		return false, undo, nil
	}
	if err := s.put(ctx, files); err != nil {
		return true, nil, errors.Join(err, undo(context.WithoutCancel(ctx)))
	}
	return true, undo, nil
}

// files are those of an installation. The units come from the program itself, whose packages
// have them from there, too.
func (s Service) files(ctx context.Context, c Content) (files []file, err error) {
	program, err := io.ReadAll(c.Program)
	if err != nil {
		return nil, fmt.Errorf("the plugin's program: %w", err)
	}
	dir := filepath.Dir(s.path(Program))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	trial := filepath.Join(dir, ".libnetwork-plugin.new")
	defer func() { err = errors.Join(err, os.Remove(trial)) }()
	if err := wholefile.Write(trial, 0o755, program); err != nil {
		return nil, err
	}
	if err := verify(trial); err != nil {
		return nil, err
	}
	socket, err := unitText(ctx, trial, "socket")
	if err != nil {
		return nil, err
	}
	service, err := unitText(ctx, trial, "service", Program, Environment)
	if err != nil {
		return nil, err
	}
	files = []file{{Program, 0o755, program}, {filepath.Join(unitDir, SocketUnit), 0o644, socket}, {filepath.Join(unitDir, ServiceUnit), 0o644, service}}
	if c.Variables != nil {
		text, err := variables(c.Variables)
		if err != nil {
			return nil, err
		}
		files = append(files, file{Environment, 0o600, text})
	}
	return files, nil
}

func unitText(ctx context.Context, program string, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, program, append([]string{"unit"}, args...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("the plugin of this image tells no units (libnetwork-plugin unit %s): it is too old to be a service of the host: %w", args[0], err)
	}
	return append([]byte(mark+"\n"), out...), nil
}

// verify refuses a program that is not our plugin, or does not run on this host without an image.
func verify(path string) error {
	info, err := buildinfo.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || info.Path != mainPackage {
		return fmt.Errorf("%s is not our libnetwork-plugin", path)
	}
	for _, s := range info.Settings {
		if s.Key == "GOARCH" && s.Value != runtime.GOARCH {
			return fmt.Errorf("%s is for %s, and this host is %s: use an image for it", path, s.Value, runtime.GOARCH)
		}
	}
	program, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer program.Close() //nolint:errcheck // only read
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not a static program, and the libraries that it needs are in its image", path)
		}
	}
	return nil
}

// variables is the text of the file of variables, as systemd reads it (systemd.exec(5)).
func variables(all []string) ([]byte, error) {
	var text strings.Builder
	text.WriteString(variablesMark)
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`")
	for _, v := range all {
		name, value, _ := strings.Cut(v, "=")
		if !utf8.ValidString(value) || strings.ContainsAny(value, "\n\r\x00") {
			return nil, fmt.Errorf("the value of %s is not one line of UTF-8, and systemd would leave it out", name)
		}
		fmt.Fprintf(&text, "%s=\"%s\"\n", name, escape.Replace(value))
	}
	return []byte(text.String()), nil
}

// put makes the files be as given, and has systemd read them.
func (s Service) put(ctx context.Context, files []file) error {
	for _, f := range files {
		path := s.path(f.name)
		if f.text == nil {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		// Only one calicoctl at a time changes the service.
		if err := errors.Join(wholefile.Clean(path), wholefile.Write(path, f.mode, f.text)); err != nil {
			return err
		}
	}
	return systemctl(ctx, "daemon-reload")
}

// Remove stops the service and takes away what of it is ours.
func (s Service) Remove(ctx context.Context) error {
	if !s.Installed() {
		return nil
	}
	if err := s.Withdraw(ctx); err != nil {
		return err
	}
	var files []file
	if text, err := os.ReadFile(s.path(Environment)); err == nil && strings.HasPrefix(string(text), variablesMark) {
		files = append(files, file{name: Environment})
	}
	for _, name := range []string{SocketUnit, ServiceUnit} {
		if text, err := os.ReadFile(s.unit(name)); err == nil && isOurs(text) {
			files = append(files, file{name: filepath.Join(unitDir, name)})
		}
	}
	if verify(s.path(Program)) == nil {
		files = append(files, file{name: Program})
	}
	if err := s.put(ctx, files); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(s.path(Program))) // unless another's files are in it
	return nil
}
