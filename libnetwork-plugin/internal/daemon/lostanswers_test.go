package daemon

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdtest"
	libipam "calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/enginetest"
)

// life is a container's life as the engine runs it: what it does after each call, also
// after one that fails.
type life struct {
	h    *host
	c    container
	addr string
	// before is called before each step.
	before func(step string)
}

// try makes one step of a life.
func (l *life) try(step, method, format string, args ...any) (string, bool) {
	l.before(step)
	text, err := l.h.call(method, fmt.Sprintf(format, args...))
	if err != nil {
		l.h.t.Logf("%s: %v", step, err)
	}
	return text, err == nil
}

// run runs the whole life.
func (l *life) run() {
	text, ok := l.try("request", "IpamDriver.RequestAddress", `{"PoolID":"CalicoPoolIPv4","Address":"","Options":{}}`)
	if !ok {
		return
	}
	var answer struct{ Address string }
	must(l.h.t, json.Unmarshal([]byte(text), &answer))
	l.addr = answer.Address
	defer l.release()
	if _, ok := l.try("create", "NetworkDriver.CreateEndpoint", `{"NetworkID":%q,"EndpointID":%q,"Options":{},
"Interface":{"Address":%q,"AddressIPv6":"","MacAddress":""}}`, l.c.networkID, l.c.endpoint, l.addr); !ok {
		return
	}
	defer l.try("delete", "NetworkDriver.DeleteEndpoint", `{"NetworkID":%q,"EndpointID":%q}`, l.c.networkID, l.c.endpoint)
	l.h.engine.SetContainer(enginetest.Container{
		ID: l.c.id, Name: l.c.name, Labels: l.c.labels, State: "created", Joining: true,
		Endpoints: map[string]enginetest.Endpoint{l.c.network: {ID: l.c.endpoint, IPv4: l.addr}},
	})
	defer l.h.engine.RemoveContainer(l.c.id)
	if _, ok := l.try("join", "NetworkDriver.Join", "%s", joinBody(l.c)); !ok {
		return
	}
	l.try("leave", "NetworkDriver.Leave", `{"NetworkID":%q,"EndpointID":%q}`, l.c.networkID, l.c.endpoint)
}

func (l *life) release() {
	bare, _, _ := strings.Cut(l.addr, "/")
	l.try("release", "IpamDriver.ReleaseAddress", `{"PoolID":"CalicoPoolIPv4","Address":%q}`, bare)
}

// TestALostAnswerLeaksNothing loses each write of a container's life in turn, in each way,
// in a plugin that lives on, and starts another container at once.
func TestALostAnswerLeaksNothing(t *testing.T) {
	h, proxy := behindProxy(t)
	writes := make(map[string]int)
	order := []string{}
	h.life(0, func(step string) {
		if len(order) > 0 {
			writes[order[len(order)-1]] = proxy.Writes()
		}
		order = append(order, step)
		proxy.Lose(0, etcdtest.AnswerCut)
	})
	writes[order[len(order)-1]] = proxy.Writes()
	t.Logf("writes of each call: %v", writes)
	if writes["request"] == 0 || writes["create"] == 0 || writes["join"] == 0 || writes["delete"] == 0 {
		t.Fatalf("a call of a container's life writes nothing: %v", writes)
	}
	i := 0
	for _, step := range order {
		for n := 1; n <= writes[step]; n++ {
			for _, how := range etcdtest.Losses {
				i++
				t.Run(fmt.Sprintf("%s, write %d, %s", step, n, how), func(t *testing.T) {
					h.lose(t, proxy, i, step, n, how)
				})
			}
		}
	}
}

// lose runs a life of which one write is lost, and looks at what it leaves.
func (h *host) lose(t *testing.T, proxy *etcdtest.Proxy, i int, step string, n int, how etcdtest.Loss) {
	h.life(i, func(s string) {
		proxy.AwaitLate() // the engine is slow too: what is late is done before the next call
		if s == step {
			proxy.Lose(n, how)
		}
	})
	proxy.AwaitLate()
	other := web
	other.id, other.name = fmt.Sprintf("%064d", i), fmt.Sprintf("other%d", i)
	other.endpoint = fmt.Sprintf("%011d", i) + strings.Repeat("e", 53)
	addr := h.create(other)
	h.ok("NetworkDriver.Join", "%s", joinBody(other))
	h.running(other, addr)
	h.eachAddressHasOneOwner(t)
	h.awaitNothingBut(t, other.endpoint)
	h.eachAddressHasOneOwner(t)
	h.remove(other, addr)
	if left := h.leftBut(""); len(left) > 0 {
		t.Errorf("left by the container that went well: %v", left)
	}
}

// awaitNothingBut waits until nothing is left but what belongs to one endpoint.
func (h *host) awaitNothingBut(t *testing.T, id string) {
	t.Helper()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	deadline := time.After(time.Minute)
	for {
		left := h.leftBut(id)
		if len(left) == 0 {
			return
		}
		select {
		case <-poll.C:
		case <-deadline:
			t.Errorf("left after a minute: %v", left)
			return
		}
	}
}

// behindProxy is a node with a network, whose plugin reaches etcd through a proxy.
func behindProxy(t *testing.T) (*host, *etcdtest.Proxy) {
	t.Helper()
	proxy := etcdtest.Shared(t).Proxy(t)
	h := newHost(t, enginetest.Docker29)
	h.env["ETCD_ENDPOINTS"] = proxy.Endpoint()
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	return h, proxy
}

// life runs a container's life.
func (h *host) life(i int, before func(step string)) {
	h.t.Helper()
	c := web
	c.id, c.name = fmt.Sprintf("a%063d", i), fmt.Sprintf("web%d", i)
	c.endpoint = fmt.Sprintf("%011d", i) + strings.Repeat("d", 53)
	l := &life{h: h, c: c, before: before}
	l.run()
}

// eachAddressHasOneOwner compares endpoints with the owners of their addresses.
func (h *host) eachAddressHasOneOwner(t *testing.T) {
	t.Helper()
	entries, _, _, err := h.store.List(t.Context(), model.KindWorkloadEndpoint, nil)
	must(t, err)
	users := make(map[netip.Addr]string)
	for _, e := range entries {
		id := e.Key.(model.WorkloadEndpointKey).Name
		for _, a := range endpoint.Addresses(e.Value.(*model.WorkloadEndpoint)) {
			if other, taken := users[a]; taken {
				t.Errorf("%s is the address of two endpoints, %s and %s", a, other, id)
			}
			users[a] = id
			if who, err := libipam.New(h.store, h.cfg.Node).Lookup(t.Context(), a); err != nil || who.Handle != id {
				t.Errorf("%s is the address of endpoint %s, its owner is %q (%v)", a, id, who.Handle, err)
			}
		}
	}
}

// leftBut lists what is in etcd and the kernel besides what belongs to one endpoint.
func (h *host) leftBut(id string) []string {
	h.t.Helper()
	var left []string
	for _, prefix := range []string{"/calico/v1/host/", "/calico/ipam/v2/handle/"} {
		resp, err := h.raw.Get(h.t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		must(h.t, err)
		for _, kv := range resp.Kvs {
			if id == "" || !strings.Contains(string(kv.Key), id) {
				left = append(left, string(kv.Key))
			}
		}
	}
	entries, _, _, err := h.store.List(h.t.Context(), model.KindBlock, nil)
	must(h.t, err)
	for _, e := range entries {
		for _, a := range e.Value.(*model.Block).Attributes {
			if a.Secondary[libipam.AttrEndpoint] != id || id == "" {
				left = append(left, fmt.Sprintf("address of %v", a.Secondary))
			}
		}
	}
	pairs, err := h.links.List()
	must(h.t, err)
	for name := range pairs {
		if id == "" || !strings.HasSuffix(name, id[:11]) {
			left = append(left, name)
		}
	}
	return left
}
