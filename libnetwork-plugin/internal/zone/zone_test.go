package zone

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
	"calico.internal/libnetwork-plugin/internal/endpoint"
)

var (
	addr4 = netip.MustParseAddr("192.168.1.2")
	addr6 = netip.MustParseAddr("fd80::2")
)

// web is a container's endpoint with all kinds of names.
func web() *model.WorkloadEndpoint {
	ep := endpoint.New("e1234567890", endpoint.DefaultMAC, addr4, addr6)
	endpoint.Annotate(ep, endpoint.Network, "Front")
	endpoint.AnnotateContainer(ep, "0123456789abcdef0123", "app-Web-1", map[string]string{
		"com.docker.compose.project": "app", "com.docker.compose.service": "web",
	})
	endpoint.AnnotateAliases(ep, []string{"host1", "www", "www", "a,b", "has blank", ""})
	return ep
}

func TestNames(t *testing.T) {
	key := endpoint.Key("node00", "e1234567890")
	got := Names(key, web())
	var names []string
	for k, v := range got {
		if k.Network != "Front" || k.Endpoint != key.Name || v.Node != "node00" || len(v.Addresses) != 2 {
			t.Errorf("%v: %+v", k, v)
		}
		if v.Own != (k.Name == "app-web-1") {
			t.Errorf("%s is the container's own: %v", k.Name, v.Own)
		}
		names = append(names, k.Name)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"0123456789ab", "app-web-1", "host1", "web", "www"}, names); diff != "" {
		t.Error(diff)
	}

	renamed := web()
	endpoint.Annotate(renamed, endpoint.ContainerName, "db")
	if diff := cmp.Diff([]model.DockerNameKey{{Network: "Front", Name: "app-web-1", Endpoint: key.Name}}, Gone(key, web(), renamed)); diff != "" {
		t.Error(diff)
	}
	if got := Gone(key, web(), nil); len(got) != 5 {
		t.Errorf("an endpoint that goes leaves %v", got)
	}
	for what, ep := range map[string]*model.WorkloadEndpoint{
		"no network": endpoint.New("e1234567890", endpoint.DefaultMAC, addr4, addr6),
		"none":       nil,
	} {
		if got := Names(key, ep); len(got) > 0 {
			t.Errorf("%s: %v", what, got)
		}
	}
	many := web()
	var list []string
	for i := range 500 {
		list = append(list, fmt.Sprint("n", i))
	}
	endpoint.AnnotateAliases(many, list)
	if got := len(Names(key, many)); got > maxNames {
		t.Errorf("%d names in one transaction", got)
	}
}

// kv is the stored form of a resource.
func kv(t *testing.T, k model.Key, v any) store.KV {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return store.KV{Path: model.Paths(k)[0], Value: text}
}

func name(t *testing.T, network, name, endpoint string, own bool, addrs ...netip.Addr) store.KV {
	t.Helper()
	return kv(t, model.DockerNameKey{Network: network, Name: name, Endpoint: endpoint}, &model.DockerName{Node: "n", Addresses: addrs, Own: own})
}

func TestLookup(t *testing.T) {
	z := New()
	other := netip.MustParseAddr("192.168.1.3")
	z.Apply("front", store.Batch{Snapshot: true, Puts: []store.KV{
		name(t, "front", "web", "e1", true, addr4, addr6), name(t, "front", "web", "e2", false, other),
		name(t, "front", "a.b", "e3", true, other),
	}})
	z.Apply("back", store.Batch{Snapshot: true, Puts: []store.KV{name(t, "back", "web", "e4", true, netip.MustParseAddr("192.168.9.9"))}})
	front, back := Network{Key: "front", Name: "front"}, Network{Key: "back", Name: "back"}
	odd := Network{Key: "front", Name: "My Front"}
	for _, tt := range []struct {
		in    []Network
		name  string
		want  string
		known bool
	}{
		{[]Network{front}, "web.", "192.168.1.2 192.168.1.3 fd80::2", true},
		{[]Network{front}, "WEB.", "192.168.1.2 192.168.1.3 fd80::2", true},
		{[]Network{front}, "web.front.", "192.168.1.2 192.168.1.3 fd80::2", true},
		{[]Network{front}, "web.back.", "", false},
		{[]Network{back}, "web.", "192.168.9.9", true},
		{[]Network{front, back}, "web.back.", "192.168.9.9", true},
		{[]Network{front, back}, "web.", "192.168.1.2 192.168.1.3 192.168.9.9 fd80::2", true},
		{[]Network{front}, "a.b.", "192.168.1.3", true},
		{[]Network{odd}, "web.my front.", "192.168.1.2 192.168.1.3 fd80::2", true},
		{[]Network{front}, "db.", "", false},
		{[]Network{front}, ".front.", "", false},
		{[]Network{front}, ".", "", false},
		{nil, "web.", "", false},
		{[]Network{{Key: "unknown"}}, "web.", "", false},
	} {
		addrs, known := z.Lookup(tt.in, tt.name)
		var texts []string
		for _, a := range addrs {
			texts = append(texts, a.String())
		}
		if got := strings.Join(texts, " "); got != tt.want || known != tt.known {
			t.Errorf("%s in %v: %s, %v", tt.name, tt.in, got, known)
		}
	}
	if got := z.Reverse([]Network{front, back}, addr4); !slices.Equal(got, []string{"web.front"}) {
		t.Errorf("reverse %v", got)
	}
	if got := z.Reverse([]Network{back}, addr4); len(got) > 0 {
		t.Errorf("reverse of another network's: %v", got)
	}
}

func TestZoneFollowsChanges(t *testing.T) {
	z := New()
	in := []Network{{Key: "n", Name: "n"}}
	has := func(nm string) bool {
		_, known := z.Lookup(in, nm)
		return known
	}
	first := name(t, "n", "web", "e1", true, addr4)
	z.Apply("n", store.Batch{Snapshot: true, Puts: []store.KV{first}})
	z.Apply("n", store.Batch{Puts: []store.KV{name(t, "n", "web", "e1", true, addr6), name(t, "n", "db", "e2", true, addr4)}})
	if addrs, _ := z.Lookup(in, "web"); !slices.Equal(addrs, []netip.Addr{addr6}) {
		t.Errorf("changed to %v", addrs)
	}
	if got := z.Reverse(in, addr4); !slices.Equal(got, []string{"db.n"}) {
		t.Errorf("an address changed hands: %v", got)
	}
	z.Apply("n", store.Batch{Deletes: []string{first.Path}})
	if has("web") || !has("db") {
		t.Error("a deleted name is known, or another is not")
	}
	z.Apply("n", store.Batch{Puts: []store.KV{{Path: name(t, "n", "db", "e2", true).Path, Value: []byte("{broken")}}})
	if has("db") {
		t.Error("what cannot be read is answered")
	}
	z.Apply("n", store.Batch{Snapshot: true, Puts: []store.KV{name(t, "n", "new", "e3", true, addr4)}})
	if has("db") || !has("new") {
		t.Error("a snapshot is not all there is")
	}
	if z.Stale("n", func(id string) bool { return id == "e3" }) || !z.Stale("n", func(string) bool { return false }) || z.Stale("other", func(string) bool { return false }) {
		t.Error("names without an endpoint are not told from others")
	}
	if !z.Known(in) || z.Known([]Network{{Key: "n"}, {Key: "m"}}) {
		t.Error("what has been read is not told from what has not")
	}
	z.Drop("n")
	if has("new") || len(z.Reverse(in, addr4)) > 0 {
		t.Error("a network that was dropped is known")
	}
}

func TestAskers(t *testing.T) {
	a := NewAskers()
	put := func(id, network, sandbox string, addrs ...string) store.KV {
		ep := endpoint.New(id+"0123456789ab", endpoint.DefaultMAC, netip.MustParseAddr(addrs[0]), netip.Addr{})
		if len(addrs) > 1 {
			ep = endpoint.New(id+"0123456789ab", endpoint.DefaultMAC, netip.MustParseAddr(addrs[0]), netip.MustParseAddr(addrs[1]))
		}
		endpoint.Annotate(ep, endpoint.Network, network)
		endpoint.Annotate(ep, endpoint.Sandbox, sandbox)
		key := endpoint.Key("node00", id+"0123456789ab")
		parts, err := model.Encode(key, ep)
		if err != nil {
			t.Fatal(err)
		}
		for path, value := range parts {
			return store.KV{Path: path, Value: value}
		}
		return store.KV{}
	}
	one, two := put("a", "front", "/s/1", "192.168.1.2", "fd80::2"), put("b", "back", "/s/1", "192.168.1.3")
	a.Apply(store.Batch{Snapshot: true, Puts: []store.KV{one, two, put("c", "back", "/s/2", "192.168.1.4"), put("d", "", "/s/3", "192.168.1.5")}})
	names := func(addr string) string {
		var list []string
		for _, n := range a.Networks(netip.MustParseAddr(addr)) {
			list = append(list, n.Name)
		}
		return strings.Join(list, " ")
	}
	for addr, want := range map[string]string{
		"192.168.1.2": "back front", "::ffff:192.168.1.2": "back front", "fd80::2": "back front", "192.168.1.3": "back front",
		"192.168.1.4": "back", "192.168.1.5": "", "10.0.0.1": "",
	} {
		if got := names(addr); got != want {
			t.Errorf("%s asks in %q, want %q", addr, got, want)
		}
	}
	if got := a.InUse(); !slices.Equal(got, []string{"back", "front"}) {
		t.Errorf("in use %v", got)
	}
	if !a.Has("d0123456789ab") || a.Has("e0123456789ab") {
		t.Error("an endpoint without a network is one all the same")
	}
	a.Apply(store.Batch{Deletes: []string{one.Path}})
	if a.Has("a0123456789ab") {
		t.Error("an endpoint that was deleted is there")
	}
	if names("192.168.1.2") != "" || names("192.168.1.3") != "back" {
		t.Errorf("after it left: %q, %q", names("192.168.1.2"), names("192.168.1.3"))
	}
	if got := a.InUse(); !slices.Equal(got, []string{"back"}) {
		t.Errorf("in use %v", got)
	}
}
