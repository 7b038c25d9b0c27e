package launch

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
)

// testImage is an image with nothing but a static busybox, which prints what the start-up of
// a node prints.
const testImage = "calicoctl-launch-test:1"

// needEngine makes the test's image with the engine of this machine. Without a word that it may
// be used (make test-system gives it) the test is skipped.
func needEngine(t *testing.T) {
	t.Helper()
	if os.Getenv("CALICO_TEST_ENGINE") == "" {
		t.Skip("it uses this machine's Docker engine: CALICO_TEST_ENGINE=1 lets it")
	}
	if err := checkEngine(t.Context()); err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal("busybox is not installed (apt-get install busybox-static)")
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, err := range []error{
		w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(busybox)), Typeflag: tar.TypeReg}),
		second(w.Write(busybox)),
		w.WriteHeader(&tar.Header{Name: "bin/sh", Linkname: "busybox", Typeflag: tar.TypeSymlink}),
		w.WriteHeader(&tar.Header{Name: "bin/calico-node", Linkname: "busybox", Typeflag: tar.TypeSymlink}),
		w.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "docker", "import", "--change", "LABEL "+ImageLabel+"="+nodeImage, "--change", "ENV FROM_IMAGE=1", "--change", `CMD ["/bin/sh"]`, "-", testImage)
	cmd.Stdin = &archive
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", testImage).Run() }) //nolint:noctx // the test's context has ended
	if err := exec.CommandContext(t.Context(), "docker", "run", "--rm", testImage, "sh", "-c", "true").Run(); err != nil {
		t.Fatalf("the busybox of this machine does not run alone (apt-get install busybox-static): %v", err)
	}
}

func second(_ int, err error) error { return err }

// The programs of test containers.
const (
	fine    = "trap 'exit 0' TERM; echo '" + started + "'; busybox sleep 1000 & wait"
	refuses = "echo 'not here'; echo '" + refused + "'; exit 1"
	hangs   = "trap 'exit 0' TERM; echo 'still here'; busybox sleep 1000 & wait"
	dies    = "echo '" + started + "'; exit 3"
)

// rig is a container that is replaced.
type rig struct {
	t    *testing.T
	swap swap
	out  bytes.Buffer
}

func newRig(t *testing.T, limit time.Duration, programs ...string) *rig {
	t.Helper()
	r := &rig{t: t}
	name := fmt.Sprintf("launch-test-%d", os.Getpid())
	l := launcher{out: &r.out, programs: programs, logDir: t.TempDir(), limit: limit}
	r.swap = swap{names: names{name, name + "-next", name + "-previous"}, out: &r.out, policy: "always", ready: l.begin}
	r.swap.serves = func(context.Context, *container) error { return nil }
	t.Cleanup(r.clear)
	r.clear()
	return r
}

func (r *rig) clear() {
	for _, name := range []string{r.swap.current, r.swap.next, r.swap.previous} {
		_ = remove(context.WithoutCancel(r.t.Context()), name)
	}
}

// to replaces the container by one that does this.
func (r *rig) to(script string, flags ...string) error {
	r.swap.create = func(ctx context.Context, name string) error {
		args := append([]string{"create", "--network=none", "--name=" + name}, flags...)
		_, err := docker(ctx, append(args, testImage, "sh", "-c", script)...)
		return err
	}
	return r.swap.run(r.t.Context())
}

// begin starts the first container.
func (r *rig) begin() *container {
	r.t.Helper()
	if err := r.to(fine); err != nil {
		r.t.Fatal(err)
	}
	return r.current()
}

func (r *rig) current() *container {
	r.t.Helper()
	c, err := inspect(r.t.Context(), r.swap.current)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// alone checks that nothing but the container, if there is one, is left.
func (r *rig) alone() {
	r.t.Helper()
	for _, name := range []string{r.swap.next, r.swap.previous} {
		if c, err := inspect(r.t.Context(), name); err != nil || c != nil {
			r.t.Errorf("container %s is left (%v)", name, err)
		}
	}
}

func TestANewContainerIsReplaced(t *testing.T) {
	needEngine(t)
	for _, driver := range []string{"json-file", "none", "local"} {
		t.Run("log driver "+driver, func(t *testing.T) {
			r := newRig(t, 20*time.Second)
			first := r.begin()
			if err := r.to(fine, "--log-driver="+driver); err != nil {
				t.Fatalf("%v\n%s", err, &r.out)
			}
			now := r.current()
			if now.ID == first.ID || !now.State.Running || now.HostConfig.RestartPolicy.Name != "always" {
				t.Errorf("it is %+v", now)
			}
			if !strings.Contains(r.out.String(), started) {
				t.Errorf("the start-up is not shown:\n%s", &r.out)
			}
			r.alone()
		})
	}
}

func TestAFailedReplacementLeavesTheOldContainer(t *testing.T) {
	needEngine(t)
	for _, tc := range []struct {
		name, script, want string
		flags, programs    []string
	}{
		{"the start-up is refused", refuses, "could not start for the reason above", nil, nil},
		{"it never ends", hangs, "the start-up has not ended within 2s; its last line is above: still here", nil, nil},
		{"it ends afterwards", dies, "has terminated after its start-up", nil, []string{"never"}},
		{"a program does not become ready", fine, "not ready after 2 s: never.\nnever has no log", nil, []string{"never"}},
		{"the engine does not make it", fine, "memory limit", []string{"--memory=1m"}, nil},
		{"the engine does not start it", fine, "no-such-runtime", []string{"--entrypoint=/no-such-runtime"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, 20*time.Second)
			first := r.begin()
			l := launcher{out: &r.out, programs: tc.programs, logDir: t.TempDir(), limit: 2 * time.Second}
			r.swap.ready = l.begin
			err := r.to(tc.script, tc.flags...)
			if err == nil || !strings.Contains(err.Error()+r.out.String(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			now := r.current()
			if now == nil || now.ID != first.ID || !now.State.Running || now.HostConfig.RestartPolicy.Name != "always" {
				t.Errorf("the old container is %+v\n%v", now, err)
			}
			r.alone()
		})
	}
}

func TestAFailedFirstContainerLeavesNothing(t *testing.T) {
	needEngine(t)
	r := newRig(t, 2*time.Second)
	err := r.to(refuses)
	if err == nil || !strings.Contains(err.Error(), "The new container was removed") {
		t.Errorf("got %v", err)
	}
	if c := r.current(); c != nil {
		t.Errorf("it is left: %+v", c)
	}
	r.alone()
}

func TestAStoppedContainerComesBackStopped(t *testing.T) {
	needEngine(t)
	r := newRig(t, 20*time.Second)
	first := r.begin()
	if _, err := docker(t.Context(), "stop", r.swap.current); err != nil {
		t.Fatal(err)
	}
	if err := r.to(refuses); err == nil || !strings.Contains(err.Error(), "as it was: stopped") {
		t.Errorf("got %v", err)
	}
	if now := r.current(); now == nil || now.ID != first.ID || now.State.Running {
		t.Errorf("it is %+v", now)
	}
}

func TestAnInterruptedReplacementPutsTheOldContainerBack(t *testing.T) {
	needEngine(t)
	r := newRig(t, 20*time.Second)
	first := r.begin()
	begin := r.swap.ready
	r.swap.ready = func(ctx context.Context, name string) error {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(500*time.Millisecond, cancel) // a Ctrl-C in the middle
		return begin(ctx, name)
	}
	if err := r.to(hangs); err == nil || !strings.Contains(err.Error(), "the old one runs again") {
		t.Errorf("got %v", err)
	}
	if now := r.current(); now == nil || now.ID != first.ID || !now.State.Running {
		t.Errorf("it is %+v", now)
	}
	r.alone()
}

// TestAKilledFirstStartIsMended leaves what a first start leaves that is killed when the container
// runs: one that the engine would not start again.
func TestAKilledFirstStartIsMended(t *testing.T) {
	needEngine(t)
	r := newRig(t, 20*time.Second)
	if _, err := docker(t.Context(), "run", "-d", "--network=none", "--name="+r.swap.current, testImage, "sh", "-c", fine); err != nil {
		t.Fatal(err)
	}
	if err := r.swap.mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := r.current(); now == nil || !now.State.Running || now.HostConfig.RestartPolicy.Name != "always" || !strings.Contains(r.out.String(), "its first start was interrupted") {
		t.Errorf("it is %+v\n%s", now, &r.out)
	}
}

// TestAKilledReplacementIsMended leaves what a command that is killed leaves at each point.
func TestAKilledReplacementIsMended(t *testing.T) {
	needEngine(t)
	for _, tc := range []struct {
		name string
		// killed does the first steps of a replacement.
		killed func(r *rig, docker func(...string))
		serves bool
		// stays says that the new container is kept.
		stays bool
		says  string
	}{
		{"before the old one is stopped", func(r *rig, docker func(...string)) {
			docker("create", "--name="+r.swap.next, testImage, "sh", "-c", fine)
		}, false, false, ""},
		{"when it has been renamed", func(r *rig, docker func(...string)) {
			docker("create", "--name="+r.swap.next, testImage, "sh", "-c", fine)
			docker("stop", r.swap.current)
			docker("rename", r.swap.current, r.swap.previous)
		}, false, false, "the old one is put back"},
		{"when the new one starts", func(r *rig, docker func(...string)) {
			docker("stop", r.swap.current)
			docker("rename", r.swap.current, r.swap.previous)
			docker("run", "-d", "--name="+r.swap.current, testImage, "sh", "-c", fine)
		}, false, false, "the old one is put back"},
		{"when the new one is ready", func(r *rig, docker func(...string)) {
			docker("stop", r.swap.current)
			docker("rename", r.swap.current, r.swap.previous)
			docker("run", "-d", "--name="+r.swap.current, testImage, "sh", "-c", fine)
		}, true, true, "its new container is ready"},
		{"and the engine has been started anew", func(r *rig, docker func(...string)) {
			docker("rename", r.swap.current, r.swap.previous)
			docker("create", "--name="+r.swap.current, testImage, "sh", "-c", fine)
		}, true, false, "the old one is put back"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, 20*time.Second)
			first := r.begin()
			r.out.Reset()
			tc.killed(r, func(args ...string) {
				t.Helper()
				if _, err := docker(t.Context(), args...); err != nil {
					t.Fatal(err)
				}
			})
			r.swap.serves = func(context.Context, *container) error {
				if tc.serves {
					return nil
				}
				return errors.New("not ready")
			}
			if err := r.swap.mend(t.Context()); err != nil {
				t.Fatal(err)
			}
			now := r.current()
			if now == nil || (now.ID != first.ID) != tc.stays || !now.State.Running || now.HostConfig.RestartPolicy.Name != "always" {
				t.Errorf("it is %+v", now)
			}
			if !strings.Contains(r.out.String(), tc.says) || tc.says == "" && r.out.Len() > 0 {
				t.Errorf("it says %q", &r.out)
			}
			r.alone()
		})
	}
}

func TestImagesOfOthersAreRefused(t *testing.T) {
	needEngine(t)
	var out bytes.Buffer
	if _, err := findImage(t.Context(), &out, testImage); err != nil {
		t.Error(err)
	}
	const foreign = "calicoctl-launch-test:foreign"
	cmd := exec.CommandContext(t.Context(), "docker", "build", "-q", "-t", foreign, "-")
	cmd.Stdin = strings.NewReader("FROM " + testImage + "\nLABEL " + ImageLabel + "=felix\n")
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	defer exec.Command("docker", "rmi", foreign).Run() //nolint:errcheck,noctx // the test is over
	if _, err := findImage(t.Context(), &out, foreign); err == nil || !strings.Contains(err.Error(), "is not ours") || !strings.Contains(err.Error(), "make images") {
		t.Errorf("got %v", err)
	}
	if _, err := findImage(t.Context(), &out, "127.0.0.1:1/no/such:image"); err == nil ||
		!strings.Contains(err.Error(), "is not on this host, and cannot be pulled") || !strings.Contains(err.Error(), "make images") {
		t.Errorf("got %v", err)
	}
}

// TestARenewedCertificateIsSeen replaces a certificate as renewals do, by a rename.
func TestARenewedCertificateIsSeen(t *testing.T) {
	needEngine(t)
	r := newRig(t, 20*time.Second)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(ca+".new", []byte(text), 0o600), os.Rename(ca+".new", ca)); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	c, err := FindCertificates(etcdstore.Config{CACertFile: ca})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.to(fine, "-v", c.volumes()[0]); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"old", "new"} {
		write(want)
		got, err := docker(t.Context(), "exec", r.swap.current, "busybox", "cat", c.variables()[0].value)
		if err != nil || got != want {
			t.Errorf("the container reads %q (%v), and the file holds %q", got, err, want)
		}
	}
}
