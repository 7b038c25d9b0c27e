package networks

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
)

// made is a user's network as the engine shows it.
func made(id string) dockerapi.Network {
	return dockerapi.Network{
		ID: id, Name: "net1", Driver: "calico", Scope: "local",
		Options: map[string]string{"com.docker.network.driver.mtu": "1400"}, Labels: map[string]string{"owner": "x"},
		IPAM: dockerapi.IPAM{Driver: "calico-ipam", Config: []dockerapi.Subnet{{Subnet: "0.0.0.0/0", Gateway: "169.254.1.1"}}},
	}
}

// copied is a copy of the network with a UID.
func copied(id, uid string) dockerapi.Network {
	n := made(id)
	n.Labels = map[string]string{"owner": "x", CopyLabel: uid}
	return n
}

// other is a user's network of the same name that is another one.
func other(id string) dockerapi.Network {
	n := made(id)
	n.Options = map[string]string{"com.docker.network.driver.mtu": "9000"}
	return n
}

// stored is the record of [made].
func stored(uid string, ids map[string]string) *model.DockerNetwork {
	r := Record(made(""), "")
	r.UID, r.IDs = uid, ids
	return r
}

// removed is a record that was removed.
func removed(uid string, ids map[string]string) *model.DockerNetwork {
	r := stored(uid, ids)
	r.Removed = true
	return r
}

type ids = map[string]string

// now is when the tests take place; all marks of removals are old enough to go.
var now = time.Unix(2_000_000_000, 0)

var here = View{
	Node: "a", Spread: true, NewUID: func() string { return "new" }, Now: now,
	UserRemoved: func(id string) bool { return id == "1" },
}

func TestDecide(t *testing.T) {
	none := Local{}
	ours := func(list ...dockerapi.Network) Local { return Local{Ours: list} }
	lost := here
	lost.UserRemoved = func(string) bool { return false }
	alone := here
	alone.Spread = false
	otherRecord := func(uid string, ids ids) *model.DockerNetwork {
		r := Record(other(""), "")
		r.UID, r.IDs = uid, ids
		return r
	}
	troubled := func(r *model.DockerNetwork, why string) *model.DockerNetwork { return Troubled(r, "a", why) }
	justRemoved := removed("u", ids{})
	justRemoved.RemovedAt = now.Add(-time.Second)
	older := &model.DockerNetwork{IDs: ids{"a": "1"}, Scope: "local"}
	for _, tt := range []struct {
		name   string
		record *model.DockerNetwork
		local  Local
		view   View
		want   Step
	}{
		{"nothing anywhere", nil, none, here, Step{}},
		{"a user made one", nil, ours(made("1")), here, Step{Record: stored("new", ids{"a": "1"})}},
		{"etcd has lost the record of a copy", nil, ours(copied("1", "u")), here, Step{Record: stored("u", ids{"a": "1"})}},
		{"another host made one", stored("u", ids{"b": "2"}), none, here, Step{Record: stored("u", ids{"b": "2"}), Deed: Make}},
		{
			"another host keeps one for itself", stored("", ids{"b": "2"}), none, here,
			Step{Record: stored("", ids{"b": "2"})},
		},
		{
			"the name is taken by another driver", stored("u", ids{"b": "2"}),
			Local{Other: "bridge"},
			here,
			Step{Record: troubled(stored("u", ids{"b": "2"}), "there is another network of this name, of the driver bridge")},
		},
		{
			"a copy was made", stored("u", ids{"b": "2"}), ours(copied("1", "u")), here,
			Step{Record: stored("u", ids{"a": "1", "b": "2"})},
		},
		{
			"the same was made by hand on both", stored("u", ids{"b": "2"}), ours(made("1")), here,
			Step{Record: stored("u", ids{"a": "1", "b": "2"})},
		},
		{
			"another one was made by hand", stored("u", ids{"b": "2"}), ours(other("1")), here,
			Step{Record: troubled(stored("u", ids{"b": "2"}), "there is another network of this name: it differs in options")},
		},
		{
			"a trouble is over", troubled(stored("u", ids{"a": "1", "b": "2"}), "x"), ours(made("1")), here,
			Step{Record: stored("u", ids{"a": "1", "b": "2"})},
		},
		{"all is well", stored("u", ids{"a": "1", "b": "2"}), ours(copied("1", "u")), here, Step{Record: stored("u", ids{"a": "1", "b": "2"})}},
		{
			"the user removed it", stored("u", ids{"a": "1", "b": "2"}), none, here,
			Step{Record: stored("u", ids{"a": "1", "b": "2"}), Deed: Ask},
		},
		{
			"the user removed it and made it anew", stored("u", ids{"a": "1", "b": "2"}), ours(other("3")), here,
			Step{Record: stored("u", ids{"a": "1", "b": "2"}), Deed: Ask},
		},
		{
			"the engine has lost its data", stored("u", ids{"a": "1", "b": "2"}), none, lost,
			Step{Record: stored("u", ids{"b": "2"})},
		},
		{"the engine has lost the only one", stored("u", ids{"a": "1"}), none, lost, Step{Record: stored("u", ids{})}},
		{"made again where it was lost", stored("u", ids{}), none, here, Step{Record: stored("u", ids{}), Deed: Make}},
		{
			"removed elsewhere", removed("u", ids{"a": "1", "b": "2"}), ours(copied("1", "u")), here,
			Step{Record: removed("u", ids{"a": "1", "b": "2"}), Deed: Remove, ID: "1"},
		},
		{
			"removed elsewhere, made by hand here", removed("u", ids{"a": "1"}), ours(made("1")), here,
			Step{Record: removed("u", ids{"a": "1"}), Deed: Remove, ID: "1"},
		},
		{
			"removed elsewhere, copied and not noted yet", removed("u", ids{"b": "2"}), ours(copied("1", "u")), here,
			Step{Record: removed("u", ids{"a": "1", "b": "2"})},
		},
		{"removed elsewhere and here", removed("u", ids{"a": "1", "b": "2"}), none, here, Step{Record: removed("u", ids{"b": "2"})}},
		{
			"another one was made by hand, and noted by an older program", stored("u", ids{"a": "5", "b": "2"}), ours(other("5")), here,
			Step{Record: troubled(stored("u", ids{"b": "2"}), "there is another network of this name: it differs in options")},
		},
		{"the user removed the one that differed", troubled(stored("u", ids{"b": "2"}), "x"), none, here, Step{Record: troubled(stored("u", ids{"b": "2"}), "x"), Deed: Make}},
		{"removed from the last host", removed("u", ids{"a": "1"}), none, here, Step{Record: removed("u", ids{})}},
		{"removed everywhere long ago", removed("u", ids{}), none, here, Step{}},
		{"removed everywhere just now", justRemoved, none, here, Step{Record: justRemoved}},
		{"removed everywhere, and a copy is made late", justRemoved, ours(copied("4", "u")), here, Step{Record: func() *model.DockerNetwork {
			r := *justRemoved
			r.IDs = ids{"a": "4"}
			return &r
		}()}},
		{"removed, and this host never had it", removed("u", ids{"b": "2"}), none, here, Step{Record: removed("u", ids{"b": "2"})}},
		{
			"made anew while others still remove it", removed("u", ids{"b": "2"}), ours(other("3")), here,
			Step{Record: otherRecord("new", ids{"a": "3"})},
		},
		{
			"a copy of a former network", stored("v", ids{"b": "3"}), ours(copied("1", "u")), here,
			Step{Record: stored("v", ids{"b": "3"}), Deed: Remove, ID: "1"},
		},
		{
			"a copy beside the user's", stored("u", ids{"a": "1", "b": "2"}), ours(copied("4", "u"), made("1")), here,
			Step{Record: stored("u", ids{"a": "1", "b": "2"}), Deed: Remove, ID: "4"},
		},
		{"written by an older program", older, ours(made("1")), here, Step{Record: stored("new", ids{"a": "1"})}},
		{"not spread: a user made one", nil, ours(made("1")), alone, Step{Record: stored("", ids{"a": "1"})}},
		{"not spread: another host made one", stored("u", ids{"b": "2"}), none, alone, Step{Record: stored("u", ids{"b": "2"})}},
		{"not spread: removed by the user", stored("", ids{"a": "1"}), none, alone, Step{}},
		{"not spread: shared and removed", stored("", ids{"a": "1", "b": "1"}), none, alone, Step{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := cloneOf(tt.record)
			got := Decide(tt.record, tt.local, tt.view)
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(before, tt.record); diff != "" {
				t.Errorf("the given record was changed: %s", diff)
			}
		})
	}
}

// cloneOf copies a record.
func cloneOf(r *model.DockerNetwork) *model.DockerNetwork {
	if r == nil {
		return nil
	}
	c := *r
	c.IDs, c.Problems = maps.Clone(r.IDs), maps.Clone(r.Problems)
	return &c
}

func TestGone(t *testing.T) {
	marked := removed("u", ids{"b": "2"})
	marked.RemovedAt = now
	if diff := cmp.Diff(marked, Gone(stored("u", ids{"a": "1", "b": "2"}), "a", false, now)); diff != "" {
		t.Error(diff)
	}
	if got := Gone(stored("u", ids{"a": "1"}), "a", false, now); got == nil || !got.Removed || len(got.IDs) > 0 {
		t.Errorf("the last one leaves no mark: %+v", got)
	}
	if diff := cmp.Diff(stored("u", ids{"b": "2"}), Gone(stored("u", ids{"a": "1", "b": "2"}), "a", true, now)); diff != "" {
		t.Errorf("in use: %s", diff)
	}
}

func TestStillUsedBringsItBack(t *testing.T) {
	r := removed("u", ids{"a": "1", "b": "2"})
	if diff := cmp.Diff(stored("u", ids{"a": "1", "b": "2"}), StillUsed(r, "1", "a")); diff != "" {
		t.Error(diff)
	}
	got := StillUsed(stored("v", ids{"b": "2"}), "1", "a")
	if got.Removed || !strings.Contains(got.Problems["a"], "former network") {
		t.Errorf("a former one in use: %+v", got)
	}
	if StillUsed(nil, "1", "a") != nil {
		t.Error("a record was made up")
	}
}

func TestACopyIsWhatTheRecordSays(t *testing.T) {
	n := made("1")
	n.Internal, n.Attachable, n.EnableIPv6, n.EnableIPv4 = true, true, true, new(bool)
	n.IPAM.Options = map[string]string{"x": "y"}
	n.IPAM.Config = []dockerapi.Subnet{
		{Subnet: "192.168.0.0/16", IPRange: "192.168.4.0/24", Gateway: "169.254.1.1", AuxiliaryAddresses: map[string]string{"r": "192.168.4.1"}},
		{Subnet: "::/0", Gateway: "::"},
	}
	r := Record(n, "b")
	r.UID = "u"
	c := Copy("net1", r, "calico")
	want := dockerapi.NewNetwork{
		Name: "net1", CheckDuplicate: true, Driver: "calico", Internal: true, Attachable: true, EnableIPv6: true,
		EnableIPv4: new(bool), Options: n.Options, Labels: map[string]string{"owner": "x", CopyLabel: "u"},
		IPAM: dockerapi.IPAM{Driver: "calico-ipam", Options: map[string]string{"x": "y"}, Config: []dockerapi.Subnet{
			{Subnet: "192.168.0.0/16", IPRange: "192.168.4.0/24", AuxiliaryAddresses: map[string]string{"r": "192.168.4.1"}},
		}},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
	if len(n.Labels) != 1 {
		t.Errorf("labels of the engine's were changed: %v", n.Labels)
	}
}

func TestKeys(t *testing.T) {
	for _, name := range []string{"net1", "app_default", "a.b-c"} {
		if Key(name) != name {
			t.Errorf("%q became %q", name, Key(name))
		}
	}
	seen := make(map[string]string)
	for _, name := range []string{"my net", "my_net ", "my/net", "über", strings.Repeat("x", 200), strings.Repeat("x", 201)} {
		key := Key(name)
		if err := model.Validate(model.ProfileKey{Name: key}, &model.Profile{}); err != nil {
			t.Errorf("%q: %v", key, err)
		}
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q are both %q", name, other, key)
		}
		seen[key] = name
		r := Record(dockerapi.Network{Name: name}, "a")
		if Name(key, r) != name || Copy(key, r, "calico").Name != name {
			t.Errorf("%q is lost in its record: %+v", name, r)
		}
	}
}
