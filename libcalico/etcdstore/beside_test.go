package etcdstore_test

import (
	"bufio"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

// metric is the value of one of a server's metrics.
func metric(tb testing.TB, s *etcdtest.Server, name string) int {
	tb.Helper()
	resp, err := http.Get(s.Endpoint() + "/metrics")
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				tb.Fatal(err)
			}
			return int(n)
		}
	}
	return 0
}

// crowd puts so many workload endpoints of a node, unread, and its host endpoint.
func crowd(tb testing.TB, raw *clientv3.Client, node string, endpoints int) {
	tb.Helper()
	value := strings.Repeat("x", 500)
	for at := range slices.Chunk(make([]struct{}, endpoints), 100) {
		var ops []clientv3.Op
		for i := range at {
			k := model.WorkloadEndpointKey{Node: node, Orchestrator: "o", Workload: "w", Name: fmt.Sprintf("%d-%d", len(ops), i)}
			ops = append(ops, clientv3.OpPut(model.Paths(k)[0], value))
		}
		txn(tb, raw, ops...)
	}
	put(tb, raw, model.Paths(model.HostEndpointKey{Node: node, Name: "eth0"})[0], `{"name":"eth0"}`)
}

func sent(tb testing.TB, s *etcdtest.Server) int {
	tb.Helper()
	return metric(tb, s, "etcd_network_client_grpc_sent_bytes_total")
}

// What stands among the workload endpoints of all nodes is listed without reading these, be
// their nodes registered or not, and all of it is found.
func TestListBesideWorkloads(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c, raw, ctx := newClient(t, s), s.Client(t), ctxOf(t)
	var names []string
	for i := range 150 { // more than are read at a time
		name := fmt.Sprint("n", i)
		if i%3 == 0 {
			name += "-x" // sorts before the slash
		}
		names = append(names, name)
		if i%50 != 7 { // some that are not registered
			must[int64](t)(c.Create(ctx, model.NodeKey{Name: name}, &model.Node{IPv4: addr(fmt.Sprint("10.0.0.", i))}))
		}
		crowd(t, raw, name, 40)
	}
	// A node with more beside its endpoints than is read at a time.
	var ops []clientv3.Op
	for i := range 100 {
		ops = append(ops, clientv3.OpPut(model.Paths(model.FelixConfigKey{Node: "n1", Name: fmt.Sprint("P", i)})[0], "v"))
	}
	txn(t, raw, ops...)
	before := sent(t, s)
	nodes, _, bad, err := c.List(ctx, model.KindNode, nil)
	if err != nil || len(nodes) != 147 || len(bad) > 0 {
		t.Errorf("%d nodes, %d bad, %v", len(nodes), len(bad), err)
	}
	endpoints, _, _, err := c.List(ctx, model.KindHostEndpoint, nil)
	if err != nil || len(endpoints) != len(names) {
		t.Errorf("%d host endpoints, %v", len(endpoints), err)
	}
	configs, ok, err := c.Keys(ctx, model.KindFelixConfig, model.Scope{}, 0)
	if err != nil || !ok || len(configs) != 100 {
		t.Errorf("%d felix settings, %v", len(configs), err)
	}
	// All 6,000 workload endpoints are 4 MB; of the three nodes that are not registered, some
	// are read.
	if n := sent(t, s) - before; n > 500_000 {
		t.Errorf("etcd sent %d bytes", n)
	}
	if _, _, bad, err := c.List(ctx, model.KindWorkloadEndpoint, nil); err != nil || len(bad) != 6000 {
		t.Errorf("%d workload endpoints, %v", len(bad), err)
	}
}

// Keys are listed without their values, and not at all when there are too many.
func TestKeys(t *testing.T) {
	s := etcdtest.Shared(t)
	c, ctx := newClient(t, s), ctxOf(t)
	for i := range 5 {
		must[int64](t)(c.Create(ctx, policyKey(i), policy("all()")))
	}
	for most, want := range map[int]int{0: 5, 5: 5, 4: 0} {
		keys, ok, err := c.Keys(ctx, model.KindPolicy, model.Scope{}, most)
		if err != nil || len(keys) != want || ok != (want > 0) {
			t.Errorf("at most %d: %v, %t, %v", most, keys, ok, err)
		}
	}
	if _, _, err := c.Keys(ctx, "unknown", model.Scope{}, 0); err == nil {
		t.Error("an unknown kind has keys")
	}
}

// Resources are read by their keys in as many transactions as it takes, those that are not
// usable apart and those that do not exist not at all.
func TestGetAll(t *testing.T) {
	s := etcdtest.Shared(t)
	c, raw, ctx := newClient(t, s), s.Client(t), ctxOf(t)
	var keys []model.Key
	for i := range 2 * etcdstore.MaxTxnOps {
		keys = append(keys, model.ProfileKey{Name: fmt.Sprintf("p%03d", i)})
		if i%2 == 0 {
			must[int64](t)(c.Create(ctx, keys[i], &model.Profile{Tags: []string{"t"}}))
		}
	}
	rev := put(t, raw, model.Paths(keys[1])[0], "{")
	entries, bad, err := c.GetAll(ctx, keys)
	if err != nil || len(entries) != etcdstore.MaxTxnOps || len(bad) != 1 || bad[0].Key != keys[1] || bad[0].Revision != rev {
		t.Errorf("%d entries, bad %+v, %v", len(entries), bad, err)
	}
}

// Branches are found without what is below them, whatever sorts between.
func TestBranches(t *testing.T) {
	s := etcdtest.Shared(t)
	c, raw := newClient(t, s), s.Client(t)
	for _, tier := range []string{"a", "a-b", "a0", "b"} {
		for i := range 3 {
			put(t, raw, fmt.Sprintf("/calico/t/%s/policy/%d", tier, i), "")
		}
	}
	put(t, raw, "/calico/t/leaf", "", "/calico/t/leaf!/x", "", "/calico/u/c/x", "")
	got, err := c.Branches(ctxOf(t), "/calico/t/")
	if want := []string{"a-b", "a", "a0", "b", "leaf!"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}
