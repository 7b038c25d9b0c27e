package etcdtest_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"calico.internal/libcalico/etcdtest"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

// value reads a key, or says why it cannot.
func value(t *testing.T, s *etcdtest.Server, key string, limit time.Duration) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	resp, err := s.Client(t).Get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 {
		return "", err
	}
	return string(resp.Kvs[0].Value), nil
}

func put(t *testing.T, s *etcdtest.Server, key, value string) {
	t.Helper()
	if _, err := s.Client(t).Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, s *etcdtest.Server, key, expected string) {
	t.Helper()
	if got, err := value(t, s, key, 20*time.Second); err != nil || got != expected {
		t.Errorf("%s is %q, %v; want %q", key, got, err, expected)
	}
}

func TestSharedIsEmpty(t *testing.T) {
	for range 2 {
		s := etcdtest.Shared(t)
		want(t, s, "a", "")
		put(t, s, "a", "1")
	}
}

func TestStopRestartPause(t *testing.T) {
	s := etcdtest.Start(t)
	put(t, s, "a", "1")
	s.Stop()
	if _, err := value(t, s, "a", time.Second); err == nil {
		t.Error("a stopped server answers")
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	want(t, s, "a", "1")
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	if _, err := value(t, s, "a", time.Second); err == nil {
		t.Error("a paused server answers")
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	want(t, s, "a", "1")
}

func TestSaveRestoreReset(t *testing.T) {
	s := etcdtest.Start(t)
	put(t, s, "a", "saved")
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	put(t, s, "a", "later")
	if err := s.Restore(); err != nil {
		t.Fatal(err)
	}
	want(t, s, "a", "saved")
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	want(t, s, "a", "")
}

func TestSnapshotRewind(t *testing.T) {
	s := etcdtest.Start(t)
	put(t, s, "a", "saved")
	cluster := clusterOf(t, s)
	if err := s.Snapshot(); err != nil {
		t.Fatal(err)
	}
	put(t, s, "a", "later")
	if err := errors.Join(s.Rewind(), s.Restart()); err != nil {
		t.Fatal(err)
	}
	want(t, s, "a", "saved")
	if now := clusterOf(t, s); now != cluster {
		t.Errorf("the cluster was %x and is %x", cluster, now)
	}
}

func clusterOf(t *testing.T, s *etcdtest.Server) uint64 {
	t.Helper()
	resp, err := s.Client(t).Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.ClusterId
}

func TestEnableV2(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.EnableV2())
	resp, err := http.Get(s.Endpoint() + "/v2/keys/")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the v2 API answers %s", resp.Status)
	}
}

func TestCloseRemovesEverything(t *testing.T) {
	s, err := etcdtest.New()
	if err != nil {
		t.Fatal(err)
	}
	pid := s.PID()
	s.Close()
	if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); !os.IsNotExist(err) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}

func TestBadArgumentsAreReported(t *testing.T) {
	s, err := etcdtest.New(etcdtest.Args("--no-such-flag"))
	if err == nil {
		s.Close()
		t.Error("etcd started with an unknown flag")
	}
}

func TestMissingEtcdIsNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := etcdtest.New()
	if err == nil || err.Error() != "etcdtest: no etcd on this machine; apt-get install etcd-server" {
		t.Errorf("got %v", err)
	}
}
