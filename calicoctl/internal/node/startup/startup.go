package startup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"calico.internal/calicoctl/internal/node/address"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nodename"
)

// maxTries bounds the repetitions when other hosts start, and write the same
// defaults, at the same moment.
const maxTries = 20

// Config is the world around a start-up.
type Config struct {
	Getenv func(string) string
	Out    io.Writer
	// Version is written as the cluster's.
	Version string
	// RunDir gets the file nodename; EnvFile the variables for the other programs.
	RunDir, EnvFile string
	// StateDir is where the host keeps what it remembers of itself.
	StateDir string
	// Running names what shows that this host has containers, as [localnet.Running] does.
	Running func() ([]string, error)
	Store   etcdstore.Config
}

// Run finds out who this host is and writes it to the store.
func Run(ctx context.Context, cfg Config) error {
	name, err := nodename.Resolve("", cfg.Getenv)
	if err != nil {
		return err
	}
	_, ipv6 := os.Stat("/proc/sys/net/ipv6")
	s, err := readSettings(cfg.Getenv, name, ipv6 == nil)
	if err != nil {
		return err
	}
	client, err := etcdstore.New(cfg.Store)
	if err != nil {
		return err
	}
	defer client.Close() //nolint:errcheck // nothing is buffered
	if err := awaitStore(ctx, cfg.Out, client, s.waitForStore); err != nil {
		return err
	}
	record, member, err := hostrecord.Read(cfg.StateDir)
	if err != nil {
		fmt.Fprintf(cfg.Out, "WARNING: %v\n", err)
	}
	p, err := write(ctx, cfg, s, client, record.ClusterGUID, member)
	if err != nil {
		return err
	}
	if !p.held {
		record.Name, record.ClusterGUID = name, p.guid
		if err := hostrecord.Write(cfg.StateDir, record); err != nil {
			fmt.Fprintf(cfg.Out, "WARNING: this host will not know its cluster again when etcd loses it: %v\n", err)
		}
		if inContainer(cfg.StateDir, "/") {
			fmt.Fprintf(cfg.Out, "WARNING: what this host remembers is lost with its container, and when etcd loses its data too, "+
				"the host does not know its cluster again: mount a directory of the host's there (docker run -v %[1]s:%[1]s)\n", cfg.StateDir)
		}
	}
	if err := leaveName(cfg, name); err != nil {
		return err
	}
	fmt.Fprintf(cfg.Out, "Using node name: %s\n", name)
	return nil
}

// awaitStore waits for etcd when the environment asks for that.
func awaitStore(ctx context.Context, out io.Writer, client *etcdstore.Client, wait bool) error {
	if !wait {
		fmt.Fprintln(out, "Skipping datastore connection test")
		return nil
	}
	fmt.Fprintln(out, "Checking datastore connection")
	for {
		err := client.Ping(ctx)
		if err == nil {
			fmt.Fprintln(out, "Datastore connection verified")
			return nil
		}
		if errors.Is(err, etcdstore.ErrUnauthorized) || ctx.Err() != nil {
			return err
		}
		fmt.Fprintf(out, "Hit error connecting to datastore - retry: %v\n", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// write plans and commits until no other host has come between. known and member are what
// the host remembers.
func write(ctx context.Context, cfg Config, s settings, client *etcdstore.Client, known string, member bool) (*plan, error) {
	interfaces, err := address.Host()
	if err != nil {
		return nil, err
	}
	here, err := localnet.List()
	if err != nil {
		return nil, err
	}
	running, err := cfg.Running()
	if err != nil {
		return nil, err
	}
	for range maxTries {
		c, err := readCluster(ctx, client)
		if err != nil {
			return nil, err
		}
		if c.taken, err = ipam.New(client, s.nodeName).Taken(ctx); err != nil {
			return nil, err
		}
		c.taken = append(c.taken, here...)
		c.running = running
		c.known, c.member, c.where = known, member, strings.Join(client.Endpoints(), ",")
		p, err := makePlan(ctx, s, c, interfaces, cfg.Version, NewGUID())
		if err == nil && !p.held {
			err = commit(ctx, client, c, p)
		}
		if errors.Is(err, etcdstore.ErrConflict) {
			continue
		}
		for _, line := range p.lines {
			fmt.Fprintln(cfg.Out, line)
		}
		return p, err
	}
	return nil, fmt.Errorf("the cluster's defaults were written by others %d times in a row: start this host again", maxTries)
}

// commit writes all of a plan, if the store is still that of the cluster that was read.
func commit(ctx context.Context, client *etcdstore.Client, c cluster, p *plan) error {
	var writes []etcdstore.Write
	for k, revision := range c.revisions {
		w, err := etcdstore.CheckWrite(k, revision)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	for k, r := range p.create {
		w, err := etcdstore.CreateWrite(k, r)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	for k, r := range p.put {
		w, err := etcdstore.PutWrite(k, r)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	_, err := client.Commit(ctx, writes...)
	return err
}

// clusterKinds are what a start-up looks at.
var clusterKinds = []model.Kind{
	model.KindNode, model.KindIPPool, model.KindFelixConfig, model.KindBGPConfig, model.KindAcceptedGUID, model.KindReady,
}

// clusterPrefixes are where that stands. felix' settings for single nodes, which do not
// matter, stand among all endpoints of the cluster.
func clusterPrefixes() []string {
	prefixes := []string{strings.TrimSuffix(model.Paths(guidKey)[0], guidKey.Name)}
	for _, kind := range clusterKinds {
		if kind != model.KindFelixConfig {
			prefixes = append(prefixes, model.ListPrefixes(kind)...)
		}
	}
	return prefixes
}

func readCluster(ctx context.Context, client *etcdstore.Client) (cluster, error) {
	c := cluster{nodes: map[string]*model.Node{}, settings: map[model.Key]string{}, revisions: map[model.Key]int64{}}
	entries, _, bad, err := client.ListUnder(ctx, clusterPrefixes(), func(k model.Key) bool { return slices.Contains(clusterKinds, k.Kind()) })
	if err != nil {
		return c, fmt.Errorf("read the cluster's settings: %w", err)
	}
	for _, b := range bad {
		c.unreadable = append(c.unreadable, fmt.Sprintf("%s: %v", b.Path, b.Err))
		if b.Key == (model.ReadyKey{}) {
			c.hasReady = true // and the store is locked, since it does not say that it is ready
		}
	}
	for _, e := range entries {
		c.add(e)
	}
	return c, nil
}

func (c *cluster) add(e etcdstore.Entry) {
	switch r := e.Value.(type) {
	case *model.Node:
		if k, ok := e.Key.(model.NodeKey); ok {
			c.nodes[k.Name] = r
		}
	case *model.IPPool:
		c.pools = append(c.pools, r)
	case *model.Setting:
		c.settings[e.Key] = r.Value
	case *model.Ready:
		c.hasReady, c.ready = true, bool(*r)
	}
	if e.Key == (model.ReadyKey{}) || e.Key == guidKey {
		c.revisions[e.Key] = e.Revision
	}
}

// overlayfs is the number of the file system of containers' own layers.
const overlayfs = 0x794c7630

// inContainer says whether a directory is on the own layer of the container whose root is
// given.
func inContainer(dir, root string) bool {
	var fs syscall.Statfs_t
	var own, other syscall.Stat_t
	return syscall.Statfs(root, &fs) == nil && fs.Type == overlayfs &&
		syscall.Stat(root, &own) == nil && syscall.Stat(dir, &other) == nil && own.Dev == other.Dev
}

// leaveName tells the other programs of this host its name.
func leaveName(cfg Config, name string) error {
	if err := os.MkdirAll(cfg.RunDir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(cfg.RunDir, "nodename"), []byte(name+"\n"), 0o644); err != nil {
		return err
	}
	return os.WriteFile(cfg.EnvFile, []byte("export NODENAME="+name+"\n"), 0o644)
}

// NewGUID is a random cluster id of 32 hexadecimal digits.
func NewGUID() string {
	id := make([]byte, 16)
	// crypto/rand never fails (Go 1.24).
	_, _ = rand.Read(id)
	return hex.EncodeToString(id)
}
