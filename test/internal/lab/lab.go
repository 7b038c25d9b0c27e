// Package lab is the reference experiment: etcd and three Docker hosts in containers,
// on which it does what an operator would type, shows what the terminal shows, and
// checks every line of it. It knows the project only from outside: by its commands,
// its images and its store.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// Host is one Docker host of the lab.
type Host struct {
	// Container is the host's container on the machine that runs the lab.
	Container string
	// Node is the host's name in Calico; it differs from the host's own name.
	Node string
	// IP is the host's address in the lab's network.
	IP string
}

// Lab is the whole cluster.
type Lab struct {
	// Root is the repository, which holds compose.yaml.
	Root string
	// Version is the tag of the images.
	Version string
	// Out is where the experiment is shown.
	Out   io.Writer
	Hosts []Host
}

// The lab's fixed names; compose.yaml holds them too.
const (
	project       = "calico-lab"
	etcdContainer = "calico-lab-etcd"
	etcdIP        = "172.28.8.10"
	etcdEndpoint  = "http://" + etcdIP + ":2379"
)

// New is the lab of a repository; it starts nothing.
func New(root, version string, out io.Writer) *Lab {
	return &Lab{Root: root, Version: version, Out: out, Hosts: []Host{
		{Container: "calico-lab-host0", Node: "node00", IP: "172.28.8.100"},
		{Container: "calico-lab-host1", Node: "node01", IP: "172.28.8.101"},
		{Container: "calico-lab-host2", Node: "node02", IP: "172.28.8.102"},
	}}
}

// FindRoot is the repository that the working directory lies in.
func FindRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "compose.yaml")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no compose.yaml here or above: run this inside the repository")
}

// Up builds the cluster anew: what an earlier run left, whole or half-way, is removed
// first. It ends when every engine answers and has the images.
func (l *Lab) Up(ctx context.Context) error {
	s := l.session("Start the cluster")
	return s.run(ctx, []step{
		{"Remove what an earlier lab left", l.removeAll},
		{"Start etcd and three Docker hosts", l.compose},
		{"Give every host the images", l.loadImages},
	})
}

func (l *Lab) removeAll(ctx context.Context, s *Session) error {
	return l.Down(ctx)
}

func (l *Lab) compose(ctx context.Context, s *Session) error {
	if err := s.machine(ctx, l.composeCommand(ctx, "up", "-d")...); err != nil {
		return err
	}
	return s.until(ctx, 2*time.Minute, "the engines of all hosts answer", func(ctx context.Context) error {
		for _, h := range l.Hosts {
			if _, err := output(ctx, "docker", "exec", h.Container, "docker", "version", "--format", "{{.Server.Version}}"); err != nil {
				return fmt.Errorf("%s: %w", h.Container, err)
			}
		}
		_, err := output(ctx, "docker", "exec", etcdContainer, "etcdctl", "endpoint", "health")
		return err
	})
}

// loadImages hands the images to the inner engines, which cannot pull them.
func (l *Lab) loadImages(ctx context.Context, s *Session) error {
	images := []string{"calico/node:" + l.Version, "calico/workload:" + l.Version}
	archive := filepath.Join(l.Root, ".build", "lab-images.tar")
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return err
	}
	defer os.Remove(archive) //nolint:errcheck // only a copy
	if err := s.machine(ctx, append([]string{"docker", "save", "-o", archive}, images...)...); err != nil {
		return err
	}
	var group errgroup.Group
	for _, h := range l.Hosts {
		group.Go(func() error { return loadInto(ctx, h, archive) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	_, err := s.on(ctx, l.Hosts[0], "docker images")
	return err
}

func loadInto(ctx context.Context, h Host, archive string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read
	cmd := command(ctx, "docker", "exec", "-i", h.Container, "docker", "load", "-q")
	cmd.Stdin = file
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load the images into %s: %w: %s", h.Container, err, out)
	}
	return nil
}

// Down removes the lab without trace: containers, networks, volumes and the control
// groups that the inner engines made. It is no error when there is nothing.
func (l *Lab) Down(ctx context.Context) error {
	cmd := command(ctx, l.composeCommand(ctx, "down", "--volumes", "--remove-orphans", "--timeout", "1")...)
	cmd.Dir, cmd.Env = l.Root, l.environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("remove the lab: %w: %s", err, out)
	}
	return nil
}

// Leftovers lists what of the lab is still on the machine.
func (l *Lab) Leftovers(ctx context.Context) ([]string, error) {
	var found []string
	for _, list := range [][]string{
		{"docker", "ps", "-a", "--filter", "name=calico-lab", "--format", "container {{.Names}}"},
		{"docker", "network", "ls", "--filter", "name=calico-lab", "--format", "network {{.Name}}"},
		{"docker", "volume", "ls", "--filter", "name=calico-lab", "--format", "volume {{.Name}}"},
	} {
		out, err := output(ctx, list...)
		if err != nil {
			return nil, err
		}
		found = append(found, lines(out)...)
	}
	return found, nil
}

// composeCommand is compose v2 where docker has it, else docker-compose.
func (l *Lab) composeCommand(ctx context.Context, args ...string) []string {
	base := []string{"docker-compose"}
	if command(ctx, "docker", "compose", "version").Run() == nil {
		base = []string{"docker", "compose"}
	}
	return append(append(base, "-p", project, "-f", filepath.Join(l.Root, "compose.yaml")), args...)
}

func (l *Lab) environment() []string {
	return append(os.Environ(), "CALICO_VERSION="+l.Version)
}
