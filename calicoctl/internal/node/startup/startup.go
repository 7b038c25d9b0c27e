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
	"time"

	"calico.internal/calicoctl/internal/node/address"
	"calico.internal/libcalico/etcdstore"
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
	Store           etcdstore.Config
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
	if err := write(ctx, cfg, s, client); err != nil {
		return err
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

// write plans and commits until no other host has come between.
func write(ctx context.Context, cfg Config, s settings, client *etcdstore.Client) error {
	interfaces, err := address.Host()
	if err != nil {
		return err
	}
	here, err := localnet.List()
	if err != nil {
		return err
	}
	for range maxTries {
		c, err := readCluster(ctx, client)
		if err != nil {
			return err
		}
		if c.taken, err = ipam.New(client, s.nodeName).Taken(ctx); err != nil {
			return err
		}
		c.taken = append(c.taken, here...)
		p, err := makePlan(ctx, s, c, interfaces, cfg.Version, newGUID())
		if err == nil {
			err = commit(ctx, client, p)
		}
		if errors.Is(err, etcdstore.ErrConflict) {
			continue
		}
		for _, line := range p.lines {
			fmt.Fprintln(cfg.Out, line)
		}
		return err
	}
	return fmt.Errorf("the cluster's defaults were written by others %d times in a row: start this host again", maxTries)
}

func commit(ctx context.Context, client *etcdstore.Client, p *plan) error {
	var writes []etcdstore.Write
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

func readCluster(ctx context.Context, client *etcdstore.Client) (cluster, error) {
	c := cluster{nodes: map[string]*model.Node{}, settings: map[model.Key]string{}}
	for _, kind := range []model.Kind{model.KindNode, model.KindIPPool, model.KindFelixConfig, model.KindBGPConfig, model.KindReady} {
		entries, _, bad, err := client.List(ctx, kind, nil)
		if err != nil {
			return c, err
		}
		for _, b := range bad {
			c.unreadable = append(c.unreadable, fmt.Sprintf("%s: %v", b.Path, b.Err))
		}
		for _, e := range entries {
			c.add(e)
		}
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
		c.ready, c.locked = bool(*r), !bool(*r)
	}
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

// newGUID is a random cluster id of 32 hexadecimal digits.
func newGUID() string {
	id := make([]byte, 16)
	// crypto/rand never fails (Go 1.24).
	_, _ = rand.Read(id)
	return hex.EncodeToString(id)
}
