package calicoctl_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/calicoctl/internal/command"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// TestALostAnswerIsMendedByTheSameCommand loses each write of commands in turn, in each
// way: whoever reads the error and runs the command again has what one run without
// trouble would have made, and nothing is locked or half done after that.
func TestALostAnswerIsMendedByTheSameCommand(t *testing.T) {
	r := newLosing(t)
	policies, wanted := r.policies(250), r.backup()
	for name, args := range map[string][]string{
		"apply of more than fits into a transaction": {"apply", "-f", policies},
		"create":                {"create", "-f", r.file("policy.yaml", onePolicy)},
		"replace":               {"replace", "-f", r.file("profile.yaml", oneProfile)},
		"patch":                 {"patch", "profile", "web", "-p", `{"metadata":{"tags":["x"]}}`},
		"delete of an endpoint": {"delete", "workloadEndpoint", "ep1", "--node=node01", "--orchestrator=libnetwork", "--workload=libnetwork", "--force"},
		"delete of a node":      {"delete", "node", "node01", "--force"},
		"delete of a pool":      {"delete", "ipPool", "192.168.0.0/16", "--force"},
		"release":               {"ipam", "release", "--ip=192.168.1.9"},
		"ipam configure":        {"ipam", "configure", "--strictaffinity=true"},
		"ipam split":            {"ipam", "split", "2", "--cidr=10.0.0.0/24"},
		"ipam check --fix":      {"ipam", "check", "--fix", "--grace=1ms"},
		"config":                {"config", "set", "asNumber", "64999"},
		"import":                {"datastore", "import", "-f", wanted, "--overwrite"},
	} {
		t.Run(name, func(t *testing.T) {
			r.fill(t)
			r.proxy.Lose(0, etcdtest.AnswerCut)
			_, errs := r.run(args...)
			want, writes := r.dump(t), r.proxy.Writes()
			if writes == 0 {
				t.Fatalf("%v writes nothing: %s", args, errs)
			}
			for n := 1; n <= writes; n++ {
				for _, how := range []etcdtest.Loss{etcdtest.AnswerCut, etcdtest.RequestCut} {
					r.fill(t)
					r.proxy.Lose(n, how)
					status, first := r.run(args...)
					again := ""
					if status != 0 {
						_, again = r.run(args...)
					}
					if diff := cmp.Diff(want, r.dump(t)); diff != "" {
						t.Errorf("write %d of %d, %v; status %d: %s, then: %s\n%s", n, writes, how, status, first, again, diff)
					}
				}
			}
		})
	}
}

const onePolicy = `{apiVersion: v1, kind: policy, metadata: {name: one}, spec: {selector: all(), ingress: [{action: allow}]}}`

const oneProfile = `{apiVersion: v1, kind: profile, metadata: {name: web, tags: [a, b]}, spec: {ingress: [{action: deny}]}}`

// losing is a datastore with a proxy before it that loses writes.
type losing struct {
	*testing.T

	dir   string
	etcd  *etcdtest.Server
	proxy *etcdtest.Proxy
	store *etcdstore.Client
	raw   *clientv3.Client
}

func newLosing(t *testing.T) *losing {
	t.Helper()
	r := &losing{T: t, dir: t.TempDir(), etcd: etcdtest.Start(t)}
	r.proxy, r.raw = r.etcd.Proxy(t), r.etcd.Client(t)
	var err error
	if r.store, err = etcdstore.New(etcdstore.Config{Endpoints: r.etcd.Endpoints()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.store.Close() })
	return r
}

// run runs a command line through the proxy.
func (r *losing) run(args ...string) (status int, stderr string) {
	r.Helper()
	var out, errs bytes.Buffer
	vars := map[string]string{"ETCD_ENDPOINTS": r.proxy.Endpoint(), "NODENAME": "node01", "DOCKER_HOST": "unix:///nowhere/docker.sock"}
	env := &command.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: func(name string) string { return vars[name] }}
	status = command.Run(context.Background(), env, args)
	return status, out.String() + errs.String()
}

func (r *losing) file(name, text string) string {
	r.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
	return path
}

func (r *losing) policies(n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "---\n{apiVersion: v1, kind: policy, metadata: {name: p%d}, spec: {selector: all()}}\n", i)
	}
	return r.file("policies.yaml", text.String())
}

// backup is an export of a datastore of before, in which the profile differs.
func (r *losing) backup() string {
	r.Helper()
	r.fill(r.T)
	path := filepath.Join(r.dir, "backup.json")
	for _, args := range [][]string{
		{"replace", "-f", r.file("before.yaml", oneProfile)},
		{"create", "-f", r.file("before2.yaml", onePolicy)},
		{"datastore", "export", "-f", path},
	} {
		if status, out := r.run(args...); status != 0 {
			r.Fatalf("%v: %s", args, out)
		}
	}
	return path
}

// fill makes the datastore what every run starts from: a node with an endpoint, an address
// of nobody known, and a handle that counts wrong.
func (r *losing) fill(t *testing.T) {
	t.Helper()
	r.proxy.Lose(0, etcdtest.AnswerCut)
	r.etcd.Wipe(t)
	r.etcd.SetUp(t)
	id := "ep1"
	addr := netip.MustParseAddr("192.168.1.1")
	for key, value := range map[model.Key]model.Resource{
		model.NodeKey{Name: "node01"}: &model.Node{IPv4: netip.MustParseAddr("192.0.2.1")},
		model.ProfileKey{Name: "web"}: &model.Profile{Tags: []string{"web"}},
		pool("192.168.0.0/16"):        &model.IPPool{CIDR: netip.MustParsePrefix("192.168.0.0/16"), IPAM: true},
		pool("10.0.0.0/24"):           &model.IPPool{CIDR: netip.MustParsePrefix("10.0.0.0/24"), IPAM: true},
		model.WorkloadEndpointKey{Node: "node01", Orchestrator: "libnetwork", Workload: "libnetwork", Name: id}: &model.WorkloadEndpoint{
			State: "active", Interface: "cali" + id, IPv4Nets: []netip.Prefix{netip.PrefixFrom(addr, 32)},
		},
	} {
		if _, _, err := r.store.Apply(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	client := ipam.New(r.store, "node01")
	for _, held := range []struct {
		addr  netip.Addr
		owner ipam.Owner
	}{
		{addr, ipam.Owner{Handle: id, Attrs: map[string]string{ipam.AttrEndpoint: id}}},
		{netip.MustParseAddr("192.168.1.9"), ipam.Owner{Handle: "h9", Attrs: map[string]string{}}},
	} {
		held.owner.Attrs[ipam.AttrTimestamp] = "2026-01-01T00:00:00Z"
		if err := client.Assign(t.Context(), held.addr, held.owner); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.raw.Put(t.Context(), "/calico/ipam/v2/handle/h9", `{"id":"h9","block":{"192.168.1.0/26":5}}`); err != nil {
		t.Fatal(err)
	}
}

func pool(cidr string) model.Key { return model.IPPoolKey{CIDR: netip.MustParsePrefix(cidr)} }

// made is what differs between two runs of one command.
var made = regexp.MustCompile(`"(uid|creation_timestamp|creationTimestamp|timestamp|since)":"[^"]*",?`)

// dump is what the datastore holds.
func (r *losing) dump(t *testing.T) map[string]string {
	t.Helper()
	all, err := r.raw.Get(t.Context(), "/calico/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, kv := range all.Kvs {
		out[string(kv.Key)] = made.ReplaceAllString(string(kv.Value), "")
	}
	return out
}
