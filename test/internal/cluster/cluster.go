// Package cluster is a number of hosts, network namespaces of the test, on which the
// built programs run beside a real etcd, without Docker. It is for tests of what must
// hold between the programs and between hosts.
package cluster

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// How long tests wait for what should be there soon, for an answer that should come, and
// for one that should not.
const (
	Patience = 20 * time.Second
	Answer   = time.Second
	NoAnswer = 300 * time.Millisecond
)

// storeInside is where each host finds etcd, through a relay that the test can cut.
const storeInside = "127.0.0.1:2379"

// Cluster is etcd, outside of all hosts, and hosts that reach it by a relay.
type Cluster struct {
	T     testing.TB
	Etcd  *etcdtest.Server
	Store *etcdstore.Client
	Net   *nettest.Net
	Hosts []*Host

	root string
}

// New makes hosts with the start-up done and no program running. None has a default
// route. All have IPv4 and IPv6.
func New(t testing.TB, hosts int, opts ...etcdtest.Option) *Cluster {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{T: t, root: root, Etcd: etcdtest.Start(t, opts...)}
	if _, err := os.Stat(c.bin("calico-felix")); err != nil {
		t.Fatal("the programs are not built: run make build (make test-net and make test-faults do)")
	}
	c.Store, err = etcdstore.New(etcdstore.Config{Endpoints: c.Etcd.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Store.Close() })
	c.Net = nettest.New(t)
	for range hosts {
		h := c.AddHost()
		h.StartUp()
	}
	return c
}

// AddHost adds a host, without its start-up.
func (c *Cluster) AddHost() *Host {
	c.T.Helper()
	i := len(c.Hosts)
	space := c.Net.AddHost(nettest.HostSpec{
		Name: fmt.Sprintf("h%d", i),
		Addrs: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.77.0.%d/24", i+1)),
			netip.MustParsePrefix(fmt.Sprintf("fd77::%d/64", i+1)),
		},
	})
	h := &Host{Host: space, Node: fmt.Sprintf("node%02d", i), Dir: c.T.TempDir(), cluster: c}
	h.Relay = space.Relay(storeInside, c.Etcd.Addr())
	c.Hosts = append(c.Hosts, h)
	return h
}

// Stranger adds a machine that is no host of the cluster, and routes all containers'
// addresses by the first host.
func (c *Cluster) Stranger() *nettest.Host {
	c.T.Helper()
	first := c.Hosts[0]
	return c.Net.AddHost(nettest.HostSpec{
		Name:    "stranger",
		Addrs:   []netip.Prefix{netip.MustParsePrefix("10.77.0.200/24"), netip.MustParsePrefix("fd77::200/64")},
		Default: []netip.Addr{first.Addr(false), first.Addr(true)},
	})
}

// StartAll starts the programs of all hosts.
func (c *Cluster) StartAll() {
	for _, h := range c.Hosts {
		h.StartFelix()
		h.StartBGP()
	}
}

func (c *Cluster) bin(name string) string { return filepath.Join(c.root, "bin", name) }

// Profile makes the profile that the Docker plugin makes for a network, open to the
// named other networks too.
func (c *Cluster) Profile(network string, alsoFrom ...string) {
	c.T.Helper()
	p := &model.Profile{Tags: []string{network}, OutboundRules: []model.Rule{{Action: model.ActionAllow}}}
	for _, tag := range append([]string{network}, alsoFrom...) {
		p.InboundRules = append(p.InboundRules, model.Rule{Action: model.ActionAllow, Source: model.Match{Tag: tag}})
	}
	c.Put(model.ProfileKey{Name: network}, p)
}

// Put writes a resource, and gives the revision.
func (c *Cluster) Put(k model.Key, r model.Resource) int64 {
	c.T.Helper()
	w, err := etcdstore.PutWrite(k, r)
	if err != nil {
		c.T.Fatal(err)
	}
	rev, err := c.Store.Commit(c.T.Context(), w)
	if err != nil {
		c.T.Fatal(err)
	}
	return rev
}

// Delete removes a resource.
func (c *Cluster) Delete(k model.Key) {
	c.T.Helper()
	if _, err := c.Store.Delete(c.T.Context(), k, 0); err != nil {
		c.T.Fatal(err)
	}
}

// Raw writes a value at a path as it is, as another tool might.
func (c *Cluster) Raw(path, value string) {
	c.T.Helper()
	if _, err := c.Etcd.Client(c.T).Put(c.T.Context(), path, value); err != nil {
		c.T.Fatal(err)
	}
}

// Unset removes what is at a path.
func (c *Cluster) Unset(path string) {
	c.T.Helper()
	if _, err := c.Etcd.Client(c.T).Delete(c.T.Context(), path); err != nil {
		c.T.Fatal(err)
	}
}

// Block is the block of addresses that an address is of.
func Block(a netip.Addr) netip.Prefix {
	bits := 26
	if a.Is6() {
		bits = 122
	}
	return netip.PrefixFrom(a, bits).Masked()
}
