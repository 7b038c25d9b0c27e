// Package netsync keeps Docker's networks the same on all hosts: it compares the records in
// etcd with this host's engine, and does what package networks decides (edge).
//
// Each round looks at everything: records first and then the engine, so that a network that
// has a record and is not at the engine was removed there. What a round does makes the
// engine call this very plugin, so rounds have a goroutine of their own. Nothing is done on
// the word of an etcd that was emptied or is another cluster's.
package netsync

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	rand2 "math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/trust"
	"calico.internal/libnetwork-plugin/internal/config"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/networks"
)

// The times of rounds: one at least so often, and after one that failed soon again.
const (
	every      = time.Minute
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	// fasterPause is the longest wait after another host was faster.
	fasterPause = 200 * time.Millisecond
	// quiet is how far two rounds that changes of records ask for are apart.
	quiet = 200 * time.Millisecond
	// deedLimit bounds what is asked of the engine for one network.
	deedLimit = 20 * time.Second
	// roundLimit bounds a round; making a network makes the engine call us, which waits for
	// etcd.
	roundLimit = time.Minute
)

// Engine is what is asked of Docker's engine.
type Engine interface {
	Connected() bool
	Networks(ctx context.Context) ([]dockerapi.Network, error)
	CreateNetwork(ctx context.Context, n dockerapi.NewNetwork) (string, error)
	RemoveNetwork(ctx context.Context, id string) error
}

// Parts are what the syncer works with.
type Parts struct {
	Store  *etcdstore.Client
	Guard  *etcdstore.Guard
	Engine Engine
	// Ours reports whether a network of a driver is ours, Saw is told all that are.
	Ours func(driver string) bool
	Saw  func([]dockerapi.Network)
	// Sole makes sure that no other host has this one's name.
	Sole func(context.Context) error
	// Scope is what Docker is told about the reach of networks.
	Scope func() string
	Log   *slog.Logger
}

// Config is how networks are kept.
type Config struct {
	Node, Driver string
	// Spread makes the networks of all hosts the same, unless the engines do.
	Spread bool
	// CreateProfiles says that networks have profiles, which go with them.
	CreateProfiles bool
	// StateDir is where it is remembered which networks users removed.
	StateDir string
}

// Syncer keeps the networks of one host.
type Syncer struct {
	Config
	Parts

	kick     chan struct{}
	removals *removals
	// marked says that the latest round saw a mark of a removal, which goes with time.
	marked bool
	// problems are what the records said of this host in the latest round.
	problems atomic.Pointer[map[string]string]
}

// New returns a syncer.
func New(cfg Config, parts Parts) *Syncer {
	return &Syncer{
		Config: cfg, Parts: parts, kick: make(chan struct{}, 1),
		removals: openRemovals(filepath.Join(cfg.StateDir, "libnetwork-removed"), parts.Log),
	}
}

// Removed notes, on disk too, that a user has this host's engine remove a network, and asks for
// a round. What the engine does not have without that, it lost.
func (s *Syncer) Removed(id string) error {
	err := s.removals.add(id)
	s.Kick()
	return err
}

// Kick asks for a round: something happened at the engine.
func (s *Syncer) Kick() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Run does a round whenever a record or the engine's networks change, until ctx ends.
func (s *Syncer) Run(ctx context.Context) error {
	records := s.Guard.Watch(ctx, model.ListPrefixes(model.KindDockerNetwork), etcdstore.WatchOptions{})
	tick := time.NewTicker(every)
	defer tick.Stop()
	again := time.NewTimer(every)
	defer again.Stop()
	soon := time.NewTimer(every)
	defer soon.Stop()
	var last time.Time
	for pause := firstRetry; ; {
		select {
		case <-ctx.Done():
			return nil
		case b, open := <-records:
			if !open {
				return nil
			}
			if b.Err != nil || b.Held != nil {
				continue
			}
			// Each host writes itself into a new network's record: one round for many of those.
			if wait := quiet - time.Since(last); wait > 0 {
				soon.Reset(wait)
				continue
			}
		case <-soon.C:
		case <-s.kick:
		case <-tick.C:
		case <-again.C:
		}
		if !s.Engine.Connected() || s.Guard.Verdict().State != trust.Trusted {
			continue // both tell when they are back
		}
		err := s.rounds(ctx)
		last = time.Now()
		if err != nil && ctx.Err() == nil {
			s.Log.Warn("networks are not the same on all hosts yet", logattr.Err, err, "retry_in", pause.String())
			again.Reset(pause)
			pause = min(2*pause, lastRetry)
			continue
		}
		pause = firstRetry
		if s.marked {
			again.Reset(networks.MarkLife + time.Second)
		}
	}
}

// rounds does rounds until one had nothing to do.
func (s *Syncer) rounds(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, roundLimit)
	defer cancel()
	for {
		if did, err := s.Round(ctx); err != nil || !did {
			return err
		}
	}
}

// Round looks at all networks once. did says that something was done, so that another
// round is due.
func (s *Syncer) Round(ctx context.Context) (did bool, err error) {
	// What another host of this name has, the engine here does not know.
	if err := s.Sole(ctx); err != nil {
		return false, err
	}
	view := s.view()
	entries, unreadable, err := s.records(ctx)
	if err != nil {
		return false, err
	}
	locals, err := s.locals(ctx)
	if err != nil {
		return false, err
	}
	records := make(map[string]*model.DockerNetwork, len(entries))
	for key, e := range entries {
		records[key] = e.Value.(*model.DockerNetwork)
	}
	s.noteProblems(records)
	s.marked = slices.ContainsFunc(slices.Collect(maps.Values(records)), func(n *model.DockerNetwork) bool { return n.Removed })
	var errs []error
	faster := false
	for _, key := range networks.Names(records, locals) {
		if unreadable[key] {
			continue // a newer program's, perhaps: nothing is known about it
		}
		step := networks.Decide(records[key], locals[key], view)
		done, err := s.do(ctx, key, records[key], entries[key].Revision, step)
		did = did || done
		if errors.Is(err, errFaster) {
			faster = true
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("network %s: %w", key, err))
		}
	}
	if faster {
		// All hosts write the same record when a network is made: not again at the same moment.
		pause(ctx, rand2.N(fasterPause))
		did = true
	}
	if err := errors.Join(errs...); err != nil || did {
		return did && err == nil, err
	}
	return false, s.removals.keepOnly(records)
}

// noteProblems keeps what the records say of this host. The last of several rounds, which
// has nothing to do, reads what those before it wrote.
func (s *Syncer) noteProblems(records map[string]*model.DockerNetwork) {
	problems := make(map[string]string)
	for key, r := range records {
		if problem := r.Problems[s.Node]; problem != "" {
			problems[networks.Name(key, r)] = problem
		}
	}
	s.problems.Store(&problems)
}

// Problems tells why networks are not on this host what they are on the others, by Docker's
// names of them.
func (s *Syncer) Problems() map[string]string {
	if p := s.problems.Load(); p != nil {
		return *p
	}
	return nil
}

// view is what this host knows of itself.
func (s *Syncer) view() networks.View {
	return networks.View{
		Node:        s.Node,
		Spread:      s.Spread && s.Scope() == config.ScopeLocal,
		UserRemoved: s.removals.has,
		NewUID:      func() string { return strings.ToLower(rand.Text()) },
		Now:         time.Now(),
	}
}

// records reads all records by their names, and the names of those that cannot be read.
func (s *Syncer) records(ctx context.Context) (map[string]etcdstore.Entry, map[string]bool, error) {
	list, _, bad, err := s.Store.List(ctx, model.KindDockerNetwork, nil)
	if err != nil {
		return nil, nil, err
	}
	entries, unreadable := make(map[string]etcdstore.Entry, len(list)), make(map[string]bool)
	for _, e := range list {
		entries[e.Key.(model.DockerNetworkKey).Name] = e
	}
	for _, q := range bad {
		if key, ok := q.Key.(model.DockerNetworkKey); ok {
			unreadable[key.Name] = true
		}
		s.Log.Warn("network record cannot be read: the network stays on each host as it is", "key", q.Path, logattr.Err, q.Err)
	}
	return entries, unreadable, nil
}

// Look takes in the engine's networks, and does nothing about them.
func (s *Syncer) Look(ctx context.Context) error {
	_, err := s.locals(ctx)
	return err
}

// locals lists the engine's networks by the names of their records.
func (s *Syncer) locals(ctx context.Context) (map[string]networks.Local, error) {
	all, err := s.Engine.Networks(ctx)
	if err != nil {
		return nil, err
	}
	var ours []dockerapi.Network
	locals := make(map[string]networks.Local)
	for _, n := range all {
		key := networks.Key(n.Name)
		l := locals[key]
		if s.Ours(n.Driver) {
			ours = append(ours, n)
			l.Ours = append(l.Ours, n)
		} else {
			l.Other = n.Driver
		}
		locals[key] = l
	}
	s.Saw(ours)
	return locals, nil
}

// do does a step.
func (s *Syncer) do(ctx context.Context, key string, record *model.DockerNetwork, revision int64, step networks.Step) (did bool, err error) {
	wrote, err := s.write(ctx, key, record, step.Record, revision)
	if err == nil && wrote && step.Record == nil && record.Removed {
		err = s.dropProfile(ctx, key)
	}
	if err != nil || wrote {
		return wrote, err
	}
	ctx, cancel := context.WithTimeout(ctx, deedLimit)
	defer cancel()
	switch step.Deed {
	case networks.Nothing:
	case networks.Make:
		return s.make(ctx, key, record, revision)
	case networks.Remove:
		return s.remove(ctx, key, record, revision, step.ID)
	case networks.Ask:
		return true, s.gone(ctx, key, record, revision)
	}
	return false, nil
}

// errFaster says that another host wrote a record at the same time.
var errFaster = errors.New("another host was faster")

// write stores a record where it is another one than before.
func (s *Syncer) write(ctx context.Context, key string, was, now *model.DockerNetwork, revision int64) (wrote bool, err error) {
	k := model.DockerNetworkKey{Name: key}
	switch {
	case was == nil && now == nil, was != nil && now != nil && same(was, now):
		return false, nil
	case was == nil:
		_, err = s.Store.Create(ctx, k, now)
	case now == nil:
		_, err = s.Store.Delete(ctx, k, revision)
	default:
		_, err = s.Store.Update(ctx, k, now, revision)
	}
	if errors.Is(err, etcdstore.ErrConflict) || errors.Is(err, etcdstore.ErrExists) || errors.Is(err, etcdstore.ErrNotFound) {
		return false, errFaster
	}
	if err == nil && now != nil && now.Problems[s.Node] != "" && (was == nil || was.Problems[s.Node] != now.Problems[s.Node]) {
		s.Log.Warn("network is not the same here as on other hosts", logattr.Network, networks.Name(key, now), logattr.Why, now.Problems[s.Node])
	}
	return true, err
}

// make makes a copy of a network. The next round finds it and notes its id.
func (s *Syncer) make(ctx context.Context, key string, record *model.DockerNetwork, revision int64) (did bool, err error) {
	id, err := s.Engine.CreateNetwork(ctx, networks.Copy(key, record, s.Driver))
	switch {
	case err == nil:
		s.Log.Info("made a network that another host has", logattr.Network, networks.Name(key, record), "id", id)
		return true, nil
	case errors.Is(err, dockerapi.ErrUnavailable):
		return false, err
	}
	// The engine's refusal stays until something changes, so it is told and tried again now
	// and then.
	_, werr := s.write(ctx, key, record, networks.Troubled(record, s.Node, err.Error()), revision)
	return false, werr
}

// remove removes a copy of a network, or one that a user removed elsewhere.
func (s *Syncer) remove(ctx context.Context, key string, record *model.DockerNetwork, revision int64, id string) (did bool, err error) {
	err = s.Engine.RemoveNetwork(ctx, id)
	switch {
	case err == nil:
		s.Log.Info("removed a network that was removed on another host", logattr.Network, key, "id", id)
		return true, nil
	case errors.Is(err, dockerapi.ErrNotFound):
		return true, nil
	case errors.Is(err, dockerapi.ErrInUse):
		wrote, err := s.write(ctx, key, record, networks.StillUsed(record, id, s.Node), revision)
		if wrote && err == nil {
			s.Log.Warn("network was removed on another host and is used by containers here", logattr.Network, key, "id", id)
		}
		return false, err
	}
	return false, err
}

// gone makes up for a network that a user removed here.
func (s *Syncer) gone(ctx context.Context, key string, record *model.DockerNetwork, revision int64) error {
	name := networks.Name(key, record)
	used, err := s.use(ctx, name, key)
	if err != nil {
		return err
	}
	if used.network {
		s.Log.Warn("network was removed here, but there are endpoints of it, or were a moment ago: it is made again; stop its containers first to remove it",
			logattr.Network, name, logattr.Node, used.where)
	}
	_, err = s.write(ctx, key, record, networks.Gone(record, s.Node, used.network, time.Now()), revision)
	return err
}

// use is how endpoints use a network and its profile.
type use struct {
	network, profile bool
	// where is a node with such an endpoint.
	where string
}

// use looks through all endpoints of all hosts: a network is seldom removed.
func (s *Syncer) use(ctx context.Context, name, profile string) (u use, err error) {
	for _, kind := range []model.Kind{model.KindWorkloadEndpoint, model.KindHostEndpoint} {
		for _, prefix := range model.ListPrefixes(kind) {
			if _, err := s.Store.EachStored(ctx, prefix, 0, func(kv *mvccpb.KeyValue) error {
				u.look(kv, name, profile)
				return nil
			}); err != nil {
				return use{}, err
			}
		}
	}
	return u, nil
}

// look takes one stored value into account.
func (u *use) look(kv *mvccpb.KeyValue, name, profile string) {
	if !bytes.Contains(kv.Value, quoted(name)) && !bytes.Contains(kv.Value, quoted(profile)) {
		return // most endpoints are of other networks
	}
	key, ok := model.ParsePath(string(kv.Key))
	if !ok {
		return
	}
	var ep struct {
		Profiles    []string          `json:"profile_ids"`
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(kv.Value, &ep) != nil {
		return
	}
	for _, p := range ep.Profiles {
		u.profile = u.profile || p == profile
	}
	if w, ok := key.(model.WorkloadEndpointKey); ok && ep.Annotations[endpoint.Network] == name {
		u.network, u.where = true, w.Node
	}
}

// quoted is a text as JSON has it.
func quoted(text string) []byte {
	out, err := json.Marshal(text)
	if err != nil {
		return []byte(text)
	}
	return out
}

// dropProfile removes the profile of a network whose record is gone, and which no host has had for a
// while, unless somebody edited it or an endpoint has it.
func (s *Syncer) dropProfile(ctx context.Context, name string) error {
	if !s.CreateProfiles {
		return nil
	}
	entry, err := s.Store.Get(ctx, model.ProfileKey{Name: name})
	if errors.Is(err, etcdstore.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if !endpoint.IsDefaultProfile(entry.Value.(*model.Profile), name) {
		s.Log.Info("the profile of a removed network stays, as it was edited", "profile", name)
		return nil
	}
	if used, err := s.use(ctx, name, name); err != nil || used.profile {
		return err
	}
	_, err = s.Store.Delete(ctx, entry.Key, entry.Revision)
	if errors.Is(err, etcdstore.ErrConflict) || errors.Is(err, etcdstore.ErrNotFound) {
		return nil // edited in this moment, or gone
	}
	return err
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// same reports whether two records are stored alike.
func same(a, b *model.DockerNetwork) bool {
	if a == b {
		return true
	}
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
