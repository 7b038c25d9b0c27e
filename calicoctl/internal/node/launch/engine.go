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

// Scope asks the engine whether its networks can be global: only an engine up to
// 20.10 with a cluster store spreads them. Without an answer it is "local".
func Scope(ctx context.Context) string {
	out, err := docker(ctx, "info", "--format", "{{json .}}")
	if err != nil {
		return "local"
	}
	var info struct{ ServerVersion, ClusterStore string }
	if json.Unmarshal([]byte(out), &info) != nil {
		return "local"
	}
	major, _, _ := strings.Cut(info.ServerVersion, ".")
	n, err := strconv.Atoi(major)
	if err == nil && n <= 20 && info.ClusterStore != "" {
		return "global"
	}
	return "local"
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

// Probe fills in what the options need to know of this host.
func (o *Options) Probe(ctx context.Context) {
	o.Scope = Scope(ctx)
	o.SharedRun = hostSharesRun()
	_, err := os.Stat("/lib/modules")
	o.Modules = err == nil
}
