package startup

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
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

// start starts a host up, with what it prints.
func start(t *testing.T, endpoints []string, stateDir string, running func() ([]string, error)) (string, error) {
	t.Helper()
	var out bytes.Buffer
	dir := t.TempDir()
	err := Run(t.Context(), Config{
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

	out, err := start(t, server.Endpoints(), state, busy)
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
	if _, err := os.Stat(filepath.Join(state, "node.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it remembers a cluster: %v", err)
	}
	// A host without containers founds one, and then the other takes it for its own.
	for _, running := range []func() ([]string, error){idle, busy} {
		if out, err := start(t, server.Endpoints(), state, running); err != nil || strings.Contains(out, "WARNING") || keys() == 0 {
			t.Errorf("%d keys, error %v:\n%s", keys(), err, out)
		}
		if err := os.Remove(filepath.Join(state, "node.json")); err != nil {
			t.Error(err)
		}
	}
	no := errors.New("no")
	if _, err := start(t, server.Endpoints(), state, func() ([]string, error) { return nil, no }); !errors.Is(err, no) {
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
