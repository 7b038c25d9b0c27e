package launch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"calico.internal/calicoctl/internal/node/hostplugin"
	"calico.internal/libcalico/etcdstore"
)

func hostOptions() Options {
	return Options{
		Name: "node00", IP: "10.0.0.1", AS: "64512", Backend: "gobgp", IfPrefix: "cali", Scope: "local", Plugin: PluginOnHost,
		Env: []string{"CALICO_LIBNETWORK_VETH_MTU=1400", "HTTPS_PROXY=http://p"}, Felix: []string{"LogSeverityScreen=debug"}, Pool4: Pool{CIDR: "10.64.0.0/12"},
	}
}

func TestVariablesOfTheService(t *testing.T) {
	dir := t.TempDir()
	etcd := etcdstore.Config{Endpoints: []string{"https://e:2379"}, CACertFile: filepath.Join(dir, "ca.pem"), Username: "u", Password: "secret"}
	o := hostOptions()
	var err error
	if o.Certificates, err = FindCertificates(etcd); err != nil {
		t.Fatal(err)
	}
	got := serviceVariables(o, etcd)
	slices.Sort(got)
	want := []string{
		"CALICO_LIBNETWORK_IFPREFIX=cali", "CALICO_LIBNETWORK_SCOPE=local", "CALICO_LIBNETWORK_VETH_MTU=1400",
		"ETCD_CA_CERT_FILE=" + filepath.Join(dir, "ca.pem"), "ETCD_ENDPOINTS=https://e:2379", "ETCD_PASSWORD=secret", "ETCD_USERNAME=u",
		"HTTPS_PROXY=http://p", "NODENAME=node00",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if line := Shell(Command(o, etcd)); !strings.Contains(line, "CALICO_LIBNETWORK_ENABLED=host") || strings.Contains(line, "secret") {
		t.Errorf("the container's command is %s", line)
	}
}

func TestWhatExcludesThePluginOnTheHost(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"":                            func(*Options) {},
		"--plugin=kernel":             func(o *Options) { o.Plugin = "kernel" },
		"--disable-docker-networking": func(o *Options) { o.DisableDockerNetworking = true },
		"without --init-system":       func(o *Options) { o.InitSystem = true },
	} {
		o := hostOptions()
		change(&o)
		if err := o.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

// TestAServiceOfOthersStays has --env say that a service serves, which is not calicoctl's.
func TestAServiceOfOthersStays(t *testing.T) {
	o := hostOptions()
	o.Plugin = PluginInContainer
	if m := pluginOf(io.Discard, o, etcdstore.Config{}); m.stays {
		t.Error("a plugin in the container leaves a service as it is")
	}
	o.Env = []string{"CALICO_LIBNETWORK_ENABLED=host"}
	if m := pluginOf(io.Discard, o, etcdstore.Config{}); !m.stays || m.image != "" {
		t.Errorf("it is %+v", m)
	}
}

// TestAnImageWithoutAPlugin changes neither the host nor its container.
func TestAnImageWithoutAPlugin(t *testing.T) {
	needEngine(t)
	r := newRig(t, 0)
	r.swap.ready = launcher{out: &r.out, limit: serveLimit, logDir: t.TempDir()}.begin
	first := r.begin()
	root := t.TempDir()
	r.swap.plugin = pluginMove{out: &bytes.Buffer{}, image: testImage, service: hostplugin.Service{Root: root}}
	if err := r.to(fine); err == nil || !strings.Contains(err.Error(), "the plugin of "+testImage) {
		t.Errorf("got %v", err)
	}
	if now := r.current(); now == nil || now.ID != first.ID || !now.State.Running {
		t.Errorf("the old container is %+v", now)
	}
	r.alone()
	if c, err := inspect(t.Context(), checkName); err != nil || c != nil {
		t.Errorf("%s is left (%v)", checkName, err)
	}
}

// pluginImage is the test's image with the plugin's program in it.
func pluginImage(t *testing.T) string {
	t.Helper()
	const image = testImage + "-plugin"
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "libnetwork-plugin"), "./cmd/libnetwork-plugin")
	build.Dir = "../../../../libnetwork-plugin"
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+testImage+"\nCOPY libnetwork-plugin /usr/local/bin/\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	made := exec.CommandContext(t.Context(), "docker", "build", "-q", "-t", image, dir)
	made.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	if out, err := made.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", image).Run() }) //nolint:noctx // the test's context has ended
	return image
}

// TestTheOrderOfAMove has a stand-in for systemctl note what it is asked for, and the end of the
// old container.
func TestTheOrderOfAMove(t *testing.T) {
	needEngine(t)
	image := pluginImage(t)
	bin, root := t.TempDir(), t.TempDir()
	notes := filepath.Join(bin, "notes")
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte("#!/bin/sh\necho \"$@\" >>"+notes+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	r := newRig(t, serveLimit)
	r.begin()
	begin := r.swap.ready
	r.swap.ready = func(ctx context.Context, name string) error {
		if err := exec.CommandContext(ctx, "systemctl", "NEW CONTAINER").Run(); err != nil {
			return err
		}
		return begin(ctx, name)
	}
	move := func(image, script string) (string, error) {
		if err := os.Remove(notes); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		r.swap.plugin = pluginMove{out: io.Discard, image: image, variables: []string{"A=1"}, service: hostplugin.Service{Root: root}, back: new([]func(context.Context) error)}
		err := r.to(script)
		said, _ := os.ReadFile(notes)
		return string(said), err
	}
	const socket, service = hostplugin.SocketUnit, hostplugin.ServiceUnit
	const (
		comes  = "daemon-reload\nenable " + socket + " " + service + "\nstart " + socket + "\nstart " + service + "\nNEW CONTAINER\n"
		leaves = "is-active --quiet " + service + "\nstop " + service + "\ndisable --now " + socket + " " + service + "\n"
	)
	there := func() bool {
		_, err := os.Stat(filepath.Join(root, hostplugin.Program))
		return err == nil
	}
	if said, err := move(image, refuses); err == nil || said != comes+leaves+"daemon-reload\n" || there() {
		t.Errorf("to the host, refused: %v, it is there: %v\n%s", err, there(), said)
	}
	if said, err := move(image, fine); err != nil || said != comes || !there() {
		t.Errorf("to the host: %v, it is there: %v\n%s", err, there(), said)
	}
	if said, err := move("", refuses); err == nil || said != leaves+"NEW CONTAINER\nenable "+socket+" "+service+"\nstart "+socket+"\nstart "+service+"\n" || !there() {
		t.Errorf("to the container, refused: %v, it is there: %v\n%s", err, there(), said)
	}
	if said, err := move("", fine); err != nil || said != leaves+"NEW CONTAINER\n"+leaves+"daemon-reload\n" || there() {
		t.Errorf("to the container: %v, it is there: %v\n%s", err, there(), said)
	}
}
