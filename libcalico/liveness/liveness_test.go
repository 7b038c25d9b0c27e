package liveness_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/liveness"
	"calico.internal/libcalico/model"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

var key = model.LivenessKey{Node: "node00", Program: "felix"}

// program is a running Run.
type program struct {
	tb     testing.TB
	client *etcdstore.Client
	ready  atomic.Bool
	ours   atomic.Bool
	log    lines
	stop   func()
	result chan error
}

func start(t *testing.T, s *etcdtest.Server) *program { return startOn(t, s, model.Identity{}) }

func startOn(t *testing.T, s *etcdtest.Server, as model.Identity) *program {
	t.Helper()
	client, err := etcdstore.New(etcdstore.Config{Endpoints: s.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{tb: t, client: client, stop: cancel, result: make(chan error, 1)}
	p.ours.Store(true)
	go func() {
		p.result <- liveness.Run(ctx, client, liveness.Program{
			Node: key.Node, Name: key.Program, Host: as, Ready: p.ready.Load, Ours: p.ours.Load, Log: slog.New(slog.NewTextHandler(&p.log, nil)),
		})
	}()
	t.Cleanup(func() {
		cancel()
		_ = client.Close()
	})
	return p
}

// Neither is an empty one, of which nobody has said yet that it is another.
func TestNothingIsWrittenToAnEmptyStore(t *testing.T) {
	s := etcdtest.Shared(t)
	p := start(t, s)
	<-time.After(1500 * time.Millisecond)
	if _, err := p.client.Get(t.Context(), key); !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("it is written: %v", err)
	}
	s.SetUp(t)
	p.untilReady(false)
}

// until polls the key.
func (p *program) until(what string, cond func(v *model.Liveness, err error) bool) {
	p.tb.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(40 * time.Second)
	for {
		select {
		case <-tick.C:
			e, err := p.client.Get(context.Background(), key)
			v, _ := e.Value.(*model.Liveness)
			if cond(v, err) {
				return
			}
		case <-deadline:
			p.tb.Fatalf("not within 40 s: %s", what)
		}
	}
}

func (p *program) untilReady(ready bool) {
	p.tb.Helper()
	p.until("key", func(v *model.Liveness, err error) bool { return err == nil && v.Ready == ready })
}

func TestKeyFollowsTheProgram(t *testing.T) {
	s := etcdtest.Shared(t)
	s.SetUp(t)
	p := start(t, s)
	p.untilReady(false)
	p.ready.Store(true)
	p.untilReady(true)
	p.ready.Store(false)
	p.untilReady(false)

	resp, err := s.Client(t).Get(t.Context(), model.Paths(key)[0])
	if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].Lease == 0 {
		t.Fatalf("the key has no lease: %v, %v", resp, err)
	}
	lease, err := s.Client(t).TimeToLive(t.Context(), clientv3.LeaseID(resp.Kvs[0].Lease))
	if err != nil || lease.GrantedTTL != int64(liveness.TTL/time.Second) {
		t.Errorf("lease %+v, %v", lease, err)
	}
	p.stop()
	if err := <-p.result; err != nil {
		t.Error(err)
	}
	p.until("removal", func(_ *model.Liveness, err error) bool { return errors.Is(err, etcdstore.ErrNotFound) })
}

func TestKeyComesBackAfterEtcdLostIt(t *testing.T) {
	s := etcdtest.Start(t)
	s.SetUp(t)
	p := start(t, s)
	p.untilReady(false)
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	s.SetUp(t)
	p.untilReady(false)
}

func TestKeyComesBackAfterARestart(t *testing.T) {
	s := etcdtest.Start(t)
	s.SetUp(t)
	s.Stop()
	p := start(t, s)
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	p.untilReady(false)
	s.Stop()
	p.ready.Store(true)
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	p.untilReady(true)
}

func TestBadNameEndsAtOnce(t *testing.T) {
	s := etcdtest.Shared(t)
	client, err := etcdstore.New(etcdstore.Config{Endpoints: s.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if err := liveness.Run(t.Context(), client, liveness.Program{Node: "a b", Name: "felix", Ready: func() bool { return true }}); err == nil {
		t.Error("a node name with a space was accepted")
	}
}

// A store that is another cluster's may have a node of the same name: nothing is written
// there, and nothing stays there.
func TestNothingIsWrittenToAStoreOfOthers(t *testing.T) {
	s := etcdtest.Shared(t)
	s.SetUp(t)
	p := start(t, s)
	p.ours.Store(false)
	p.until("removal", func(_ *model.Liveness, err error) bool { return errors.Is(err, etcdstore.ErrNotFound) })
	p.ready.Store(true)
	p.ours.Store(true)
	p.untilReady(true)
}
