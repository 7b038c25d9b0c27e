package system

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"calico.internal/test/internal/lab"
)

// formerCommit is the last one before calico-node: process 1 was a script, and a host remembered
// nothing.
const formerCommit = "7536a23"

// upgradedFromFormer: hosts that run a former build are upgraded one by one, and traffic between
// them notices nothing, from the first that is new to the last that is old. To build the former
// takes minutes, so that this is one of the long tests.
func upgradedFromFormer(t *testing.T, l *lab.Lab) {
	if os.Getenv("CALICO_TEST_LONG") == "" {
		t.Skip("builds a former version: CALICO_TEST_LONG is not set (make test-all sets it)")
	}
	image, calicoctl := buildFormer(t, l)
	for _, h := range l.Hosts {
		if out, err := exec.CommandContext(t.Context(), "sh", "-c", "docker save "+image+" | docker exec -i "+h.Container+" docker load -q").CombinedOutput(); err != nil {
			t.Fatalf("load %s: %v: %s", image, err, out)
		}
		if out, err := exec.CommandContext(t.Context(), "docker", "cp", calicoctl, h.Container+":/root/calicoctl-former").CombinedOutput(); err != nil {
			t.Fatalf("copy calicoctl: %v: %s", err, out)
		}
		on(t, h, "/root/calicoctl-former node run --ip=%s --name %s --node-image=%s", h.IP, h.Node, image)
	}
	for _, h := range l.Hosts {
		eventually(t, 30*time.Second, h.Node+" serves", func() error {
			out, err := h.On(t.Context(), "/root/calicoctl-former node status")
			if err == nil && strings.Count(out, "Established") != len(l.Hosts)-1 {
				err = errors.New(out)
			}
			return err
		})
	}
	watched(t, l.Hosts[0], "workload-A", address(t, l.Hosts[1], "workload-C"), func() {
		watched(t, l.Hosts[1], "workload-C", address(t, l.Hosts[0], "workload-A"), func() {
			for _, h := range l.Hosts {
				on(t, h, "calicoctl node upgrade --node-image=calico/node:%s", l.Version)
				nodeServes(t, l, h)
			}
		})
	})
	// The former did not pass on the boot id of the lab's hosts; the kernel's seems another start.
	for _, h := range l.Hosts {
		on(t, h, "calicoctl node stop && calicoctl node run --ip=%s --name %s", h.IP, h.Node)
		nodeServes(t, l, h)
	}
}

// buildFormer builds the former image, and its calicoctl, from the repository's history.
func buildFormer(t *testing.T, l *lab.Lab) (image, calicoctl string) {
	t.Helper()
	if err := exec.CommandContext(t.Context(), "git", "-C", l.Root, "cat-file", "-e", formerCommit+"^{commit}").Run(); err != nil {
		t.Skipf("this clone's history does not reach back to %s: %v", formerCommit, err)
	}
	const version = "former"
	dir := t.TempDir()
	script := strings.Join([]string{
		"git -C " + l.Root + " archive " + formerCommit + " | tar -x -C " + dir, "cd " + dir,
		"make build VERSION=" + version, "images/build.sh --version " + version + " base node",
		// The build gives them these names, too.
		"docker tag calico/base:" + l.Version + " calico/base:latest", "docker tag calico/node:" + l.Version + " calico/node:latest",
	}, " && ")
	if out, err := exec.CommandContext(t.Context(), "bash", "-o", "pipefail", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", formerCommit, err, out)
	}
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", "calico/node:"+version, "calico/base:"+version).Run() })
	return "calico/node:" + version, filepath.Join(dir, "bin/calicoctl")
}
