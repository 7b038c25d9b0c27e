package engine_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"calico.internal/calicoctl/internal/engine"
)

// serve runs an engine that answers so, on a unix socket.
func serve(t *testing.T, status int, answer string) (host string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "docker.sock")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.String() != "/containers/json?all=1" {
			t.Errorf("asked for %s", r.URL)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return "unix://" + path
}

func TestWhatContainersUse(t *testing.T) {
	host := serve(t, http.StatusOK, `[
		{"Id":"c1","Names":["/web"],"NetworkSettings":{"Networks":{
			"net1":{"EndpointID":"e1","IPAddress":"192.168.1.2","GlobalIPv6Address":"fd80::2"},
			"net2":{"EndpointID":"e2","IPAddress":"192.168.1.3","GlobalIPv6Address":""}}}},
		{"Id":"c2","Names":null,"NetworkSettings":{"Networks":{"net1":{"EndpointID":"e3","IPAddress":"192.168.1.4"}}}},
		{"Id":"c3","Names":["/stopped"],"NetworkSettings":{"Networks":{"net1":{"EndpointID":"","IPAddress":""}}}}]`)
	v, err := engine.Ask(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Endpoints) != 3 || v.Endpoints["e2"] != "web" || v.Endpoints["e3"] != "c2" {
		t.Errorf("endpoints %v", v.Endpoints)
	}
	if len(v.Addresses) != 4 || v.Addresses[netip.MustParseAddr("fd80::2")] != "web" {
		t.Errorf("addresses %v", v.Addresses)
	}
}

func TestNoAnswer(t *testing.T) {
	for host, want := range map[string]string{
		"unix:///nowhere/docker.sock": "does not answer: dial unix",
		"nonsense":                    "expected unix:///path",
		serve(t, http.StatusOK, "{"):  "answer of Docker's engine",
		serve(t, http.StatusInternalServerError, "trouble"): "answers 500 Internal Server Error: trouble",
	} {
		v, err := engine.Ask(t.Context(), host)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", host, v, err, want)
		}
	}
}
