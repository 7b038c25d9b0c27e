package engine_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"calico.internal/calicoctl/internal/engine"
)

// serve runs an engine that answers so, on a unix socket.
func serve(t *testing.T, status int, answers map[string]string) (host string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "docker.sock")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.String()]
		if !ok {
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
	host := serve(t, http.StatusOK, map[string]string{
		"/info":     `{"ID":"E1","ServerVersion":"29"}`,
		"/networks": `[{"Name":"net1","Id":"n1","Driver":"calico"},{"Name":"bridge","Id":"n2"}]`,
		"/containers/json?all=1": `[
		{"Id":"c1","Names":["/web"],"State":"running","NetworkSettings":{"Networks":{
			"net1":{"EndpointID":"e1","IPAddress":"192.168.1.2","GlobalIPv6Address":"fd80::2"},
			"net2":{"EndpointID":"e2","IPAddress":"192.168.1.3","GlobalIPv6Address":""}}}},
		{"Id":"c2","Names":null,"NetworkSettings":{"Networks":{"net1":{"EndpointID":"e3","IPAddress":"192.168.1.4"}}}},
		{"Id":"c3","Names":["/stopped"],"State":"exited","NetworkSettings":{"Networks":{"net1":{"EndpointID":"","IPAddress":""}}}},
		{"Id":"c4","Names":["/refused"],"State":"created","NetworkSettings":{"Networks":{"net1":{"EndpointID":"","IPAddress":"192.168.1.5"}}}},
		{"Id":"c5","Names":["/also"],"State":"created","NetworkSettings":{"Networks":{"net1":{"EndpointID":"","IPAddress":"192.168.1.2"}}}}]`,
	})
	v, err := engine.Ask(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	web := engine.Container{Name: "web", Running: true}
	if len(v.Endpoints) != 3 || v.Endpoints["e2"] != web || v.Endpoints["e3"] != (engine.Container{Name: "c2", Running: true}) {
		t.Errorf("endpoints %v", v.Endpoints)
	}
	if len(v.Addresses) != 5 || v.Addresses[netip.MustParseAddr("fd80::2")] != web || v.Addresses[netip.MustParseAddr("192.168.1.2")] != web ||
		v.Addresses[netip.MustParseAddr("192.168.1.5")] != (engine.Container{Name: "refused"}) {
		t.Errorf("addresses %v", v.Addresses)
	}
	if v.ID != "E1" || !slices.Equal(v.Networks, []string{"n1", "n2"}) {
		t.Errorf("engine %q with networks %v", v.ID, v.Networks)
	}
}

func TestNoAnswer(t *testing.T) {
	for host, want := range map[string]string{
		"unix:///nowhere/docker.sock": "does not answer: dial unix",
		"nonsense":                    "expected unix:///path",
		serve(t, http.StatusOK, map[string]string{"/info": "{"}):                                       "answer of Docker's engine",
		serve(t, http.StatusOK, map[string]string{"/info": "{}", "/networks": "[", "/containers": ""}): "answer of Docker's engine",
		serve(t, http.StatusInternalServerError, map[string]string{"/info": "trouble"}):                "answers 500 Internal Server Error: trouble",
	} {
		v, err := engine.Ask(t.Context(), host)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", host, v, err, want)
		}
	}
}
