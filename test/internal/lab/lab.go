// Package lab is the reference experiment: etcd and three Docker hosts in containers,
// on which it does what an operator would type, shows what the terminal shows, and
// checks every line of it. It knows the project only from outside: by its commands,
// its images and its store.
package lab

import (
	"cmp"
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

// Config says which of the clusters that compose.yaml can be one is.
type Config struct {
	// Name is that of the compose project, and begins the containers' names.
	Name string
	// Net is the begin of the addresses, three bytes of four.
	Net string
	// Engine is the hosts' engine, one of images/lab-host/engines.
	Engine string
	// ClusterStore says whether the engines share etcd as a cluster store. Engines after 20.10
	// do not start with one.
	ClusterStore bool
	// Hosts is their number, at most three.
	Hosts int
}

// DefaultEngine is what the lab's hosts have unless told otherwise; compose.yaml and the Makefile hold
// it too.
const DefaultEngine = "26"

// Chosen is the lab of `make lab`: ENGINE names its engine; CALICO_LAB and CALICO_LAB_NET, as in compose.yaml,
// let a second one stand beside it.
func Chosen(getenv func(string) string) Config {
	engine := cmp.Or(getenv("ENGINE"), DefaultEngine)
	return Config{
		Name: cmp.Or(getenv("CALICO_LAB"), "calico-lab"), Net: cmp.Or(getenv("CALICO_LAB_NET"), "172.28.8"),
		Engine: engine, ClusterStore: engine == "20.10", Hosts: 3,
	}
}

// Lab is the whole cluster.
type Lab struct {
	Config
	// Root is the repository, which holds compose.yaml.
	Root string
	// Version is the tag of the images.
	Version string
	// Out is where the experiment is shown.
	Out   io.Writer
	Hosts []Host
}

// New is a lab of a repository; it starts nothing.
func New(root, version string, c Config, out io.Writer) *Lab {
	l := &Lab{Config: c, Root: root, Version: version, Out: out}
	for i := range c.Hosts {
		l.Hosts = append(l.Hosts, Host{
			Container: fmt.Sprintf("%s-host%d", c.Name, i),
			Node:      fmt.Sprintf("node%02d", i),
			IP:        fmt.Sprintf("%s.%d", c.Net, 100+i),
		})
	}
	return l
}

func (l *Lab) etcdContainer() string { return l.Name + "-etcd" }
func (l *Lab) etcdIP() string        { return l.Net + ".10" }

// EtcdEndpoint is where the lab's etcd answers.
func (l *Lab) EtcdEndpoint() string { return "http://" + l.etcdIP() + ":2379" }

// HostImage is the image of the hosts.
func (l *Lab) HostImage() string { return "calico/lab-host:" + l.Version + "-engine" + l.Engine }

// HasImage says whether the image of the lab's hosts is there; the error says how it comes to be.
func (l *Lab) HasImage(ctx context.Context) error {
	if _, err := output(ctx, "docker", "image", "inspect", "--format", "{{.Id}}", l.HostImage()); err != nil {
		return fmt.Errorf("there is no image of hosts with engine %s (make images builds those of images/lab-host/engines, and says which could not be had): %w", l.Engine, err)
	}
	return nil
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
	if err := l.HasImage(ctx); err != nil {
		return err
	}
	s := l.session("Start the cluster of hosts with engine " + l.Engine)
	return s.run(ctx, []step{
		{"Remove what an earlier lab left", l.removeAll},
		{fmt.Sprintf("Start etcd and %d Docker hosts", len(l.Hosts)), l.compose},
		{"Give every host the images", l.loadImages},
	})
}

func (l *Lab) removeAll(ctx context.Context, s *Session) error {
	return l.Down(ctx)
}

func (l *Lab) compose(ctx context.Context, s *Session) error {
	up := []string{"up", "-d", "etcd"}
	for i := range l.Hosts {
		up = append(up, fmt.Sprintf("host%d", i))
	}
	if err := s.machine(ctx, l.composeCommand(ctx, up...)...); err != nil {
		return err
	}
	return s.until(ctx, 2*time.Minute, "the engines of all hosts answer", func(ctx context.Context) error {
		for _, h := range l.Hosts {
			if err := h.EngineServes(ctx); err != nil {
				return err
			}
		}
		_, err := output(ctx, "docker", "exec", l.etcdContainer(), "etcdctl", "endpoint", "health")
		return err
	})
}

// loadImages hands the images to the inner engines, which cannot pull them.
func (l *Lab) loadImages(ctx context.Context, s *Session) error {
	images := []string{"calico/node:" + l.Version, "calico/workload:" + l.Version}
	archive := filepath.Join(l.Root, ".build", l.Name+"-images.tar")
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
		{"docker", "ps", "-a", "--filter", "label=com.docker.compose.project=" + l.Name, "--format", "container {{.Names}}"},
		{"docker", "network", "ls", "--filter", "label=com.docker.compose.project=" + l.Name, "--format", "network {{.Name}}"},
		{"docker", "volume", "ls", "--filter", "label=com.docker.compose.project=" + l.Name, "--format", "volume {{.Name}}"},
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
	return append(append(base, "-p", l.Name, "-f", filepath.Join(l.Root, "compose.yaml")), args...)
}

func (l *Lab) environment() []string {
	env := append(os.Environ(), "CALICO_VERSION="+l.Version, "ENGINE="+l.Engine, "CALICO_LAB="+l.Name, "CALICO_LAB_NET="+l.Net)
	if l.ClusterStore {
		return append(env, "CLUSTER_STORE=etcd://"+l.etcdIP()+":2379", "CLUSTER_ADVERTISE=eth0:2376")
	}
	return append(env, "CLUSTER_STORE=", "CLUSTER_ADVERTISE=")
}
