package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/wholefile"
)

// errNotRoot is the original's message.
var errNotRoot = errors.New("Need super user privileges: Operation not permitted") //nolint:staticcheck // ST1005: the original's message

// Prepare does what must hold on the host itself, not in the container: directories, kernel
// modules and settings.
func Prepare(ctx context.Context, w io.Writer, logDir string) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(logDir, 0o755); err != nil {
		return fmt.Errorf("log directory: %w", err)
	}
	if err := os.MkdirAll(hostrecord.DefaultDir, 0o700); err != nil {
		return fmt.Errorf("directory of the host's record: %w", err)
	}
	if os.Getenv("CALICO_CTL_CONTAINER") != "" {
		return nil
	}
	fmt.Fprintln(w, "Running command to load modules: modprobe -a xt_set ip6_tables")
	// The modules may be built in; felix says what it lacks.
	_ = exec.CommandContext(ctx, "modprobe", "-a", "xt_set", "ip6_tables").Run()
	return prepareKernel(w, "/proc/sys")
}

// prepareKernel makes the host a router of IPv4. IPv6 is left to felix, which knows when a
// container has it: a host that forwards IPv6 can lose its own routes by it. The settings
// are below dir.
func prepareKernel(w io.Writer, dir string) error {
	fmt.Fprintln(w, "Enabling IPv4 forwarding")
	if err := sysctl(dir, "net/ipv4/ip_forward", "1"); err != nil {
		return fmt.Errorf("ERROR: Could not enable ipv4 forwarding: %w", err)
	}
	fmt.Fprintln(w, "Increasing conntrack limit")
	if err := raiseConntrack(dir); err != nil {
		fmt.Fprintf(w, "WARNING: Could not set the conntrack limit: %v\n", err)
	}
	return nil
}

const conntrackMax = 1000000

// raiseConntrack never lowers a limit. In a network namespace of its own a host
// cannot set it and shares the machine's.
func raiseConntrack(dir string) error {
	const name = "net/netfilter/nf_conntrack_max"
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	var limit int
	if _, err := fmt.Sscan(string(text), &limit); err == nil && limit >= conntrackMax {
		return nil
	}
	return sysctl(dir, name, fmt.Sprint(conntrackMax))
}

func sysctl(dir, name, value string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(value), 0o644)
}

// WriteSecrets writes the text of [SecretsFile], or removes it when there is none. undo puts
// back what was there.
func WriteSecrets(text string) (undo func() error, err error) {
	return writeSecrets(SecretsFile, text)
}

func writeSecrets(path, text string) (undo func() error, err error) {
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	undo = func() error { return replaceFile(path, string(before)) }
	return undo, replaceFile(path, text)
}

// replaceFile makes a file that only root may read hold a text; without one, it removes it.
func replaceFile(path, text string) error {
	if text == "" {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	return wholefile.Write(path, 0o600, []byte(text))
}

// KeepSecret writes one variable to [SecretsFile], and leaves the others there; without a
// value it changes nothing.
func KeepSecret(name, value string) error {
	if value == "" {
		return nil
	}
	return keepSecret(SecretsFile, variable{name, value})
}

func keepSecret(path string, v variable) error {
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var text strings.Builder
	for line := range strings.Lines(string(before)) {
		if !strings.HasPrefix(line, v.name+"=") {
			text.WriteString(line)
		}
	}
	fmt.Fprintln(&text, v)
	return replaceFile(path, text.String())
}
