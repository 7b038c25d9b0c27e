// Package daemon builds the plugin from its parts and runs it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/hostrecord"
	libipam "calico.internal/libcalico/ipam"
	"calico.internal/libcalico/liveness"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nodename"
	"calico.internal/libcalico/version"
	"calico.internal/libnetwork-plugin/internal/address"
	"calico.internal/libnetwork-plugin/internal/config"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/felix"
	"calico.internal/libnetwork-plugin/internal/httpapi"
	"calico.internal/libnetwork-plugin/internal/ipam"
	"calico.internal/libnetwork-plugin/internal/netsync"
	"calico.internal/libnetwork-plugin/internal/network"
	"calico.internal/libnetwork-plugin/internal/registry"
	"calico.internal/libnetwork-plugin/internal/resolver"
	"calico.internal/libnetwork-plugin/internal/revive"
	"calico.internal/libnetwork-plugin/internal/sandbox"
	"calico.internal/libnetwork-plugin/internal/scope"
	"calico.internal/libnetwork-plugin/internal/statusapi"
	"calico.internal/libnetwork-plugin/internal/sweep"
	"calico.internal/libnetwork-plugin/internal/systemd"
	"calico.internal/libnetwork-plugin/internal/veth"
	"calico.internal/libnetwork-plugin/internal/zone"
	libnetworkv1 "calico.internal/proto/libnetwork/v1"
)

// program is the plugin's name among this host's programs.
const program = "libnetwork"

// Run serves Docker's engine until ctx ends. An error says what keeps it from starting.
func Run(ctx context.Context, cfg config.Config, getenv func(string) string, log *slog.Logger) error {
	d, err := build(cfg, getenv, log)
	if err != nil {
		return err
	}
	defer d.close()
	return d.run(ctx)
}

// daemon is the plugin's parts.
type daemon struct {
	cfg    config.Config
	getenv func(string) string
	log    *slog.Logger
	node   string
	// host is which host this is; without an id when it has none.
	host      model.Identity
	store     *etcdstore.Client
	guard     *etcdstore.Guard
	links     *veth.Links
	engine    *dockerapi.Client
	felixConn *grpc.ClientConn
	pools     *libipam.Client
	book      *address.Book
	scope     *scope.Keeper
	registry  *registry.Registry
	networks  *netsync.Syncer
	driver    *network.Driver
	describer *network.Describer
	askers    *zone.Askers
	zone      *zone.Zone
	sweeper   *sweep.Sweeper
	reviver   *revive.Reviver
	plugins   []*plugin
	status    *statusapi.Server
	etcd      *etcdWatch
	// socketsStay says that another process holds Docker's sockets, and engineAway that the engine
	// was lost, or never answered.
	socketsStay bool
	engineAway  atomic.Bool
}

// build makes all parts, in the order in which data flows through them.
func build(cfg config.Config, getenv func(string) string, log *slog.Logger) (*daemon, error) {
	d := &daemon{cfg: cfg, getenv: getenv, log: log}
	if err := d.open(getenv); err != nil {
		d.close()
		return nil, err
	}
	waiter := felix.New(d.felixConn, d.felixSocket(), cfg.FelixTimeout)
	borrowed := address.OpenBorrowed(cfg.StateDir, log)
	d.pools = libipam.New(d.store, d.node, libipam.OnHost(localnet.List), libipam.Routed(localnet.Routes),
		libipam.Borrowing(borrowed.Note), libipam.Owing(d.owing))
	d.book = address.New(d.pools, borrowed, d.store, d.links, d.node, log).On(d.host)
	d.scope = scope.New(d.engine, cfg.Scope, log, cfg.StateDir, cfg.RunDir)
	d.registry = registry.New(d.store, d.engine, d.node, network.Name, log)
	d.guard = d.store.Guard(d.cluster(), log)
	d.networks = netsync.New(netsync.Config{
		Node: d.node, Driver: network.Name, Spread: cfg.SyncNetworks, CreateProfiles: cfg.CreateProfiles, StateDir: cfg.StateDir,
	}, netsync.Parts{
		Store: d.store, Guard: d.guard, Engine: d.engine, Ours: d.registry.Ours, Saw: d.registry.Saw,
		Sole: d.book.Sole, Scope: d.scope.Current, Log: log,
	})
	d.sweeper = sweep.New(d.book, d.links, d.engine, sweep.Grace, sweep.Every, log)
	d.reviver = revive.New(d.engine, waiter.Ready, d.registry.Has, log)
	d.etcd = newEtcdWatch(d.store, d.etcdUp, log)
	d.driver = network.New(network.Config{
		Node: d.node, InterfacePrefix: cfg.InterfacePrefix, CreateProfiles: cfg.CreateProfiles,
		LabelEndpoints: cfg.LabelEndpoints, LabelTimeout: cfg.LabelTimeout, MTU: cfg.MTU, Removed: d.networks.Removed, Addresses: d.addresses,
	}, network.Parts{
		Store: d.store, Book: d.book, Registry: d.registry, Links: d.links, Felix: waiter, Engine: d.engine,
		Scope: d.scope, Sandboxes: sandbox.New(), Log: log,
	})
	d.describer = network.NewDescriber(d.driver)
	d.askers, d.zone = zone.NewAskers(), zone.New()
	d.plugins = []*plugin{
		newPlugin(network.Name, "NetworkDriver", d.driver.Register, log),
		newPlugin(ipam.Name, "IpamDriver", ipam.New(d.book, ipam.StoredPools(d.store), hostNameservers).Register, log),
	}
	// After a call that failed, engines forget what former calls gave them: an IPv4 address, where no IPv6 address was
	// to be had.
	for _, p := range d.plugins {
		p.server.Failed = d.sweeper.Kick
	}
	d.status = statusapi.New(statusapi.Sources{
		Node: d.node, Started: time.Now(), Scope: d.scope.Current, DatastoreConnected: d.etcd.connected,
		EngineConnected: d.engine.Connected, EngineID: d.engineID, Networks: d.registry.Known, Problems: d.networks.Problems, Endpoints: d.book.Endpoints,
	})
	return d, nil
}

// cluster is the cluster that this host has been part of; empty if it does not remember.
func (d *daemon) cluster() string {
	record, _, err := hostrecord.Read(hostrecord.Dir(d.getenv))
	if err != nil {
		d.log.Warn("what this host remembers cannot be read: another cluster's etcd is not noticed", logattr.Err, err)
	}
	return record.ClusterGUID
}

// addresses lists the node's own, as the start-up noted them last.
func (d *daemon) addresses() []netip.Addr {
	record, _, err := hostrecord.Read(hostrecord.Dir(d.getenv))
	if err != nil {
		return nil // said once, when the plugin started
	}
	return []netip.Addr{record.IPv4, record.IPv6}
}

// owing says which addresses etcd refuses to have taken back, though nobody has them.
func (d *daemon) owing(o libipam.Owed) {
	for _, a := range o.Addrs {
		if o.Err != nil {
			d.log.Error("an address that nobody has stays in use, because etcd refuses to have it taken back; it is tried again until it is", logattr.Addr, a, logattr.Err, o.Err)
		} else {
			d.log.Info("an address that nobody has was taken back at last", logattr.Addr, a)
		}
	}
}

// open opens what is outside of the process. It waits for nothing.
func (d *daemon) open(getenv func(string) string) (err error) {
	if d.node, err = nodename.Resolve(d.cfg.Node, getenv); err != nil {
		return err
	}
	if d.host, err = hostrecord.Identity(hostrecord.Dir(getenv), getenv); err != nil {
		d.log.Warn("this host has no identity: another one of the same name is not noticed", logattr.Err, err)
	}
	etcd, err := etcdstore.ConfigFromEnv(getenv)
	if err != nil {
		return err
	}
	if d.store, err = etcdstore.New(etcd); err != nil {
		return err
	}
	if d.engine, err = dockerapi.New(d.cfg.DockerHost); err != nil {
		return err
	}
	if d.links, err = veth.New(); err != nil {
		return err
	}
	d.felixConn, err = grpcsock.Dial(d.felixSocket())
	return err
}

// close closes what is open; what it cannot close ends with the process.
func (d *daemon) close() {
	if d.felixConn != nil {
		_ = d.felixConn.Close()
	}
	if d.links != nil {
		d.links.Close()
	}
	if d.engine != nil {
		d.engine.Close()
	}
	if d.store != nil {
		_ = d.store.Close()
	}
}

func (d *daemon) felixSocket() string { return filepath.Join(d.cfg.RunDir, "felix.sock") }

// run runs all tasks. The first that fails ends the others.
func (d *daemon) run(ctx context.Context) error {
	if err := d.listen(); err != nil {
		return err
	}
	tasks, ctx := errgroup.WithContext(ctx)
	left, leave := context.WithCancel(context.WithoutCancel(ctx))
	tasks.Go(func() error {
		defer leave()
		<-ctx.Done()
		d.lastCalls(ctx)
		return nil
	})
	tasks.Go(func() error { return d.serveStatus(ctx) })
	tasks.Go(func() error { return d.etcd.run(ctx) })
	tasks.Go(func() error { d.engine.Watch(ctx, d); return nil })
	tasks.Go(func() error { return d.book.Run(ctx) })
	tasks.Go(func() error { return d.sweeper.Run(ctx) })
	tasks.Go(func() error { return d.networks.Run(ctx) })
	tasks.Go(func() error { return d.describer.Run(ctx) })
	d.answerNames(ctx, tasks)
	names := sweep.Names{Store: d.store, Node: d.node, Networks: d.networkKeys, Stale: d.staleNames, Endpoints: d.book.Endpoints, Log: d.log}
	tasks.Go(func() error { return names.Run(ctx) })
	if d.cfg.StartContainers {
		tasks.Go(func() error { return d.reviver.Run(ctx) })
	}
	tasks.Go(func() error {
		return liveness.Run(ctx, d.store, liveness.Program{Node: d.node, Name: program, Host: d.host, Ready: d.etcd.ready, Log: d.log})
	})
	for _, p := range d.plugins {
		tasks.Go(func() error { return p.serve(ctx, left) })
	}
	tasks.Go(func() error { return d.publish(ctx) })
	return tasks.Wait()
}

// The resolver's port, and the file that names the host's own resolvers.
const (
	namePort   = 53
	resolvConf = "/etc/resolv.conf"
)

// answerNames answers the names of containers at the address that all containers route to.
func (d *daemon) answerNames(ctx context.Context, tasks *errgroup.Group) {
	if !d.cfg.AnswerNames {
		return
	}
	follower := resolver.Follower{Guard: d.guard, Node: d.node, Askers: d.askers, Zone: d.zone}
	tasks.Go(func() error { return follower.Run(ctx) })
	at := endpoint.Gateway(1)
	server := resolver.New(d.zone, d.askers, resolvConf, []netip.Addr{at}, d.log)
	tasks.Go(func() error { return server.Run(ctx, netip.AddrPortFrom(at, namePort)) })
}

// staleNames tells whether names of this node are known whose endpoints are not.
func (d *daemon) staleNames() bool { return d.zone.Stale(d.node, d.askers.Has) }

// networkKeys lists the keys of this host's networks.
func (d *daemon) networkKeys() []string {
	var keys []string
	for _, n := range d.registry.Known() {
		keys = append(keys, n.Profile)
	}
	return keys
}

// listen takes over Docker's sockets from whoever holds them, or makes them, still without
// their names.
func (d *daemon) listen() error {
	held, err := systemd.Listeners(d.getenv)
	if err != nil {
		return err
	}
	if len(held) > 0 {
		d.log.Info("Docker's sockets are held by another process: calls wait there while this one is away")
		d.socketsStay = true
		return d.takeOver(held)
	}
	if err := os.MkdirAll(d.cfg.PluginDir, 0o755); err != nil {
		return fmt.Errorf("folder of Docker's plugins: %w", err)
	}
	for i, p := range d.plugins {
		if err := p.listen(d.cfg.PluginDir); err != nil {
			for _, made := range d.plugins[:i] {
				err = errors.Join(err, made.socket.Close())
			}
			return err
		}
	}
	return nil
}

// takeOver gives each plugin its socket of those held, by the name or else by the file.
func (d *daemon) takeOver(held []systemd.Listener) error {
	byName := make(map[string]systemd.Listener)
	for _, l := range held {
		byName[l.File()] = l
	}
	for _, l := range held {
		if l.Name != "" {
			byName[l.Name] = l
		}
	}
	for _, p := range d.plugins {
		l, ok := byName[p.name]
		if !ok || len(held) != len(d.plugins) {
			return errors.Join(fmt.Errorf("%d sockets were handed over, and should be %d, calico.sock and calico-ipam.sock: "+
				"correct the socket unit", len(held), len(d.plugins)), systemd.Close(held))
		}
		p.socket = httpapi.Held(l)
	}
	return nil
}

// publish makes Docker's sockets appear. etcd is given a moment to answer first, but
// not having one is no reason to be absent: an engine that finds nobody waits 15
// seconds at each call, one that is told what is wrong goes on at once.
func (d *daemon) publish(ctx context.Context) error {
	d.etcd.wait(ctx)
	if ctx.Err() != nil {
		return nil
	}
	for _, p := range d.plugins {
		if err := p.socket.Publish(); err != nil {
			return err
		}
	}
	d.etcd.serving()
	d.log.Info("serving Docker's engine", logattr.Node, d.node, logattr.Dir, d.cfg.PluginDir,
		"scope", d.scope.Current(), logattr.Version, version.Version)
	d.tell(systemd.Ready)
	<-ctx.Done()
	d.tell(systemd.Stopping)
	return nil
}

// tell tells the service's manager a state.
func (d *daemon) tell(state string) {
	if err := systemd.Notify(d.getenv, state); err != nil {
		d.log.Warn("service manager is not told how the plugin is", logattr.Err, err)
	}
}

// serveStatus serves this host's other programs.
func (d *daemon) serveStatus(ctx context.Context) error {
	return grpcsock.Serve(ctx, filepath.Join(d.cfg.RunDir, program+".sock"), d.etcd.health, func(s *grpc.Server) {
		libnetworkv1.RegisterLibnetworkServer(s, d.status)
	})
}

// engineIDTimeout bounds the question for the engine's id.
const engineIDTimeout = time.Second

// engineID asks for the engine's id; it is empty without an answer.
func (d *daemon) engineID(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, engineIDTimeout)
	defer cancel()
	info, err := d.engine.Info(ctx)
	if err != nil {
		return "" // whoever asks sees that it is not known
	}
	return info.ID
}

// EngineUp brings everything in line with an engine that has come up.
func (d *daemon) EngineUp(ctx context.Context) {
	d.engineAway.Store(false)
	scope := d.scope.Refresh(ctx)
	d.log.Info("Docker's engine answers", "scope", scope)
	if err := d.networks.Look(ctx); err != nil { // the reviver goes by it
		d.log.Warn("networks of the engine are not known", logattr.Err, err)
	}
	d.sync(ctx)
	d.reviver.Kick()
}

// etcdUp makes up for what could not be written while etcd was away.
func (d *daemon) etcdUp(ctx context.Context) {
	_ = d.pools.Prepare(ctx) // else the first address waits for that
	if d.engine.Connected() {
		d.sync(ctx)
	}
}

// sync brings etcd in line with the engine.
func (d *daemon) sync(ctx context.Context) {
	d.networks.Kick()
	ids, err := d.driver.Backfill(ctx)
	if err != nil {
		d.log.Warn("containers of endpoints are not up to date", logattr.Err, err)
	}
	for _, id := range ids {
		d.describer.Changed(id)
	}
	d.sweeper.Kick()
}

// NetworkChanged has the name of a new network learned, which the engine does not tell when
// it has it created, and the networks of all hosts made the same.
func (d *daemon) NetworkChanged(_ context.Context, e dockerapi.Event) {
	if e.Action != "destroy" {
		d.networks.Kick()
	} else if err := d.networks.Removed(e.Actor.ID); err != nil {
		d.log.Warn("removal of a network is not remembered", logattr.Err, err)
	}
}

// ContainerChanged has what is known of a container's endpoints brought up to date.
func (d *daemon) ContainerChanged(_ context.Context, e dockerapi.Event) {
	if e.Action == "start" || e.Action == "rename" || e.Action == "connect" {
		d.describer.Changed(e.Container())
	}
}

// EngineDown notes that the engine does not answer.
func (d *daemon) EngineDown(err error) {
	d.engineAway.Store(true)
	d.log.Warn("Docker's engine does not answer: names and labels of containers are not known until it does", logattr.Err, err)
}

// hostNameservers lists those of the host's resolver.
func hostNameservers() []netip.Addr {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	return ipam.Nameservers(string(text))
}
