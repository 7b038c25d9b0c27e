package launch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"calico.internal/libcalico/etcdstore"
)

// errNoDocker says that there is no engine to run the container on.
var errNoDocker = errors.New("the docker command is not installed: install Docker on this host, or use --dryrun to see the command")

// docker runs the docker client and returns what it printed.
func docker(ctx context.Context, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", errNoDocker
	case err != nil:
		return out.String(), fmt.Errorf("docker %s: %w\n%s", args[0], err, quote(errs.String()))
	}
	return out.String(), nil
}

// quote marks lines of another program.
func quote(text string) string {
	return " | " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n | ")
}

// engineInfo is what the engine says of itself.
type engineInfo struct {
	ServerVersion, ClusterStore string
	SecurityOptions             []string
}

// askEngine asks the engine who it is.
func askEngine(ctx context.Context) (info engineInfo, err error) {
	out, err := docker(ctx, "info", "--format", "{{json .}}")
	if err != nil {
		return info, err
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		return info, fmt.Errorf("docker info: %w", err)
	}
	if info.ServerVersion == "" { // docker info ends well without an engine
		_, err = docker(ctx, "version", "--format", "{{.Server.Version}}")
	}
	return info, err
}

// scope is that of the engine's networks: only an engine up to 20.10 with a cluster store
// spreads them.
func (i engineInfo) scope() string {
	major, _, _ := strings.Cut(i.ServerVersion, ".")
	n, err := strconv.Atoi(major)
	if err == nil && n <= 20 && i.ClusterStore != "" {
		return "global"
	}
	return "local"
}

// has says whether the engine has a security option, such as userns or rootless.
func (i engineInfo) has(option string) bool {
	for _, o := range i.SecurityOptions {
		if name, _, _ := strings.Cut(strings.TrimPrefix(o, "name="), ","); name == option {
			return true
		}
	}
	return false
}

// container is what the engine knows of a container.
type container struct {
	ID, Name, Image string
	State           struct {
		Running bool
		Pid     int
	}
	Config struct {
		Env []string
	}
	HostConfig struct {
		AutoRemove    bool
		RestartPolicy restartPolicy
	}
}

// restartPolicy is when the engine starts a container again.
type restartPolicy struct{ Name string }

// none says that it never does.
func (p restartPolicy) none() bool { return p.Name == "" || p.Name == "no" }

// inspect asks the engine for a container; nil when there is none of that name.
func inspect(ctx context.Context, name string) (*container, error) {
	out, err := docker(ctx, "container", "inspect", name)
	if err != nil {
		if strings.Contains(err.Error(), "No such container") {
			return nil, nil //nolint:nilnil // there is none
		}
		return nil, err
	}
	var list []*container
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
		return nil, fmt.Errorf("docker container inspect %s: unexpected answer: %w", name, err)
	}
	list[0].Name = strings.TrimPrefix(list[0].Name, "/")
	return list[0], nil
}

// remove removes a container, and says nothing when there is none.
func remove(ctx context.Context, name string) error {
	_, err := docker(ctx, "rm", "-f", name)
	if err != nil && strings.Contains(err.Error(), "No such container") {
		return nil
	}
	return err
}

// SharedRun reports whether /run lies on a shared mount, which rslave asks for.
func SharedRun(mountinfo io.Reader) bool {
	best, shared := "", false
	for scan := bufio.NewScanner(mountinfo); scan.Scan(); {
		// 36 35 98:0 /root /mount/point options shared:1 - type source options
		before, _, _ := strings.Cut(scan.Text(), " - ")
		fields := strings.Fields(before)
		if len(fields) < 6 {
			continue
		}
		point := fields[4]
		if (point == "/" || point == "/run") && len(point) >= len(best) {
			best, shared = point, strings.Contains(strings.Join(fields[6:], " "), "shared:")
		}
	}
	return shared
}

// hostSharesRun is [SharedRun] of this process's mounts.
func hostSharesRun() bool {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // only read
	return SharedRun(f)
}

// Probe fills in what the options need to know of this host. Without an engine, what it
// would say stays out.
func (o *Options) Probe(ctx context.Context, etcd etcdstore.Config) error {
	o.Scope = "local"
	if info, err := askEngine(ctx); err == nil {
		o.Scope, o.UserNamespaces = info.scope(), info.has("userns")
	}
	o.SharedRun = hostSharesRun()
	_, err := os.Stat("/lib/modules")
	o.Modules = err == nil
	if o.Self, err = os.Executable(); err != nil {
		return err
	}
	o.Certificates, err = FindCertificates(etcd)
	return err
}
