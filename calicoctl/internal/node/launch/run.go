package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"calico.internal/libcalico/hostrecord"
)

// started is the line by which the container says that its start-up is over.
const started = "Calico node started successfully"

// startLimit is how long the start-up may take, and readyLimit how long the services
// after it.
const (
	startLimit = 60 * time.Second
	readyLimit = 60 * time.Second
)

// Run prepares the host, starts the container, shows its start-up on w, and ends when
// every service in it is ready; it returns their names.
func Run(ctx context.Context, w io.Writer, o Options, command []string) (ready []string, err error) {
	if err := start(ctx, w, o, command); err != nil || o.InitSystem {
		return nil, err
	}
	ready = services(o)
	return ready, waitReady(ctx, w, ready)
}

func start(ctx context.Context, w io.Writer, o Options, command []string) error {
	if os.Geteuid() != 0 {
		return errors.New("Need super user privileges: Operation not permitted") //nolint:staticcheck // ST1005: the original's message
	}
	if _, err := docker(ctx, "version", "--format", "{{.Server.Version}}"); err != nil {
		if errors.Is(err, errNoDocker) {
			return err
		}
		return fmt.Errorf("the Docker engine does not answer; start it and run this again: %w", err)
	}
	if err := prepareHost(ctx, w, o); err != nil {
		return err
	}
	fmt.Fprintln(w, "Removing old calico-node container (if running).")
	if _, err := docker(ctx, "rm", "-f", ContainerName); err != nil && !strings.Contains(err.Error(), "No such container") {
		return err
	}
	fmt.Fprintf(w, "Running the following command to start calico-node:\n\n%s\n\n", Shell(command, false))
	fmt.Fprintln(w, "Image may take a short time to download if it is not available locally.")
	if o.InitSystem {
		return foreground(ctx, w, command)
	}
	if _, err := docker(ctx, command[1:]...); err != nil {
		return err
	}
	fmt.Fprintln(w, "Container started, checking progress logs.")
	return followStart(ctx, w)
}

// foreground runs the container as a child, as an init system wants it.
func foreground(ctx context.Context, w io.Writer, command []string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = w, w
	return cmd.Run()
}

// prepareHost does what must hold on the host itself, not in the container.
func prepareHost(ctx context.Context, w io.Writer, o Options) error {
	if err := os.MkdirAll("/var/run/calico", 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(o.LogDir, 0o755); err != nil {
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

// followStart shows the container's log until its start-up is over or has failed.
func followStart(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", "logs", "--follow", ContainerName)
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // ended by us, or with the container
	}()
	for scan := bufio.NewScanner(out); scan.Scan(); {
		fmt.Fprintln(w, scan.Text())
		switch {
		case scan.Text() == started:
			return nil
		case strings.HasPrefix(scan.Text(), "Calico node failed to start"):
			// With --restart=always Docker would try again for ever, and fail the same way.
			stopCtx := context.WithoutCancel(ctx)
			if _, err := docker(stopCtx, "rm", "-f", ContainerName); err != nil {
				return err
			}
			return errors.New("calico/node could not start for the reason above; its container was removed, so nothing runs")
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("the start-up has not ended within %s; it goes on: docker logs -f %s", startLimit, ContainerName)
	}
	return fmt.Errorf("calico/node has terminated, check logs for details: docker logs %s", ContainerName)
}
