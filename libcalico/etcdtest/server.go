package etcdtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"calico.internal/libcalico/internal/child"
)

// startTimeout is how long a server may take to serve; a busy machine is slow.
const startTimeout = 60 * time.Second

// Server is an etcd of one member on loopback ports, with its data in a temporary
// directory.
type Server struct {
	opts   options
	dir    string
	client string
	peer   string
	run    *process
}

// Option changes how a server is run.
type Option func(*options)

type options struct {
	args   []string
	host   string
	scheme string
}

// EnableV2 also serves the v2 API.
func EnableV2() Option { return Args("--enable-v2=true") }

// Args adds arguments to etcd's command line.
func Args(args ...string) Option {
	return func(o *options) { o.args = append(o.args, args...) }
}

// Listen makes the server listen on another address than 127.0.0.1.
func Listen(host string) Option { return func(o *options) { o.host = host } }

// TLS makes the server serve https with the arguments' certificates.
func TLS(certFile, keyFile string, args ...string) Option {
	return func(o *options) {
		o.scheme = "https"
		o.args = append(o.args, "--cert-file="+certFile, "--key-file="+keyFile)
		o.args = append(o.args, args...)
	}
}

// New runs a server and waits until it serves. [Start] is what tests use.
func New(opts ...Option) (*Server, error) {
	if _, err := exec.LookPath("etcd"); err != nil {
		return nil, errors.New("etcdtest: no etcd on this machine; apt-get install etcd-server")
	}
	dir, err := os.MkdirTemp("", "etcdtest-")
	if err != nil {
		return nil, fmt.Errorf("etcdtest: %w", err)
	}
	s := &Server{opts: options{host: "127.0.0.1", scheme: "http"}, dir: dir}
	for _, opt := range opts {
		opt(&s.opts)
	}
	if err := s.choosePorts(); err != nil {
		s.remove()
		return nil, err
	}
	// Somebody else may take a port between choosing and using it.
	for attempt := 0; ; attempt++ {
		err := s.start()
		if err == nil {
			return s, nil
		}
		if attempt == 4 || !portTaken(err) {
			s.remove()
			return nil, err
		}
		if err := s.choosePorts(); err != nil {
			s.remove()
			return nil, err
		}
	}
}

func portTaken(err error) bool { return strings.Contains(err.Error(), "address already in use") }

// Ports are taken from below the range from which Linux takes those of outgoing
// connections, so that a stopped server finds its port free again.
const firstPort, lastPort = 12000, 32000

func (s *Server) choosePorts() (err error) {
	if s.client, err = freeAddr(s.opts.host); err != nil {
		return err
	}
	s.peer, err = freeAddr(s.opts.host)
	return err
}

func freeAddr(host string) (string, error) {
	for range 100 {
		addr := net.JoinHostPort(host, strconv.Itoa(firstPort+rand.IntN(lastPort-firstPort)))
		if l, err := net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", fmt.Errorf("etcdtest: no free port on %s", host)
}

// Endpoint is the server's URL.
func (s *Server) Endpoint() string { return s.opts.scheme + "://" + s.client }

// Endpoints is the server's URL as a list.
func (s *Server) Endpoints() []string { return []string{s.Endpoint()} }

// Addr is the server's host and port.
func (s *Server) Addr() string { return s.client }

// PID is the server's process.
func (s *Server) PID() int { return s.run.pid }

// start runs etcd on the chosen ports and the present data.
func (s *Server) start() error {
	peer := "http://" + s.peer
	args := append([]string{
		"--name=test", "--data-dir=" + filepath.Join(s.dir, "data"),
		"--listen-client-urls=" + s.Endpoint(), "--advertise-client-urls=" + s.Endpoint(),
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=test=" + peer, "--logger=zap", "--log-level=warn",
	}, s.opts.args...)
	run, err := startProcess("etcd", args...)
	if err != nil {
		return fmt.Errorf("etcdtest: %w", err)
	}
	s.run = run
	if err := s.await(); err != nil {
		run.kill()
		return fmt.Errorf("etcdtest: %w\n%s", err, run.output.String())
	}
	return nil
}

// await polls until the server answers.
func (s *Server) await() error {
	ready := func() bool { return s.healthy() }
	if s.opts.scheme == "https" {
		ready = func() bool { return reachable(s.client) }
	}
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	deadline := time.After(startTimeout)
	for {
		select {
		case <-poll.C:
			if ready() {
				return nil
			}
		case <-s.run.done:
			return errors.New("etcd ended at start")
		case <-deadline:
			return fmt.Errorf("etcd does not serve within %v", startTimeout)
		}
	}
}

func (s *Server) healthy() bool {
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get(s.Endpoint() + "/health")
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return err == nil && bytes.Contains(body, []byte("true"))
}

func reachable(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// Stop ends the server; its data stays.
func (s *Server) Stop() {
	if s.run != nil {
		s.run.kill()
	}
}

// Restart starts the server again on the same ports and data, ending it first when it
// runs.
func (s *Server) Restart() error {
	s.Stop()
	return s.start()
}

// RestartElsewhere runs the server on its data at another address, which it returns,
// until the next Restart: it can be changed behind the back of its clients.
func (s *Server) RestartElsewhere() (endpoint string, err error) {
	s.Stop()
	client, peer := s.client, s.peer
	defer func() { s.client, s.peer = client, peer }()
	if err := s.choosePorts(); err != nil {
		return "", err
	}
	// The address of the member is part of its data.
	s.peer = peer
	return s.Endpoint(), s.start()
}

// Reset ends the server and starts a new, empty cluster on the same ports.
func (s *Server) Reset() error {
	s.Stop()
	if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
		return fmt.Errorf("etcdtest: %w", err)
	}
	return s.start()
}

// Save ends the server, keeps a copy of its data for [Server.Restore], and starts it
// again.
func (s *Server) Save() error {
	s.Stop()
	if err := os.CopyFS(filepath.Join(s.dir, "saved"), os.DirFS(filepath.Join(s.dir, "data"))); err != nil {
		return fmt.Errorf("etcdtest: save: %w", err)
	}
	return s.start()
}

// Restore ends the server and starts it with the data of [Server.Save]: a backup, as
// older data in the same cluster.
func (s *Server) Restore() error {
	s.Stop()
	data := filepath.Join(s.dir, "data")
	if err := os.RemoveAll(data); err != nil {
		return fmt.Errorf("etcdtest: restore: %w", err)
	}
	if err := os.CopyFS(data, os.DirFS(filepath.Join(s.dir, "saved"))); err != nil {
		return fmt.Errorf("etcdtest: restore: %w", err)
	}
	if err := os.Chmod(data, 0o700); err != nil {
		return fmt.Errorf("etcdtest: restore: %w", err)
	}
	return s.start()
}

// Snapshot keeps a backup for [Server.Rewind], as an operator takes it: by "etcdctl snapshot
// save", while the server runs.
func (s *Server) Snapshot() error {
	file := filepath.Join(s.dir, "backup.db")
	if err := os.RemoveAll(file); err != nil {
		return fmt.Errorf("etcdtest: snapshot: %w", err)
	}
	return etcdctl("--endpoints="+s.Endpoint(), "snapshot", "save", file)
}

// Rewind ends the server and puts the backup in the place of its data, by "etcdctl snapshot
// restore" with the same name, peers and token, so that it is the same cluster.
// [Server.Restart] starts it.
func (s *Server) Rewind() error {
	s.Stop()
	data, peer := filepath.Join(s.dir, "data"), "http://"+s.peer
	if err := os.RemoveAll(data); err != nil {
		return fmt.Errorf("etcdtest: rewind: %w", err)
	}
	return etcdctl("snapshot", "restore", filepath.Join(s.dir, "backup.db"), "--data-dir="+data,
		"--name=test", "--initial-cluster=test="+peer, "--initial-advertise-peer-urls="+peer)
}

func etcdctl(args ...string) error {
	cmd := exec.Command("etcdctl", args...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("etcdtest: etcdctl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Pause makes the server stop answering while its connections stay.
func (s *Server) Pause() error { return child.Freeze(s.run.pid) }

// Resume ends [Server.Pause].
func (s *Server) Resume() error { return s.run.signal(syscall.SIGCONT) }

// Close ends the server and removes its data.
func (s *Server) Close() {
	s.Stop()
	s.remove()
}

// remove is for the end, when nobody can do anything about a failure.
func (s *Server) remove() { _ = os.RemoveAll(s.dir) }

// process is a child that dies with the test binary.
type process struct {
	pid    int
	output *bytes.Buffer // complete when done is closed
	done   chan struct{}
	cmd    *exec.Cmd
}

func startProcess(name string, args ...string) (*process, error) {
	p := &process{output: &bytes.Buffer{}, done: make(chan struct{}), cmd: exec.Command(name, args...)}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	ended, err := child.Start(p.cmd)
	if err != nil {
		return nil, err
	}
	p.pid = p.cmd.Process.Pid
	go func() {
		defer close(p.done)
		<-ended // always by a signal of ours; there is nothing to tell
	}()
	return p, nil
}

func (p *process) signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// kill ends the child, also a paused one, and waits for it.
func (p *process) kill() {
	// It may have ended already.
	_ = p.cmd.Process.Kill()
	<-p.done
}
