package endpoint

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/model"
)

const id = "4e5ed993aed9e7c89bd5514fa67a2a8346295238801974d77eac8b444ae2afb0"

func TestNewEndpointsAreValidAndDenyEverything(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("fd80::1")
	for _, ep := range []*model.WorkloadEndpoint{
		New(id, DefaultMAC, v4, netip.Addr{}), New(id, DefaultMAC, netip.Addr{}, v6), New(id, DefaultMAC, v4, v6),
	} {
		if err := model.Validate(Key("node00", id), ep); err != nil {
			t.Error(err)
		}
		if len(ep.Profiles) != 0 || ep.Interface != "cali4e5ed993aed" {
			t.Errorf("%+v", ep)
		}
	}
	got := Addresses(New(id, DefaultMAC, v4, v6))
	if len(got) != 2 || got[0] != v4 || got[1] != v6 {
		t.Errorf("addresses %v", got)
	}
}

func TestDefaultProfilesAreValid(t *testing.T) {
	for _, name := range []string{"net1", "my_net.2-x", "shop_default"} {
		if err := model.Validate(model.ProfileKey{Name: name}, DefaultProfile(name)); err != nil {
			t.Error(err)
		}
	}
}

func TestLabels(t *testing.T) {
	got := Labels(map[string]string{
		"org.projectcalico.label.role": "web", "org.projectcalico.label.a.b": "", "org.projectcalico.label.": "x", "role": "y",
	})
	if diff := cmp.Diff(map[string]string{"role": "web", "a.b": ""}, got); diff != "" {
		t.Error(diff)
	}
	ep := New(id, DefaultMAC, netip.MustParseAddr("192.168.0.1"), netip.Addr{})
	AddLabels(ep, nil)
	if ep.Labels != nil {
		t.Errorf("labels %v", ep.Labels)
	}
	AddLabels(ep, map[string]string{"role": "web", "zone": "a"})
	DefaultLabels(ep, map[string]string{"role": "db", "tier": "1"})
	AddLabels(ep, map[string]string{"zone": "b"})
	if diff := cmp.Diff(map[string]string{"role": "web", "zone": "b", "tier": "1"}, ep.Labels); diff != "" {
		t.Error(diff)
	}
}

func TestAnnotationsNameTheContainer(t *testing.T) {
	ep := New(id, DefaultMAC, netip.MustParseAddr("192.168.0.1"), netip.Addr{})
	before := Clone(ep)
	Annotate(ep, Network, "")
	if !Equal(before, ep) {
		t.Error("removing what is not there changed something")
	}
	AnnotateContainer(ep, "c1", "web", map[string]string{"com.docker.compose.project": "shop"})
	clone := Clone(ep)
	want := map[string]string{ContainerID: "c1", ContainerName: "web", ComposeProject: "shop"}
	if diff := cmp.Diff(want, ep.Annotations); diff != "" {
		t.Error(diff)
	}
	Annotate(ep, ContainerName, "")
	if _, has := ep.Annotations[ContainerName]; has || clone.Annotations[ContainerName] != "web" {
		t.Errorf("annotations %v, the copy's %v", ep.Annotations, clone.Annotations)
	}
	if err := model.Validate(Key("node00", id), clone); err != nil {
		t.Error(err)
	}
}

func TestGateways(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("fd80::1")
	for n, want := range map[int][2]string{1: {"169.254.1.1", "fe80::a9fe:101"}, 2: {"169.254.1.2", "fe80::a9fe:102"}, 254: {"169.254.1.254", "fe80::a9fe:1fe"}} {
		if got := [2]string{Gateway(n).String(), GatewayIPv6(n).String()}; got != want {
			t.Errorf("%d: %v, want %v", n, got, want)
		}
		for _, ep := range []*model.WorkloadEndpoint{
			New(id, DefaultMAC, v4, netip.Addr{}), New(id, DefaultMAC, netip.Addr{}, v6), New(id, DefaultMAC, v4, v6),
		} {
			SetGateway(ep, n)
			if got := GatewayOf(ep); got != n {
				t.Errorf("number %d became %d", n, got)
			}
			if n == 1 && (ep.IPv4Gateway.IsValid() || ep.IPv6Gateway.IsValid()) {
				t.Error("the first network's gateway is noted")
			}
			if err := model.Validate(Key("node00", id), ep); err != nil {
				t.Error(err)
			}
			SetGateway(ep, 1)
			if got := GatewayOf(ep); got != 1 {
				t.Errorf("number %d after it became the first", got)
			}
		}
	}
}
