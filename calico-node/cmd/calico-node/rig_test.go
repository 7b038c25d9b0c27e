package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	grpchealth "google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/nettest"
	nodev1 "calico.internal/proto/node/v1"
)

// What the test binary is, when it is started again.
const (
	role        = "CALICO_NODE_TEST_ROLE"
	asInit      = "init"    // calico-node, as process 1 of a namespace of its own
	asCommand   = "command" // calico-node
	asProgram   = "program" // a program under runit
	programHelp = "program NAME RUNDIR MODE"
)

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case asInit:
		if err := errors.Join(
			syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
			syscall.Mount("proc", "/proc", "proc", 0, ""),
		); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		main()
	case asCommand:
		main()
	case asProgram:
		os.Exit(beProgram(os.Args[1:]))
	}
	os.Exit(nettest.Main(m.Run))
}

// beProgram is a program that runit keeps: it serves its health, and, by its mode, which it reads
// anew at each start,
//
//	well      ends at TERM
//	slow      ends two seconds after TERM
//	stubborn  does not end at TERM
//	crash     ends at once
//	unwell    says that it is not ready
//	litter    leaves processes behind
func beProgram(args []string) int {
	if len(args) != 3 {
		fmt.Fprintln(os.Stderr, programHelp)
		return 2
	}
	name, runDir := args[0], args[1]
	mode, _ := os.ReadFile(args[2])
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	switch string(mode) {
	case "crash":
		fmt.Println(name, "crashes")
		return 3
	case "litter":
		if err := exec.Command("sh", "-c", "for i in 1 2 3; do sleep 1000 & done").Run(); err != nil {
			return 4
		}
	}
	hs := grpchealth.NewServer()
	if string(mode) == "unwell" {
		hs.SetServingStatus("", healthgrpc.HealthCheckResponse_NOT_SERVING)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- grpcsock.Serve(ctx, filepath.Join(runDir, name+".sock"), hs, nil) }()
	for {
		select {
		case err := <-done:
			fmt.Println(err)
			return 1
		case <-signals:
		}
		if string(mode) == "stubborn" {
			continue
		}
		note(runDir, name+" gets TERM")
		if string(mode) == "slow" {
			<-time.After(2 * time.Second)
		}
		note(runDir, name+" ends")
		cancel()
		<-done
		return 0
	}
}

// note adds a line to the file in which the programs tell what comes to pass.
func note(runDir, line string) {
	f, err := os.OpenFile(filepath.Join(runDir, "notes"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, _ = f.WriteString(line + "\n")
		_ = f.Close()
	}
}

var allPrograms = []string{"felix", "bgpd", "confd", "libnetwork"}

// rig is a host with an etcd and services.
type rig struct {
	t    testing.TB
	dir  string
	etcd *etcdtest.Server
	env  []string
}

func newRig(t testing.TB) *rig {
	t.Helper()
	nettest.NeedPrivate(t)
	if _, err := exec.LookPath("runsvdir"); err != nil {
		t.Skip("runit is not installed: tools/deps.sh installs it")
	}
	r := &rig{t: t, dir: t.TempDir(), etcd: etcdtest.Start(t)}
	nic(t)
	for _, name := range allPrograms {
		r.set(name, "well")
		r.write(filepath.Join("available", name, "run"), fmt.Sprintf("#!/bin/sh\nexec 2>&1\nexport %s=%s\nexec %s %s %s %s\n",
			role, asProgram, self(t), name, r.runDir(), filepath.Join(r.dir, "mode-"+name)))
		logs := filepath.Join(r.dir, "log", name)
		r.write(filepath.Join("available", name, "log", "run"), fmt.Sprintf("#!/bin/sh\nmkdir -p %s\nexec svlogd %s\n", logs, logs))
	}
	r.env = []string{
		"PATH=" + os.Getenv("PATH"), "NODENAME=node00", "IP=10.99.0.1/24", "CALICO_LIBNETWORK_ENABLED=true", "NO_DEFAULT_POOLS=true",
		"ETCD_ENDPOINTS=" + r.etcd.Endpoint(), "CALICO_BOOT_ID=boot", "HOSTNAME=elsewhere",
	}
	return r
}

// nic gives the namespace of the tests the address of the node, once.
func nic(t testing.TB) {
	t.Helper()
	if _, err := net.InterfaceByName("eth0"); err == nil {
		return
	}
	nettest.Run(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
	nettest.Run(t, "ip", "addr", "add", "10.99.0.1/24", "dev", "eth0")
	nettest.Run(t, "ip", "link", "set", "eth0", "up")
	nettest.Run(t, "ip", "link", "set", "eth1", "up")
}

func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (r *rig) runDir() string { return filepath.Join(r.dir, "run") }

func (r *rig) service(name string) string { return filepath.Join(r.dir, "enabled", name) }

func (r *rig) write(path, text string) {
	r.t.Helper()
	path = filepath.Join(r.dir, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
		r.t.Fatal(err)
	}
}

// set chooses how a program behaves from its next start on.
func (r *rig) set(name, mode string) { r.write("mode-"+name, mode) }

func (r *rig) sv(command, name string) {
	r.t.Helper()
	if out, err := exec.Command("sv", "-w", "15", command, r.service(name)).CombinedOutput(); err != nil {
		r.t.Fatalf("sv %s %s: %v: %s", command, name, err, out)
	}
}

// notes are what the programs have told.
func (r *rig) notes() []string {
	text, _ := os.ReadFile(filepath.Join(r.runDir(), "notes"))
	return strings.Fields(strings.ReplaceAll(strings.TrimSpace(string(text)), " ", "_"))
}

// output gathers what a program prints.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// node is a running calico-node.
type node struct {
	*rig
	cmd   *exec.Cmd
	out   *output
	ended chan struct{}
	err   error
}

// start starts calico-node as process 1 of a namespace, which ends with it.
func (r *rig) start(args ...string) *node {
	r.t.Helper()
	n := &node{rig: r, out: &output{}, ended: make(chan struct{})}
	n.cmd = exec.Command(self(r.t), append([]string{
		"init", "--run-dir", r.runDir(), "--state-dir", filepath.Join(r.dir, "state"), "--log-dir", filepath.Join(r.dir, "log"),
		"--services", filepath.Join(r.dir, "available"), "--enabled", filepath.Join(r.dir, "enabled"),
	}, args...)...)
	n.cmd.Env = append(slices.Clone(r.env), role+"="+asInit)
	n.cmd.Stdout, n.cmd.Stderr = n.out, n.out
	n.cmd.WaitDelay = time.Second
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// To the kernel the parent is the thread (prctl(2), PR_SET_PDEATHSIG).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(n.ended)
		err := n.cmd.Start()
		started <- err
		if err == nil {
			n.err = n.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		n.kill()
		if r.t.Failed() {
			r.t.Logf("calico-node printed:\n%s", n.out)
		}
	})
	return n
}

// kill ends it at once, and all of its namespace.
func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	<-n.ended
}

func (n *node) signal(sig syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(sig); err != nil {
		n.t.Fatal(err)
	}
}

// end waits until it has ended, and returns how long that took.
func (n *node) end(limit time.Duration) time.Duration {
	n.t.Helper()
	begun := time.Now()
	select {
	case <-n.ended:
	case <-time.After(limit):
		n.t.Fatalf("it has not ended after %s", limit)
	}
	return time.Since(begun)
}

// status asks it how the host is.
func (n *node) status() (*nodev1.StatusResponse, error) {
	conn, err := grpcsock.Dial(filepath.Join(n.runDir(), "node.sock"))
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // only asked
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	return nodev1.NewNodeClient(conn).Status(ctx, &nodev1.StatusRequest{})
}

// becomes waits until the host is as it should be, and returns how it is.
func (n *node) becomes(limit time.Duration, state nodev1.NodeState) *nodev1.StatusResponse {
	n.t.Helper()
	var s *nodev1.StatusResponse
	nettest.Eventually(n.t, limit, func() (err error) {
		select {
		case <-n.ended:
			n.t.Fatalf("it has ended: %v", n.err)
		default:
		}
		if s, err = n.status(); err == nil && s.GetState() != state {
			err = fmt.Errorf("%s: %s", s.GetState(), describe(s))
		}
		return err
	})
	return s
}

func (n *node) healthy() *nodev1.StatusResponse {
	n.t.Helper()
	return n.becomes(20*time.Second, nodev1.NodeState_NODE_STATE_HEALTHY)
}

// programIs waits until a program is in a state.
func (n *node) programIs(name string, state nodev1.ProgramState) *nodev1.Program {
	n.t.Helper()
	var p *nodev1.Program
	nettest.Eventually(n.t, 45*time.Second, func() error {
		s, err := n.status()
		if err != nil {
			return err
		}
		if p = find(s, name); p.GetState() != state {
			return fmt.Errorf("%s is %s: %s", name, p.GetState(), p.GetWhy())
		}
		return nil
	})
	return p
}

func find(s *nodev1.StatusResponse, name string) *nodev1.Program {
	i := slices.IndexFunc(s.GetPrograms(), func(p *nodev1.Program) bool { return p.GetName() == name })
	if i < 0 {
		return nil
	}
	return s.GetPrograms()[i]
}

func describe(s *nodev1.StatusResponse) string {
	var b strings.Builder
	for _, p := range s.GetPrograms() {
		fmt.Fprintf(&b, "%s %s %s; ", p.GetName(), p.GetState(), p.GetWhy())
	}
	for _, p := range s.GetProblems() {
		fmt.Fprintf(&b, "problem %s: %s; ", p.GetObject(), p.GetReason())
	}
	return b.String()
}

// health is what the command says, and its exit code.
func (r *rig) health() (string, int) {
	r.t.Helper()
	cmd := exec.Command(self(r.t), "health", "--run-dir", r.runDir())
	cmd.Env = append(slices.Clone(r.env), role+"="+asCommand)
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		r.t.Fatal(err)
	} else if ok {
		return string(out), exit.ExitCode()
	}
	return string(out), 0
}

// process is one of the processes of a node, as the machine numbers it.
type process struct {
	pid, parent int
	name, line  string
	zombie      bool
}

// processes are calico-node and all below it.
func (n *node) processes() []process {
	all := map[int]process{}
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range dirs {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		open, shut := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
		fields := strings.Fields(string(text[shut+1:]))
		parent, _ := strconv.Atoi(fields[1])
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		all[pid] = process{pid, parent, string(text[open+1 : shut]), strings.ReplaceAll(string(line), "\x00", " "), fields[0] == "Z"}
	}
	var out []process
	for _, p := range all {
		for up := p; ; {
			if up.pid == n.cmd.Process.Pid {
				out = append(out, p)
				break
			}
			next, ok := all[up.parent]
			if !ok {
				break
			}
			up = next
		}
	}
	return out
}

// named are the processes of a name whose command line holds a text.
func (n *node) named(name, text string) []process {
	var out []process
	for _, p := range n.processes() {
		if p.name == name && strings.Contains(p.line, text) {
			out = append(out, p)
		}
	}
	return out
}

// one is the only such process.
func (n *node) one(name, text string) process {
	n.t.Helper()
	all := n.named(name, text)
	if len(all) != 1 {
		n.t.Fatalf("%d processes %s %s: %v", len(all), name, text, n.processes())
	}
	return all[0]
}
