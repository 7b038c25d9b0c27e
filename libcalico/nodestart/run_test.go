package nodestart

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

func TestMain(m *testing.M) {
	os.Exit(nettest.Main(func() int { return etcdtest.Main(m) }))
}

// startHost starts a host up, with what it prints.
func startHost(t *testing.T, endpoints []string, stateDir string, running func() ([]string, error)) (string, error) {
	t.Helper()
	var out bytes.Buffer
	dir := t.TempDir()
	_, err := Run(t.Context(), Config{
		Getenv: env("NODENAME=n1", "CALICO_NETWORKING_BACKEND=none"), Out: &out, Version: "v9",
		RunDir: dir, EnvFile: filepath.Join(dir, "startup.env"), StateDir: stateDir, Running: running,
		Store: etcdstore.Config{Endpoints: endpoints},
	})
	return out.String(), err
}

// TestAHostWithContainersFoundsNoCluster has hosts without a record and an empty store.
func TestAHostWithContainersFoundsNoCluster(t *testing.T) {
	server, state := etcdtest.Shared(t), t.TempDir()
	server.Wipe(t)
	client, err := etcdstore.New(etcdstore.Config{Endpoints: server.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // nothing is buffered
	keys := func() int64 {
		resp, err := client.Raw().Get(t.Context(), "/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		return resp.Count
	}
	busy := func() ([]string, error) { return []string{"cali0", "cali1", "cali2", "block 10.0.0.0/26"}, nil }
	idle := func() ([]string, error) { return nil, nil }

	out, err := startHost(t, server.Endpoints(), state, busy)
	if err != nil || keys() > 0 {
		t.Errorf("it wrote %d keys, error %v:\n%s", keys(), err, out)
	}
	for _, want := range []string{
		"holds no data of a cluster", "calicoctl datastore unlock",
		"this host does not know its cluster, but has been part of one, since it has containers (cali0, cali1, cali2 and 1 more)", "Using node name: n1",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if r, _, err := hostrecord.Read(state); err != nil || r.Member() {
		t.Errorf("it remembers a cluster: %+v, %v", r, err)
	}
	// A host without containers founds one, and then the other takes it for its own.
	for _, running := range []func() ([]string, error){idle, busy} {
		if out, err := startHost(t, server.Endpoints(), state, running); err != nil || strings.Contains(out, "WARNING") || keys() == 0 {
			t.Errorf("%d keys, error %v:\n%s", keys(), err, out)
		}
		if err := hostrecord.Update(state, func(r *hostrecord.Record) { *r = hostrecord.Record{ID: r.ID} }); err != nil {
			t.Error(err)
		}
	}
	no := errors.New("no")
	if _, err := startHost(t, server.Endpoints(), state, func() ([]string, error) { return nil, no }); !errors.Is(err, no) {
		t.Errorf("error %v, want %v", err, no)
	}
}

// TestInContainer has a container's layer, and a directory of the host mounted into it.
func TestInContainer(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts are root's")
	}
	base := t.TempDir()
	mount := func(source, target, kind, data string) {
		t.Helper()
		if err := syscall.Mount(source, target, kind, 0, data); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(target, syscall.MNT_DETACH) })
	}
	mount("tmpfs", base, "tmpfs", "")
	at := func(name string) string { return filepath.Join(base, name) }
	for _, name := range []string{"lower", "upper", "work", "root"} {
		if err := os.Mkdir(at(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	mount("overlay", at("root"), "overlay", "lowerdir="+at("lower")+",upperdir="+at("upper")+",workdir="+at("work"))
	state := at("root/state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if !inContainer(state, at("root")) {
		t.Error("the container's own layer is not found out")
	}
	mount("tmpfs", state, "tmpfs", "")
	if inContainer(state, at("root")) {
		t.Error("a mounted directory passes for the container's own")
	}
	if inContainer(at("lower"), base) {
		t.Error("a host's directory passes for a container's")
	}
}

// TestALockThatComesBetweenStopsAStartUp locks the store after the start-up has planned.
func TestALockThatComesBetweenStopsAStartUp(t *testing.T) {
	server := etcdtest.Shared(t)
	server.Wipe(t)
	server.SetUp(t)
	client, err := etcdstore.New(etcdstore.Config{Endpoints: server.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // nothing is buffered
	c, err := readCluster(t.Context(), client, "n1")
	if err != nil {
		t.Fatal(err)
	}
	p, err := planOf(t, c, "CALICO_NETWORKING_BACKEND=none")
	if err != nil {
		t.Fatal(err)
	}
	no := model.Ready(false)
	for k, r := range map[model.Key]model.Resource{model.ReadyKey{}: &no, model.LockKey{}: &model.Lock{By: "ann@host1"}} {
		if _, _, err := client.Apply(t.Context(), k, r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := commit(t.Context(), client, c, p); !errors.Is(err, etcdstore.ErrConflict) {
		t.Errorf("error %v, want %v", err, etcdstore.ErrConflict)
	}
	none := func() ([]string, error) { return nil, nil }
	if _, err := startHost(t, server.Endpoints(), t.TempDir(), none); !errors.Is(err, etcdstore.ErrLocked) || !strings.Contains(err.Error(), "by ann@host1") {
		t.Errorf("error %v, want %v and by whom", err, etcdstore.ErrLocked)
	}
	if _, err := client.Get(t.Context(), model.NodeKey{Name: "n1"}); !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("the node is stored: %v", err)
	}
}
