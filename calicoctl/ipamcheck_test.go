package calicoctl_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"calico.internal/calicoctl/internal/command"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

// host is a host with an engine, and a datastore.
type host struct {
	*testing.T

	store  *etcdstore.Client
	env    map[string]string
	answer string // the engine's list of containers
	// sandboxes are what its kernel says.
	sandboxes func() ([]localnet.Sandbox, error)
}

// networkID is the engine's id of the network that the datastore knows on the host.
const networkID = "8f4e41ea53ed"

func newHost(t *testing.T) *host {
	t.Helper()
	etcd := etcdtest.Start(t)
	store, err := etcdstore.New(etcdstore.Config{Endpoints: etcd.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	h := &host{T: t, store: store, answer: "[]", env: map[string]string{
		"ETCD_ENDPOINTS": etcd.Endpoint(), "NODENAME": "node01",
	}}
	h.env["DOCKER_HOST"] = serveEngine(t, networkID, func() string { return h.answer })
	h.apply(model.DockerNetworkKey{Name: "net1"}, &model.DockerNetwork{IDs: map[string]string{"node01": networkID, "node02": "other"}})
	h.apply(model.NodeKey{Name: "node01"}, &model.Node{IPv4: netip.MustParseAddr("192.0.2.1")})
	h.apply(model.IPPoolKey{CIDR: netip.MustParsePrefix("192.168.0.0/16")}, &model.IPPool{CIDR: netip.MustParsePrefix("192.168.0.0/16"), IPAM: true})
	return h
}

func (h *host) apply(k model.Key, r model.Resource) {
	h.Helper()
	if _, _, err := h.store.Apply(h.Context(), k, r); err != nil {
		h.Fatal(err)
	}
}

// endpoint is a container's, with an address of its own.
func (h *host) endpoint(id, addr string) {
	h.Helper()
	owner := ipam.Owner{Handle: id, Attrs: map[string]string{ipam.AttrEndpoint: id, ipam.AttrTimestamp: "2026-01-01T00:00:00Z"}}
	if err := ipam.New(h.store, "node01").Assign(h.Context(), netip.MustParseAddr(addr), owner); err != nil {
		h.Fatal(err)
	}
	h.apply(model.WorkloadEndpointKey{Node: "node01", Orchestrator: "libnetwork", Workload: "libnetwork", Name: id},
		&model.WorkloadEndpoint{State: "active", Interface: "cali" + id[:min(len(id), 11)], IPv4Nets: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(addr), 32)}})
}

func (h *host) calicoctl(args ...string) (status int, stdout string) {
	h.Helper()
	var out, errs bytes.Buffer
	env := &command.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: func(name string) string { return h.env[name] }, Sandboxes: h.sandboxes}
	status = command.Run(context.Background(), env, args)
	if errs.Len() > 0 {
		h.Logf("%v: %s", args, errs.String())
	}
	return status, out.String()
}

// TestTheEngineProvesWhatIsDead has a live container, and one that the engine forgot.
func TestTheEngineProvesWhatIsDead(t *testing.T) {
	h := newHost(t)
	h.endpoint("live", "192.168.1.1")
	h.endpoint("dead", "192.168.1.2")
	leaked := ipam.Owner{Attrs: map[string]string{ipam.AttrTimestamp: "2026-01-01T00:00:00Z"}}
	for _, a := range []string{"192.168.1.3", "192.168.1.4"} {
		if err := ipam.New(h.store, "node01").Assign(h.Context(), netip.MustParseAddr(a), leaked); err != nil {
			t.Fatal(err)
		}
	}
	h.answer = `[{"Id":"c1","Names":["/web"],"NetworkSettings":{"Networks":{"net1":{"EndpointID":"live","IPAddress":"192.168.1.1"}}}},
		{"Id":"c2","Names":["/odd"],"NetworkSettings":{"Networks":{"net1":{"EndpointID":"odd","IPAddress":"192.168.1.4"}}}}]`
	status, out := h.calicoctl("ipam", "check")
	for _, want := range []string{
		"Containers on node node01 have 2 addresses.",
		"endpoint-without-container: endpoint dead on node node01",
		"leaked-address: address 192.168.1.3 is in use by node node01",
		"container-without-endpoint: container odd on node node01 has address 192.168.1.4",
		"found 3 problems",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if status != 1 {
		t.Errorf("exit status %d", status)
	}
	if status, out = h.calicoctl("ipam", "check", "--fix", "--grace=1ms"); status != 1 || !strings.Contains(out, "2 are mended, 1 are left") {
		t.Errorf("status %d, %s", status, out)
	}
	c := ipam.New(h.store, "node01")
	for a, taken := range map[string]bool{"192.168.1.1": true, "192.168.1.2": false, "192.168.1.3": false, "192.168.1.4": true} {
		if _, err := c.Lookup(h.Context(), netip.MustParseAddr(a)); (err == nil) != taken {
			t.Errorf("%s: %v", a, err)
		}
	}
	h.answer = `[{"Id":"c1","Names":["/web"],"NetworkSettings":{"Networks":{"net1":{"EndpointID":"live","IPAddress":"192.168.1.1"}}}}]`
	if status, out = h.calicoctl("ipam", "check", "--fix", "--grace=1ms", "-o", "json"); status != 0 {
		t.Errorf("status %d, %s", status, out)
	}
	var report struct{ Problems []struct{ Mended bool } }
	if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Problems) != 1 || !report.Problems[0].Mended {
		t.Errorf("report %s: %v", out, err)
	}
}

// TestAContainerThatStartsBetweenTheLooksKeepsItsAddress: the second look sees it.
func TestAContainerThatStartsBetweenTheLooksKeepsItsAddress(t *testing.T) {
	h := newHost(t)
	h.endpoint("e", "192.168.1.1")
	asked := 0
	answers := []string{"[]", `[{"Id":"c1","Names":["/web"],"NetworkSettings":{"Networks":{"net1":{"EndpointID":"e","IPAddress":"192.168.1.1"}}}}]`}
	h.env["DOCKER_HOST"] = serveEngine(t, networkID, func() string {
		asked++
		return answers[min(asked-1, 1)]
	})
	if status, out := h.calicoctl("ipam", "check", "--fix", "--force", "--grace=1ms"); status != 0 || !strings.Contains(out, "found 0 problems") {
		t.Errorf("status %d, %s", status, out)
	}
	if asked < 2 {
		t.Errorf("the engine was asked %d times", asked)
	}
	if _, err := ipam.New(h.store, "").Lookup(h.Context(), netip.MustParseAddr("192.168.1.1")); err != nil {
		t.Error(err)
	}
}

// TestFixGoesOnUntilNothingCertainIsLeft has addresses that leak while those before them are
// mended: all are mended, or it is said why they are left.
func TestFixGoesOnUntilNothingCertainIsLeft(t *testing.T) {
	for _, tc := range []struct {
		leaks, status int
		want          string
	}{
		{6, 0, "Check complete; found 6 problems. 6 are mended, 0 are left."},
		{1000, 1, "  not mended: it was found only by the last look; run the command again\n"},
	} {
		h := newHost(t)
		leaked, asked := 0, 0
		leak := func() {
			owner := ipam.Owner{Attrs: map[string]string{ipam.AttrTimestamp: "2026-01-01T00:00:00Z"}}
			leaked++
			if err := ipam.New(h.store, "node01").Assign(h.Context(), netip.AddrFrom4([4]byte{192, 168, 1, byte(leaked)}), owner); err != nil {
				t.Error(err)
			}
		}
		leak()
		h.env["DOCKER_HOST"] = serveEngine(t, networkID, func() string {
			if asked++; asked%2 == 0 && leaked < tc.leaks { // the second look of a round
				leak()
			}
			return "[]"
		})
		status, out := h.calicoctl("ipam", "check", "--fix", "--force", "--grace=1ms")
		if status != tc.status || !strings.Contains(out, tc.want) || strings.Contains(out, "--fix will") {
			t.Errorf("%d leaks: status %d, no %q in %s", tc.leaks, status, tc.want, out)
		}
	}
}

// serveEngine runs an engine with one network, on a unix socket.
func serveEngine(t *testing.T, network string, containers func() string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "docker.sock")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.String() {
		case "/info":
			fmt.Fprintf(w, `{"ID":"engine with %s"}`, network)
		case "/networks":
			fmt.Fprintf(w, `[{"Name":"net1","Id":%q}]`, network)
		case "/containers/json?all=1":
			fmt.Fprint(w, containers())
		default:
			t.Errorf("the engine was asked for %s", r.URL)
		}
	}))
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return "unix://" + path
}

func TestAnEngineElsewhereNeedsItsNode(t *testing.T) {
	h := newHost(t)
	h.endpoint("e", "192.168.1.1")
	h.env["DOCKER_HOST"] = "tcp://127.0.0.1:1"
	status, out := h.calicoctl("ipam", "check")
	if status != 0 || !strings.Contains(out, "--node says on which node it is") {
		t.Errorf("status %d, %s", status, out)
	}
}
