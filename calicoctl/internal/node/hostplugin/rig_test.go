package hostplugin

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bootScript makes a host of this machine's own files, which change nothing of them, and starts
// systemd there: $1 is its folder, $2 one that it sees as /mnt. What would change the kernel
// that it shares is masked.
const bootScript = `set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/root"
cd "$1/root"
mount --bind "$2" mnt
mount -t proc proc proc
mount -t sysfs sysfs sys
if [ -d "$3/systemd" ]; then
	mount -t tmpfs tmpfs sys/fs/cgroup
	mkdir sys/fs/cgroup/systemd
	mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
else
	mount -t cgroup2 cgroup2 sys/fs/cgroup
fi
for dir in run tmp dev; do mount -t tmpfs tmpfs "$dir"; done
mkdir dev/shm dev/pts
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
	set -- $node; mknod -m 666 "dev/$1" c "$2" "$3"
done
rm -rf etc/systemd/system
mkdir -p etc/systemd/system old
ln -s /lib/systemd/system/basic.target etc/systemd/system/default.target
for unit in systemd-sysctl.service systemd-modules-load.service systemd-remount-fs.service systemd-udevd.service \
	systemd-udev-trigger.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount dev-hugepages.mount \
	dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount tmp.mount; do
	ln -s /dev/null "etc/systemd/system/$unit"
done
pivot_root . old
umount -l old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=null --show-status=0
`

// startHost starts a host whose process 1 is systemd, and that sees share as /mnt. It returns
// the process id of systemd.
func startHost(t *testing.T, share string) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it starts systemd in namespaces of its own, for which it must be root")
	}
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		t.Skip("systemd is not installed: no service of a host is tried")
	}
	const tree = "/sys/fs/cgroup"
	group := filepath.Join(tree, fmt.Sprintf("hostplugin-test-%d", os.Getpid()))
	if _, err := os.Stat(tree + "/systemd"); err == nil {
		group = filepath.Join(tree, "systemd", filepath.Base(group))
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("systemd needs a control group of its own: %v", err)
	}
	t.Cleanup(func() {
		eventually(t, "the control groups are gone", func() bool { return removeGroups(group) == nil })
	})
	out, err := os.Create(filepath.Join(t.TempDir(), "boot"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if text, err := os.ReadFile(out.Name()); t.Failed() {
			t.Logf("booting says: %s (%v)", text, err)
		}
		_ = out.Close()
	})
	cmd := exec.Command("sh", "-c", `echo $$ >"$0/cgroup.procs"; exec unshare --cgroup --pid --mount --net --uts --ipc --fork --kill-child sh -c "$1" sh "$2" "$3" "$4"`,
		group, bootScript, t.TempDir(), share, tree)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	pid := 0
	eventually(t, "systemd runs", func() bool {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if _, err := fmt.Sscan(string(text), &pid); err != nil {
			return false
		}
		state, _ := inHost(t, pid, "systemctl", "is-system-running").Output()
		return strings.HasPrefix(string(state), "running") || strings.HasPrefix(string(state), "degraded")
	})
	return pid
}

func removeGroups(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeGroups(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(err, syscall.Rmdir(dir))
}

// inHost is a command in the host of a systemd.
func inHost(t *testing.T, pid int, args ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), "nsenter", append([]string{"-t", fmt.Sprint(pid), "-m", "-p", "-n", "-u", "-i", "-C"}, args...)...)
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(30 * time.Second); !done(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("not after 30 s: " + what)
		}
	}
}

// buildPlugin builds the plugin's program into a folder.
func buildPlugin(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "libnetwork-plugin")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./cmd/libnetwork-plugin")
	cmd.Dir = "../../../../libnetwork-plugin"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close() //nolint:errcheck // only read
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
}
