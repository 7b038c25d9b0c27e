// Package etcdtest runs real etcd servers for tests.
//
// A package that needs etcd starts one for all its tests,
//
//	func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }
//
// and gets it, empty, by [Shared]. A test that stops or pauses its server takes one of
// its own by [Start].
package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"calico.internal/libcalico/model"
)

// shared is the server of the test binary.
var shared *Server

// Main runs the tests of a package with a server for [Shared] and returns the exit
// code.
func Main(m *testing.M) int {
	s, err := New()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer s.Close()
	shared = s
	return m.Run()
}

// Shared returns the package's server without any keys. Tests that use it must not run
// in parallel, nor stop it.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	if shared == nil {
		tb.Fatal("etcdtest: TestMain must call etcdtest.Main")
	}
	shared.Wipe(tb)
	return shared
}

// Start runs a server for one test.
func Start(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	s, err := New(opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// Client connects to the server without the code under test. Its certificates and
// users are not used.
func (s *Server) Client(tb testing.TB) *clientv3.Client {
	tb.Helper()
	return connect(tb, s.Endpoint())
}

func connect(tb testing.TB, endpoint string) *clientv3.Client {
	tb.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Wipe deletes all keys.
func (s *Server) Wipe(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := s.Client(tb).Delete(ctx, "", clientv3.WithFromKey()); err != nil {
		tb.Fatal("etcdtest: wipe: ", err)
	}
}

// GUID is the cluster's id in a store that [SetUp] has set up.
const GUID = "0123456789abcdef0123456789abcdef"

// SetUp is [SetUp] of the server's store.
func (s *Server) SetUp(tb testing.TB) {
	tb.Helper()
	SetUp(tb, s.Client(tb))
}

// SetUp makes a store that of a cluster, as the start-up of its first node does: programs
// follow no other.
func SetUp(tb testing.TB, client *clientv3.Client) {
	tb.Helper()
	SetUpAs(tb, client, GUID)
}

// SetUpAs is [SetUp] with the identity of another cluster.
func SetUpAs(tb testing.TB, client *clientv3.Client, guid string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := client.Txn(ctx).Then(
		clientv3.OpPut(model.Paths(model.ReadyKey{})[0], "true"),
		clientv3.OpPut(model.Paths(model.FelixConfigKey{Name: model.ClusterGUID})[0], guid),
	).Commit()
	if err != nil {
		tb.Fatal("etcdtest: set up: ", err)
	}
}

// Env gives the environment variables by which programs find the server.
func (s *Server) Env() []string { return []string{"ETCD_ENDPOINTS=" + s.Endpoint()} }

// Spend uses up revisions of the server at an endpoint, outside of Calico's keys.
func Spend(tb testing.TB, endpoint string, revisions int) {
	tb.Helper()
	client := connect(tb, endpoint)
	for range revisions {
		if _, err := client.Put(tb.Context(), "/spent", ""); err != nil {
			tb.Fatal("etcdtest: spend: ", err)
		}
	}
}

// SmallQuota makes a server that a test can [Server.Fill].
func SmallQuota() Option { return Args("--quota-backend-bytes=2097152") }

// Fill writes, outside of Calico's keys, until the server has no room for more.
func (s *Server) Fill(tb testing.TB) {
	tb.Helper()
	client, value := s.Client(tb), strings.Repeat("x", 200_000)
	for range 1000 {
		_, err := client.Put(tb.Context(), "/fill", value)
		if errors.Is(err, rpctypes.ErrNoSpace) {
			return
		}
		if err != nil {
			tb.Fatal("etcdtest: fill: ", err)
		}
	}
	tb.Fatal("etcdtest: the server does not get full")
}

// MakeRoom does what an operator does after [Server.Fill].
func (s *Server) MakeRoom(tb testing.TB) {
	tb.Helper()
	client, ctx := s.Client(tb), tb.Context()
	last, err := client.Get(ctx, "/fill", clientv3.WithCountOnly())
	if err == nil {
		_, err = client.Compact(ctx, last.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err == nil {
		_, err = client.Defragment(ctx, s.Endpoint())
	}
	if err == nil {
		_, err = client.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	}
	if err != nil {
		tb.Fatal("etcdtest: make room: ", err)
	}
}
