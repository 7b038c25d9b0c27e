package daemon_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	felixv1 "calico.internal/proto/felix/v1"
)

// binary is calico-felix, built for the tests of this package.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "felixtest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is in the temporary directory
	binary = filepath.Join(dir, "calico-felix")
	// As `make build` does it: benchmarks report its memory.
	build := exec.Command("go", "build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", binary, "calico.internal/felix/cmd/calico-felix")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build calico-felix: %v\n%s", err, out)
		return 1
	}
	return etcdtest.Main(m)
}

// How long tests wait for what should be there soon, and for a packet that should not
// come.
const (
	patience = 20 * time.Second
	noAnswer = 300 * time.Millisecond
	answer   = 3 * time.Second
)

// world is a datastore and the hosts that use it.
type world struct {
	testing.TB

	etcd  *etcdtest.Server
	store *etcdstore.Client
	net   *nettest.Net
}

// newWorld makes the datastore of a new cluster for hosts to come. The datastore is the package's
// unless a server of its own is given.
func newWorld(t testing.TB, etcd *etcdtest.Server) *world {
	t.Helper()
	if etcd == nil {
		etcd = etcdtest.Shared(t)
	}
	etcd.SetUp(t)
	store, err := etcdstore.New(etcdstore.Config{Endpoints: etcd.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return &world{TB: t, etcd: etcd, store: store, net: nettest.New(t)}
}

// host is a machine with felix on it.
type host struct {
	*nettest.Host
	w       *world
	variant string
	runDir  string
	lock    string
	// etcd is felix's way to the datastore.
	etcd *nettest.Relay
	// shims, when not empty, is a directory that felix looks into first for programs.
	shims string
	// bare is set when felix finds no other programs than those.
	bare bool
	// endpoints are the URLs at which felix finds the datastore.
	endpoints string
	felix     *nettest.Process
	client    felixv1.FelixClient
}

// addHost adds a host, number n of them, without starting felix.
func (w *world) addHost(n int, variant string) *host {
	w.Helper()
	spec := nettest.HostSpec{
		Name:  fmt.Sprintf("node%02d", n),
		Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("172.28.8.%d/24", 100+n)), netip.MustParsePrefix(fmt.Sprintf("fd00:28::%d/64", 100+n))},
	}
	h := &host{Host: w.net.AddHost(spec), w: w, variant: variant, runDir: w.TempDir()}
	h.lock = filepath.Join(h.runDir, "xtables.lock")
	w.Setenv("XTABLES_LOCKFILE", h.lock)
	h.etcd = h.Relay("127.0.0.1:2379", w.etcd.Addr())
	conn, err := grpcsock.Dial(filepath.Join(h.runDir, "felix.sock"))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = conn.Close() })
	h.client = felixv1.NewFelixClient(conn)
	return h
}

// command is calico-felix with arguments, as it runs on the host.
func (h *host) command(args ...string) *exec.Cmd {
	args = append(args, "--run-dir="+h.runDir, "--state-dir="+h.runDir, "--config-file="+filepath.Join(h.runDir, "felix.cfg"),
		"--etcd-endpoints="+cmp.Or(h.endpoints, "http://127.0.0.1:2379"), "--node-name="+h.Name)
	cmd := h.Command(context.Background(), binary, args...)
	cmd.Env = append(os.Environ(), "FELIX_IPTABLESBACKEND="+h.variant)
	switch {
	case h.bare:
		cmd.Env = append(cmd.Env, "PATH="+h.shims)
	case h.shims != "":
		cmd.Env = append(cmd.Env, "PATH="+h.shims+":"+os.Getenv("PATH"))
	}
	return cmd
}

// shimRestore puts a script before each iptables-restore that felix runs from its next
// start on: it runs the given shell commands first and notes the call. The function that
// is returned tells how often they were called.
func (h *host) shimRestore(commands string) (calls func() int) {
	h.w.Helper()
	h.shims = h.w.TempDir()
	log := filepath.Join(h.shims, "calls")
	for _, name := range []string{"iptables", "ip6tables"} {
		name += "-" + h.variant + "-restore"
		program, err := exec.LookPath(name)
		if err != nil {
			h.w.Fatal(err)
		}
		script := fmt.Sprintf("#!/bin/sh\necho %s >> %s\n%s\nexec %s \"$@\"\n", name, log, commands, program)
		if err := os.WriteFile(filepath.Join(h.shims, name), []byte(script), 0o755); err != nil {
			h.w.Fatal(err)
		}
	}
	return func() int {
		text, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.w.Fatal(err)
		}
		return strings.Count(string(text), "\n")
	}
}

// start starts felix with parameters "NAME=value".
func (h *host) start(params ...string) {
	h.w.Helper()
	cmd := h.command("run")
	for _, p := range params {
		cmd.Env = append(cmd.Env, "FELIX_"+p)
	}
	h.felix = h.StartCommand(cmd)
}

// startInSync starts felix and waits until it has programmed everything.
func (h *host) startInSync(params ...string) {
	h.w.Helper()
	h.start(params...)
	h.awaitSync()
}

func (h *host) awaitSync() {
	h.w.Helper()
	nettest.Eventually(h.w, patience, func() error {
		st, err := h.status()
		if err == nil && !st.GetInSync() {
			err = fmt.Errorf("not in sync: %v", st)
		}
		return err
	})
}

func (h *host) status() (*felixv1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(h.w.Context(), time.Second)
	defer cancel()
	return h.client.Status(ctx, &felixv1.StatusRequest{})
}

// endpoint is a container and its endpoint in the datastore.
type endpoint struct {
	*nettest.Container
	key   model.WorkloadEndpointKey
	value *model.WorkloadEndpoint
	addr  netip.Addr
	addr6 netip.Addr
	// volleyPorts is the number of ports that volleys have used.
	volleyPorts int
}

// container makes a container with an endpoint in the profile, and waits until it is in
// force.
func (h *host) container(name, profile string, addr string) *endpoint {
	h.w.Helper()
	e := h.attach(name, profile, addr)
	h.w.put(e.key, e.value)
	h.await(e)
	return e
}

// attach makes a container and the value of its endpoint, without writing it.
func (h *host) attach(name, profile, addr string) *endpoint {
	h.w.Helper()
	iface := "cali" + name
	a := netip.MustParseAddr(addr)
	b := a.As4()
	a6 := netip.MustParseAddr(fmt.Sprintf("fd00:80::%x:%x", b[2], b[3]))
	e := &endpoint{Container: h.AddContainer(iface, a, a6), addr: a, addr6: a6}
	e.key = model.WorkloadEndpointKey{Node: h.Name, Orchestrator: "libnetwork", Workload: "libnetwork", Name: name}
	e.value = &model.WorkloadEndpoint{
		State: "active", Interface: iface, MAC: nettest.ContainerMAC, Profiles: []string{profile},
		IPv4Nets: []netip.Prefix{netip.PrefixFrom(a, 32)}, IPv6Nets: []netip.Prefix{netip.PrefixFrom(a6, 128)},
	}
	e.ServeUDP(udpPort)
	e.ServeTCP(tcpPort)
	return e
}

const (
	udpPort = 5000
	tcpPort = 5001
)

// put writes a resource and returns the revision.
func (w *world) put(k model.Key, r model.Resource) int64 {
	w.Helper()
	write, err := etcdstore.PutWrite(k, r)
	if err != nil {
		w.Fatal(err)
	}
	rev, err := w.store.Commit(w.Context(), write)
	if err != nil {
		w.Fatal(err)
	}
	return rev
}

func (w *world) remove(k model.Key) int64 {
	w.Helper()
	rev, err := w.store.Delete(w.Context(), k, 0)
	if err != nil {
		w.Fatal(err)
	}
	return rev
}

// wait asks felix to wait for an endpoint.
func (h *host) wait(e *endpoint, revision int64, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(h.w.Context(), timeout)
	defer cancel()
	_, err := h.client.WaitEndpoint(ctx, &felixv1.WaitEndpointRequest{Id: idOf(e.key), Revision: revision})
	return err
}

// refuses has felix be asked for an endpoint until the caller's time is over, and wants to hear why
// it is not in force. Where the processor is busy that time may end before the answer is there,
// and the caller asks again.
func (h *host) refuses(e *endpoint, revision int64, code codes.Code, reason string) {
	h.w.Helper()
	nettest.Eventually(h.w, patience, func() error {
		err := h.wait(e, revision, time.Second)
		if err == nil {
			h.w.Fatalf("endpoint %s is in force, and not refused because of %q", e.Name, reason)
		}
		if status.Code(err) != code || !strings.Contains(err.Error(), reason) {
			return fmt.Errorf("got %w, want %q", err, reason)
		}
		return nil
	})
}

func idOf(k model.WorkloadEndpointKey) *felixv1.EndpointID {
	return &felixv1.EndpointID{Node: k.Node, Orchestrator: k.Orchestrator, Workload: k.Workload, Endpoint: k.Name}
}

func (h *host) await(e *endpoint) {
	h.w.Helper()
	if err := h.wait(e, 0, patience); err != nil {
		h.w.Fatal(err)
	}
}

// network makes the profile that the network plugin makes for a network.
func (w *world) network(name string) {
	w.Helper()
	w.put(model.ProfileKey{Name: name}, &model.Profile{
		Tags:          []string{name},
		InboundRules:  []model.Rule{{Action: model.ActionAllow, Source: model.Match{Tag: name}}},
		OutboundRules: []model.Rule{{Action: model.ActionAllow}},
	})
}

// canReach fails the test unless a container reaches another by ping, UDP and TCP over
// both families.
func (w *world) canReach(from, to *endpoint) {
	w.Helper()
	for _, a := range []netip.Addr{to.addr, to.addr6} {
		if _, err := from.Ping(a, answer); err != nil {
			w.Errorf("%s: %v", from.Name, err)
		}
		if err := from.UDP(netip.AddrPortFrom(a, udpPort), answer); err != nil {
			w.Error(err)
		}
		if err := from.TCP(netip.AddrPortFrom(a, tcpPort), answer); err != nil {
			w.Error(err)
		}
	}
}

// cannotReach fails the test when anything passes.
func (w *world) cannotReach(from, to *endpoint) {
	w.Helper()
	if err := apart(from, to); err != nil {
		w.Error(err)
	}
}

// apart says what passes by ping, UDP and TCP over both families.
func apart(from, to *endpoint) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, a := range []netip.Addr{to.addr, to.addr6} {
		for what, probe := range map[string]func() error{
			"pings":          func() error { _, err := from.Ping(a, noAnswer); return err },
			"reaches by UDP": func() error { return from.UDP(netip.AddrPortFrom(a, udpPort), noAnswer) },
			"reaches by TCP": func() error { return from.TCP(netip.AddrPortFrom(a, tcpPort), noAnswer) },
		} {
			wg.Go(func() {
				sent := time.Now().UTC()
				if err := probe(); !errors.Is(err, nettest.ErrNoAnswer) {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, fmt.Errorf("%s %s %s at %s: %w", from.Name, what, a, sent.Format(time.RFC3339Nano), cmp.Or(err, errPasses)))
				}
			})
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

var errPasses = errors.New("it passes")

// verdictFault says what is wrong with the outcome of a probe, given as its error.
func verdictFault(err error, passes bool) error {
	switch {
	case passes:
		return err
	case err == nil:
		return errPasses
	case !errors.Is(err, nettest.ErrNoAnswer) && !errors.Is(err, syscall.EPERM): // which a sender on the host itself is told
		return err
	}
	return nil
}

// waitFor is how long to wait for an answer that must, or must not, come.
func waitFor(passes bool) time.Duration {
	if passes {
		return answer
	}
	return noAnswer
}

// dump is everything that felix keeps in the kernel of a host, without counters.
func (h *host) dump() string {
	h.w.Helper()
	var b strings.Builder
	for _, name := range []string{"iptables-", "ip6tables-"} {
		for _, table := range []string{"raw", "mangle", "nat", "filter"} {
			for line := range strings.Lines(h.Run(name+h.variant+"-save", "-t", table)) {
				if !strings.HasPrefix(line, "#") {
					line, _, _ = strings.Cut(line, " [")
					b.WriteString(strings.TrimSpace(line) + "\n")
				}
			}
		}
	}
	b.WriteString(sorted(h.Run("ipset", "save")))
	b.WriteString(sorted(h.Run("ip", "-4", "route")))
	b.WriteString(sorted(h.Run("ip", "-6", "route")))
	b.WriteString(h.Run("ip", "neigh", "show", "nud", "permanent"))
	b.WriteString(h.Run("ip", "addr", "show", "dev", "lo"))
	return b.String()
}

func sorted(text string) string {
	lines := slices.Collect(strings.Lines(text))
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// onVariants runs a test for both variants of iptables.
func onVariants(t *testing.T, test func(t *testing.T, variant string)) {
	t.Helper()
	for _, v := range []string{iptables.Legacy, iptables.NFT} {
		t.Run(v, func(t *testing.T) { test(t, v) })
	}
}
