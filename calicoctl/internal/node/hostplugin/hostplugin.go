// Package hostplugin keeps the plugin as a systemd service of this host: its program, its
// variables and its units, and when systemd starts and stops it (edge).
package hostplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The units, which are those of the plugin's packages, too.
const (
	SocketUnit  = "calico-libnetwork.socket"
	ServiceUnit = "calico-libnetwork.service"
)

// Where an installation lies. /usr/local is what packages never touch, and libexec is for
// programs that other programs start, not users (FHS 3.0, 4.7 and 4.9). The variables are the
// host's own settings, and hold secrets: mode 0600.
const (
	Program     = "/usr/local/libexec/calico/libnetwork-plugin"
	Environment = "/etc/calico/libnetwork.env"
	unitDir     = "/etc/systemd/system"
)

// mark begins each unit that is ours to replace and to remove.
const mark = "# Written by calicoctl node run --plugin=host, and replaced by it: changes belong into a drop-in (systemctl edit)."

// variablesMark begins the file of variables that is ours.
const variablesMark = "# Written by calicoctl node run --plugin=host.\n"

// othersDirs are where packages and administrators keep units.
var othersDirs = []string{"/usr/lib/systemd/system", "/lib/systemd/system", "/usr/local/lib/systemd/system", "/run/systemd/system"}

// Service is the plugin's service of a host.
type Service struct {
	// Root is the folder that holds the host's files; empty for this host's.
	Root string
}

// Why says why the plugin is better off as a service.
const Why = "an engine that starts finds it there, rather than wait for a container that it must start itself"

// Recommended reports whether this host could have the service, and has none of anybody's.
func Recommended(ctx context.Context) bool {
	return Booted() && os.Getenv("CALICO_CTL_CONTAINER") == "" && !(Service{}).Listens(ctx)
}

// Booted reports whether systemd is process 1 of this host (sd_booted(3)).
func Booted() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

func (s Service) path(name string) string { return filepath.Join(s.Root, name) }

func (s Service) unit(name string) string { return s.path(filepath.Join(unitDir, name)) }

// Check refuses a host on which the service cannot be, or is somebody else's.
func (s Service) Check() error {
	if os.Getenv("CALICO_CTL_CONTAINER") != "" {
		return errors.New("--plugin=host: this calicoctl runs in a container, and cannot make a service of the host: run the program calicoctl on the host itself")
	}
	if s.Root == "" && !Booted() {
		return errors.New("--plugin=host: systemd is not process 1 of this host, and the plugin as a service of the host is one of systemd's: use --plugin=container, " +
			"or have your init system run what `libnetwork-plugin unit service` shows")
	}
	if _, err := exec.LookPath("systemctl"); err != nil {
		return errors.New("--plugin=host: there is no systemctl in PATH: run this as root, with the PATH of a login, or use --plugin=container")
	}
	for _, name := range []string{SocketUnit, ServiceUnit} {
		for _, dir := range othersDirs {
			file := filepath.Join(dir, name)
			if _, err := os.Lstat(s.path(file)); err == nil {
				return fmt.Errorf("--plugin=host: %s is there already, from a package (dpkg -S %[1]s, or rpm -qf %[1]s, says which): "+
					"use that service, by --env CALICO_LIBNETWORK_ENABLED=host instead of --plugin=host, or remove the package first", file)
			}
		}
		if text, err := os.ReadFile(s.unit(name)); err == nil && !isOurs(text) {
			return fmt.Errorf("--plugin=host: %s was not written by calicoctl: use that service, by --env CALICO_LIBNETWORK_ENABLED=host instead of --plugin=host, "+
				"or remove it first (systemctl disable --now %s %s, and then the file)", filepath.Join(unitDir, name), SocketUnit, ServiceUnit)
		}
	}
	if text, err := os.ReadFile(s.path(Environment)); err == nil && !strings.HasPrefix(string(text), variablesMark) {
		return fmt.Errorf("--plugin=host: %s was not written by calicoctl, and would be replaced: move it away, and give its variables by --env", Environment)
	}
	if err := verify(s.path(Program)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--plugin=host: the program would come to %s, and what is there is another one: move it away (%w)", Program, err)
	}
	return nil
}

func isOurs(unit []byte) bool { return strings.HasPrefix(string(unit), mark) }

// Installed reports whether this host has the service, and it is calicoctl's.
func (s Service) Installed() bool {
	for _, name := range []string{SocketUnit, ServiceUnit} {
		if text, err := os.ReadFile(s.unit(name)); err == nil && isOurs(text) {
			return true
		}
	}
	return false
}

// systemctl asks systemd for something.
func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Listen has systemd hold Docker's sockets from now on, at each boot, too: calls wait there
// until the service answers. A plugin that had sockets of its own there gets no new calls, and
// answers those that it has.
func (s Service) Listen(ctx context.Context) error {
	if err := systemctl(ctx, "enable", SocketUnit, ServiceUnit); err != nil {
		return err
	}
	return systemctl(ctx, "start", SocketUnit)
}

// Listens reports whether systemd holds Docker's sockets, for a service of whoever it is.
func (s Service) Listens(ctx context.Context) bool {
	return systemctl(ctx, "is-active", "--quiet", SocketUnit) == nil
}

// startLimit is how long a service may take to start, and startPause between two tries.
const (
	startLimit = 20 * time.Second
	startPause = 200 * time.Millisecond
)

// Start has the service run. It returns when it serves.
func (s Service) Start(ctx context.Context) error { return s.until(ctx, "start") }

// Restart replaces the process of the service; calls wait meanwhile.
func (s Service) Restart(ctx context.Context) error { return s.until(ctx, "restart") }

// until does something of systemd's until the service serves. A call may have started it a
// moment before, when the plugin of the container had not ended: that start fails.
func (s Service) until(ctx context.Context, verb string) error {
	limited, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(startPause)
	defer tick.Stop()
	for {
		err := systemctl(ctx, verb, ServiceUnit)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
			verb = "start"
		case <-limited.Done():
			return fmt.Errorf("%w\n%s", err, lastWords(context.WithoutCancel(ctx)))
		}
	}
}

// lastWords is the end of the service's log.
func lastWords(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "journalctl", "-u", ServiceUnit, "-n", "5", "--no-pager", "-o", "cat").CombinedOutput()
	if err != nil {
		return "its log: journalctl -u " + ServiceUnit
	}
	return strings.TrimSpace(string(out))
}

// Withdraw stops the service so that no call is lost: first no new one reaches it, then it
// answers all that it has, then it ends. The engine repeats what it cannot connect to for 15 s.
func (s Service) Withdraw(ctx context.Context) error {
	if systemctl(ctx, "is-active", "--quiet", ServiceUnit) == nil {
		if err := s.hideSockets(ctx); err != nil {
			return err
		}
	}
	return errors.Join(systemctl(ctx, "stop", ServiceUnit), systemctl(ctx, "disable", "--now", SocketUnit, ServiceUnit))
}

// PluginDir is where Docker finds the sockets.
const PluginDir = "/run/docker/plugins"

// settleLimit is how long a call may wait to be accepted.
const settleLimit = 5 * time.Second

// hideSockets takes the sockets' names away, and waits until every call that had come by them
// is accepted: one that comes last is answered after all others were taken.
func (s Service) hideSockets(ctx context.Context) error {
	for _, name := range []string{"calico", "calico-ipam"} {
		file, hidden := s.path(filepath.Join(PluginDir, name+".sock")), s.path(filepath.Join(PluginDir, "."+name+".leaving"))
		if err := os.Rename(file, hidden); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		activate(ctx, hidden)
		if err := os.Remove(hidden); err != nil {
			return err
		}
	}
	return nil
}

// activate makes the call that asks nothing. Without an answer nothing is accepted, either.
func activate(ctx context.Context, socket string) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/Plugin.Activate", http.NoBody)
	if err != nil {
		return
	}
	if answer, err := client.Do(req); err == nil {
		_ = answer.Body.Close()
	}
}
