package calc

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/store"
)

const nothingButPools = "set all-ipam-pools:\nset masq-ipam-pools:"

// TestEveryOrderEndsInOneState writes a few values in every order there is. A line that is
// the second one of its path comes behind the first, so that all orders have one end. All
// is deleted in the same order afterwards, and nothing must be remembered of it.
func TestEveryOrderEndsInOneState(t *testing.T) {
	for _, c := range []struct{ name, lines, want string }{
		{"a label is revoked", `
put /calico/v1/host/here/workload/o/w/endpoint/a {"state":"active","name":"cali1","profile_ids":["p","r"],"ipv4_nets":["10.0.0.1/32"],"ipv6_nets":["fd00::1/128"]}
put /calico/v1/policy/profile/p/labels {"role":"web"}
put /calico/v1/policy/profile/r/labels {"role":"db","site":"x"}
put /calico/v1/policy/profile/p/labels {}
put /calico/v1/policy/tier/default/policy/q {"selector":"role == 'web' || role == 'db'","inbound_rules":[{"action":"allow","src_selector":"role == 'web'","!src_selector":"role == 'db'"}],"outbound_rules":[],"types":["ingress"]}`, `
set {role == "db"}: 10.0.0.1 fd00::1
set {role == "web"}:
policy default/q
  ingress allow from sets [{role == "web"}] from not sets [{role == "db"}]
profile p
profile r
workloadEndpoint(node=here, orchestrator=o, workload=w, name=a) interface "cali1" 10.0.0.1/32 fd00::1/128
  tier default ingress q
  profiles p r`},
		{"a tag is revoked, and a label of that name stays", `
put /calico/v1/host/there/workload/o/w/endpoint/b {"state":"active","name":"cali1","profile_ids":["p"],"ipv4_nets":["10.0.0.2/32"],"ipv6_nets":["fd00::2/128"]}
put /calico/v1/host/there/workload/o/w/endpoint/c {"state":"active","name":"cali2","profile_ids":["p"],"ipv4_nets":[],"ipv6_nets":["fd00::3/128"],"labels":{"t":"own"}}
put /calico/v1/policy/profile/p/tags ["t","u"]
put /calico/v1/policy/profile/p/tags ["u"]
put /calico/v1/policy/profile/s/rules {"inbound_rules":[{"action":"deny","src_tag":"t"},{"action":"allow","!src_tag":"u"}],"outbound_rules":[]}
put /calico/v1/host/here/workload/o/w/endpoint/a {"state":"active","name":"cali1","profile_ids":["s"],"ipv4_nets":["10.0.0.1/32"]}`, `
set {has(t)}: fd00::3
set {has(u)}: 10.0.0.2 fd00::2 fd00::3
profile s
  ingress deny from sets [{has(t)}]
  ingress allow from not sets [{has(u)}]
workloadEndpoint(node=here, orchestrator=o, workload=w, name=a) interface "cali1" 10.0.0.1/32
  profiles s`},
		{"a named port, wanted and not wanted", `
put /calico/v1/host/here/workload/o/w/endpoint/a {"state":"active","name":"cali1","profile_ids":[],"ipv4_nets":["10.0.0.1/32"],"ipv6_nets":["fd00::1/128"],"ports":[{"name":"dns","protocol":"udp","port":53},{"name":"dns","protocol":"tcp","port":5353}]}
put /calico/v1/host/there/endpoint/h {"name":"eth0","expected_ipv4_addrs":["10.0.0.9"],"expected_ipv6_addrs":["fd00::9"],"ports":[{"name":"dns","protocol":"udp","port":54}]}
put /calico/v1/host/there/endpoint/h {"name":"eth0","expected_ipv6_addrs":["fd00::9"],"ports":[{"name":"dns","protocol":"udp","port":55}]}
put /calico/v1/policy/tier/default/policy/q {"selector":"all()","inbound_rules":[{"action":"allow","protocol":"udp","dst_ports":["dns"]}],"outbound_rules":[{"action":"deny","protocol":"tcp","!dst_ports":["dns",80]}]}`, `
set n:tcp:dns: 10.0.0.1,tcp:5353 fd00::1,tcp:5353
set n:udp:dns: 10.0.0.1,udp:53 fd00::1,udp:53 fd00::9,udp:55
policy default/q
  ingress allow udp to named ports [n:udp:dns]
  egress deny tcp to not ports [80] to not named ports [n:tcp:dns]
workloadEndpoint(node=here, orchestrator=o, workload=w, name=a) interface "cali1" 10.0.0.1/32 fd00::1/128
  tier default ingress q egress q`},
		{"tiers of one order, with policies of one direction each", `
put /calico/v1/host/here/workload/o/w/endpoint/a {"state":"active","name":"cali1","profile_ids":[]}
put /calico/v1/policy/tier/b/metadata {"order":3,"default_action":"Pass"}
put /calico/v1/policy/tier/a/metadata {"order":3}
put /calico/v1/policy/tier/b/policy/x {"order":1,"selector":"!has(no)","types":["ingress"],"inbound_rules":[],"outbound_rules":[{"action":"allow"}]}
put /calico/v1/policy/tier/a/policy/z {"selector":"all()","types":["egress"],"inbound_rules":[],"outbound_rules":[]}`, `
policy a/z
policy b/x
workloadEndpoint(node=here, orchestrator=o, workload=w, name=a) interface "cali1"
  tier a egress z
  tier b (passes) ingress x`},
		{"a policy of a host endpoint changes its stage", `
put /calico/v1/host/here/endpoint/h {"name":"eth0","labels":{"host":"yes"},"expected_ipv6_addrs":["fd00::9"]}
put /calico/v1/policy/tier/default/policy/a {"selector":"has(host)","untracked":true,"apply_on_forward":true,"inbound_rules":[],"outbound_rules":[]}
put /calico/v1/policy/tier/default/policy/a {"selector":"has(host)","pre_dnat":true,"apply_on_forward":true,"inbound_rules":[],"outbound_rules":[]}
put /calico/v1/policy/tier/default/policy/b {"selector":"has(host)","apply_on_forward":true,"inbound_rules":[],"outbound_rules":[]}
put /calico/v1/policy/tier/default/policy/b {"selector":"has(host)","inbound_rules":[],"outbound_rules":[]}
put /calico/v1/policy/tier/default/policy/default%2Fn {"selector":"has(host)","inbound_rules":[],"outbound_rules":[]}`, `
policy default/a preDNAT
policy default/b
hostEndpoint(node=here, name=h) interface "eth0" expects fd00::9
  tier default ingress b egress b
  preDNAT tier default ingress a`},
		{"three want one address", `
put /calico/v1/host/here/workload/o/w/endpoint/c {"state":"inactive","name":"cali3","profile_ids":[],"ipv6_nets":["fd00::1/128"]}
put /calico/v1/host/here/workload/o/w/endpoint/a {"state":"active","name":"cali1","profile_ids":[],"ipv6_nets":["fd00::1/128"],"ipv6_nat":[{"int_ip":"fd00::1","ext_ip":"2001:db8::1"}]}
put /calico/v1/host/here/workload/o/w/endpoint/b {"state":"active","name":"cali2","profile_ids":[],"ipv6_nets":["fd00::1/128"]}
put /calico/v1/host/here/workload/o/w/endpoint/d {"state":"active","name":"eth9","profile_ids":[],"ipv6_nets":["fd00::1/128"]}
put /calico/v1/host/here/workload/o/w/endpoint/c {"state":"inactive","name":"cali3","profile_ids":[],"ipv6_nets":["fd00::1/128","fd00::3/128"]}`, `
workloadEndpoint(node=here, orchestrator=o, workload=w, name=a) interface "cali1" 2001:db8::1/128
workloadEndpoint(node=here, orchestrator=o, workload=w, name=b) interface "cali2" fd00::1/128
workloadEndpoint(node=here, orchestrator=o, workload=w, name=c) interface "cali3" fd00::3/128 down`},
	} {
		t.Run(c.name, func(t *testing.T) {
			lines := strings.Split(strings.TrimSpace(c.lines), "\n")
			inEveryOrder(lines, pathOf, func(order []int) {
				s := newScript(t)
				s.feed(store.Batch{Snapshot: true, Revision: 1})
				for _, i := range order {
					path, value := pathOf(lines[i]), lines[i][len("put ")+len(pathOf(lines[i]))+1:]
					s.feed(store.Batch{Revision: int64(i + 2), Puts: []store.KV{{Path: path, Value: []byte(value), ModRevision: int64(i + 2)}}})
				}
				// Sets are in the order of their ids, which nobody can read.
				if diff := cmp.Diff(sortedLines(nothingButPools+c.want), sortedLines(s.readable(s.mirror.String()))); diff != "" {
					t.Fatalf("order %v (-want +got):\n%s", order, diff)
				}
				gone := map[string]bool{}
				for _, i := range order {
					if path := pathOf(lines[i]); !gone[path] {
						gone[path] = true
						s.feed(store.Batch{Revision: 100, Deletes: []string{path}})
					}
				}
				checkForgotten(t, s)
			})
		})
	}
}

func pathOf(line string) string { return strings.Fields(line)[1] }

func sortedLines(text string) string {
	return strings.Join(slices.Sorted(strings.SplitSeq(strings.TrimSpace(text), "\n")), "\n")
}

// inEveryOrder calls f with every order of the lines in which those of one path are as they
// stand.
func inEveryOrder(lines []string, path func(string) string, f func([]int)) {
	var order []int
	var next func()
	next = func() {
		if len(order) == len(lines) {
			f(order)
			return
		}
		for i, line := range lines {
			waits := slices.Contains(order, i)
			for j := range i {
				waits = waits || path(lines[j]) == path(line) && !slices.Contains(order, j)
			}
			if !waits {
				order = append(order, i)
				next()
				order = order[:len(order)-1]
			}
		}
	}
	next()
}

// checkForgotten checks of an engine whose store is empty that it gives out nothing and
// remembers nothing.
func checkForgotten(t *testing.T, s *script) {
	t.Helper()
	if got := strings.TrimSpace(s.mirror.String()); got != nothingButPools {
		t.Fatalf("all is deleted, and left is\n%s", s.readable(got))
	}
	e := s.engine
	sizes := map[string]int{
		"endpoints": len(e.endpoints), "policies": len(e.policies), "profiles": len(e.profiles), "tiers": len(e.tiers),
		"pools": len(e.pools), "interfaces": len(e.interfaces), "nets": len(e.nets), "unlabelled": len(e.unlabelled),
		"unusable": len(e.unusable), "rejected": len(e.rejected), "doubtful": len(e.doubtful),
		"sets": len(e.sets.all) - 2, "ports": len(e.sets.ports), "touched": len(e.sets.touched),
		"dirty": len(e.dirtyEndpoints) + len(e.dirtyPolicies) + len(e.dirtyProfiles),
	}
	for name, x := range map[string]*index{"local": e.local, "global": e.sets.index} {
		sizes[name+" items"], sizes[name+" selectors"] = len(x.items), len(x.subs)+len(x.subsAny)
		sizes[name+" labels"] = len(x.itemsBy) + len(x.parentsBy) + len(x.subsBy) + len(x.looked)
		sizes[name+" parents"] = len(x.parents)
	}
	for name, n := range sizes {
		if n != 0 {
			t.Errorf("all is deleted, and %d %s are left", n, name)
		}
	}
}

// version is one value of a path; bad says that it cannot be used.
type version struct {
	value string
	bad   bool
}

// kinds are values of each kind that policy reads. Paths in one list make up one object.
// The objects want nothing that only one can have, since who gets that depends on when
// the last version was written.
var kinds = [][]struct {
	path     string
	versions []version
}{
	{{"host/here/workload/o/w/endpoint/a", []version{
		{`{"state":"active","name":"cali1","profile_ids":["p"],"ipv4_nets":["10.0.0.1/32"],"ipv6_nets":["fd00::1/128"],"labels":{"role":"web"}}`, false},
		{`{"state":"active","name":"cali1","profile_ids":[],"ipv6_nets":["fd00::1/128"],"labels":{"role":"db"},"ports":[{"name":"http","protocol":"tcp","port":80}]}`, false},
		{`{"state":"sleeping","name":"cali1","ipv4_nets":["10.0.0.1/32"],"labels":{"role":"db"}}`, true},
		{`{`, true},
	}}},
	{{"host/there/workload/o/w/endpoint/b", []version{
		{`{"state":"active","name":"cali1","profile_ids":["p"],"ipv4_nets":["10.0.0.2/32"],"labels":{"role":"web"},"ports":[{"name":"http","protocol":"tcp","port":81}]}`, false},
		{`{"state":"active","name":"cali1","profile_ids":["p"],"ipv6_nets":["fd00::2/128"]}`, false},
		{`{"state":"active","name":"cali1","ipv4_nets":["here"],"labels":{"role":"db"}}`, true},
		{`7`, true},
	}}},
	{{"host/here/endpoint/eth0", []version{
		{`{"name":"eth0","labels":{"role":"web"},"expected_ipv6_addrs":["fd00::9"]}`, false},
		{`{"name":"eth0","profile_ids":["p"]}`, false},
		{`{"name":"eth0","labels":7}`, true},
		{`{"name":7,"labels":{"role":"web"}}`, true},
		{`garbage`, true},
	}}},
	{{"netset/n", []version{
		{`{"nets":["203.0.113.0/24","2001:db8::/32"],"labels":{"role":"web"}}`, false},
		{`{"nets":["2001:db8::/48"],"labels":{"role":"db"}}`, false},
		{`{"nets":["everywhere"],"labels":{"role":"db"}}`, true},
		{`{"nets":[],"labels":5}`, true},
	}}},
	{
		{"policy/profile/p/rules", []version{
			{`{"inbound_rules":[{"action":"allow","src_tag":"t"}],"outbound_rules":[]}`, false},
			{`{"inbound_rules":[{"action":"deny","!src_selector":"role == 'db'"}],"outbound_rules":[]}`, false},
			{`{"inbound_rules":[{"action":"open"}]}`, true},
		}},
		{"policy/profile/p/tags", []version{{`["t"]`, false}, {`["u"]`, false}, {`"t"`, true}}},
		{"policy/profile/p/labels", []version{{`{"role":"db"}`, false}, {`{}`, false}, {`["role"]`, true}}},
	},
	{{"policy/tier/guard/metadata", []version{
		{`{"order":5}`, false}, {`{"order":2000000,"default_action":"Pass"}`, false}, {`{"order":6,"default_action":"Perhaps"}`, true}, {`{"order":"one"}`, true},
	}}},
	{{"policy/tier/guard/policy/q", []version{
		{`{"order":1,"selector":"role == 'web'","inbound_rules":[{"action":"allow","!src_selector":"role == 'db'"}],"outbound_rules":[]}`, false},
		{`{"selector":"!(role == 'web')","apply_on_forward":true,"inbound_rules":[{"action":"deny","src_selector":"has(t)"}],"outbound_rules":[]}`, false},
		{`{"selector":"has(role)","untracked":true,"apply_on_forward":true,"inbound_rules":[],"outbound_rules":[]}`, false},
		{`{"selector":"all()","inbound_rules":[{"action":"allow","src_net":"here"}]}`, true},
		{`{"selector":5}`, true},
	}}},
	{{"policy/tier/default/policy/q", []version{
		{`{"order":1,"selector":"all()","inbound_rules":[{"action":"deny","protocol":"tcp","!dst_ports":["http"]}],"outbound_rules":[],"types":["ingress"]}`, false},
		{`{"selector":"has(t) || role == 'db'","pre_dnat":true,"apply_on_forward":true,"inbound_rules":[],"outbound_rules":[]}`, false},
		{`{"order":"x","selector":"role == 'web'","inbound_rules":[],"outbound_rules":[]}`, true},
		{`[]`, true},
	}}},
	{{"ipam/v6/pool/fd00::-64", []version{
		{`{"cidr":"fd00::/64","masquerade":true,"ipam":true}`, false},
		{`{"cidr":"fd00::/64","ipam":true}`, false},
		{`{"cidr":"fd00::/64","masquerade":"yes"}`, true},
		{`{"cidr":"fd00::/64","masquerade":true,"block_size":"x"}`, true},
	}}},
}

// object is what the store holds of an object, and its last version that could be used, by
// path.
type object struct{ now, good map[string]version }

// write changes one path of an object; a deleted one has no value.
func (o *object) write(path string, v version) {
	if v.value == "" {
		delete(o.now, path)
	} else {
		o.now[path] = v
	}
	switch {
	case len(o.now) == 0:
		o.good = nil
	case !slices.ContainsFunc(slices.Collect(maps.Values(o.now)), func(v version) bool { return v.bad }):
		o.good = maps.Clone(o.now)
	}
}

// TestTheLastUsableVersionIsInForceWhateverCameBefore compares an engine that lived through
// a random history, in which values of each kind turn unusable and are mended, deleted and
// written anew, by watch or by snapshot, with one that starts with what ought to be in force:
// of each object its last usable version, or, when it never had one, what is stored.
func TestTheLastUsableVersionIsInForceWhateverCameBefore(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 3))
			objects := make([]object, len(kinds))
			for i := range objects {
				objects[i].now = map[string]version{}
			}
			s := newScript(t)
			s.feed(store.Batch{Snapshot: true, Revision: 1})
			for rev := int64(2); rev < 80; rev++ {
				i := rnd.IntN(len(kinds))
				entry := kinds[i][rnd.IntN(len(kinds[i]))]
				var v version
				if rnd.IntN(6) > 0 {
					v = entry.versions[rnd.IntN(len(entry.versions))]
				}
				objects[i].write(entry.path, v)
				b := store.Batch{Revision: rev}
				switch {
				case rnd.IntN(8) == 0:
					b.Snapshot, b.Puts = true, stored(objects, func(o object) map[string]version { return o.now })
				case v.value == "":
					b.Deletes = []string{"/calico/v1/" + entry.path}
				default:
					b.Puts = []store.KV{{Path: "/calico/v1/" + entry.path, Value: []byte(v.value), ModRevision: rev}}
				}
				s.feed(b)
				if rnd.IntN(4) > 0 {
					continue
				}
				fresh := newScript(t)
				fresh.feed(store.Batch{Snapshot: true, Revision: 1, Puts: stored(objects, func(o object) map[string]version {
					if o.good != nil {
						return o.good
					}
					return o.now
				})})
				if diff := cmp.Diff(fresh.readable(fresh.mirror.String()), fresh.readable(s.readable(s.mirror.String()))); diff != "" {
					t.Fatalf("revision %d, %s becomes %s (-fresh +here):\n%s", rev, entry.path, v.value, diff)
				}
			}
			s.feed(store.Batch{Snapshot: true, Revision: 100})
			checkForgotten(t, s)
		})
	}
}

// stored is a snapshot of a version of each object.
func stored(objects []object, of func(object) map[string]version) []store.KV {
	var list []store.KV
	for _, o := range objects {
		for path, v := range of(o) {
			list = append(list, store.KV{Path: "/calico/v1/" + path, Value: []byte(v.value), ModRevision: 1})
		}
	}
	slices.SortFunc(list, func(a, b store.KV) int { return strings.Compare(a.Path, b.Path) })
	return list
}
