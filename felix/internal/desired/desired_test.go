package desired

import (
	"net/netip"
	"slices"
	"testing"

	"calico.internal/libcalico/model"
)

func TestParseProtocol(t *testing.T) {
	tests := []struct {
		in   model.Protocol
		want Protocol
		text string
		bad  bool
	}{
		{in: "", want: 0, text: "0"},
		{in: "tcp", want: TCP, text: "tcp"},
		{in: "udp", want: UDP, text: "udp"},
		{in: "icmp", want: ICMPv4, text: "icmp"},
		{in: "icmpv6", want: ICMPv6, text: "icmpv6"},
		{in: "sctp", want: SCTP, text: "sctp"},
		{in: "udplite", want: UDPLite, text: "udplite"},
		{in: "6", want: TCP, text: "tcp"},
		{in: "4", want: IPIP, text: "4"},
		{in: "255", want: 255, text: "255"},
		{in: "0", bad: true},
		{in: "256", bad: true},
		{in: "ipx", bad: true},
	}
	for _, tt := range tests {
		t.Run(string(tt.in), func(t *testing.T) {
			got, err := ParseProtocol(tt.in)
			if (err != nil) != tt.bad || got != tt.want {
				t.Errorf("got %d, %v, want %d (bad: %v)", got, err, tt.want, tt.bad)
			}
			if !tt.bad && got.String() != tt.text {
				t.Errorf("shown as %q, want %q", got, tt.text)
			}
		})
	}
}

func TestHasPorts(t *testing.T) {
	for p, want := range map[Protocol]bool{TCP: true, UDP: true, SCTP: true, UDPLite: true, ICMPv4: false, ICMPv6: false, IPIP: false, 0: false, 89: false} {
		if got := p.HasPorts(); got != want {
			t.Errorf("%s: has ports = %v, want %v", p, got, want)
		}
	}
}

func TestMembersAreOrderedAndShown(t *testing.T) {
	net := netip.MustParsePrefix
	list := []Member{
		{Net: net("fd00::1/128")},
		{Net: net("10.0.0.2/32"), Protocol: TCP, Port: 443},
		{Net: net("10.0.0.2/32"), Protocol: TCP, Port: 80},
		{Net: net("10.0.0.0/8")},
		{Net: net("10.0.0.2/32"), Protocol: UDP, Port: 53},
		{Net: net("10.0.0.1/32")},
	}
	slices.SortFunc(list, Member.Compare)
	var got []string
	for _, m := range list {
		got = append(got, m.String())
	}
	want := []string{"10.0.0.0/8", "10.0.0.1", "10.0.0.2,tcp:80", "10.0.0.2,tcp:443", "10.0.0.2,udp:53", "fd00::1"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOriginsAreShown(t *testing.T) {
	tests := []struct {
		o    Origin
		want string
	}{
		{Origin{Owner: model.PolicyKey{Tier: "default", Name: "web"}, Index: 2}, "policy default/web ingress 2"},
		{Origin{Owner: model.ProfileKey{Name: "net1"}, Direction: Egress}, "profile net1 egress 0"},
	}
	for _, tt := range tests {
		if got := tt.o.String(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestPoliciesAndRulesByDirection(t *testing.T) {
	in, out := model.PolicyKey{Name: "in"}, model.PolicyKey{Name: "out"}
	tier := Tier{Ingress: []model.PolicyKey{in}, Egress: []model.PolicyKey{out}}
	if got := tier.Policies(Ingress); !slices.Equal(got, tier.Ingress) {
		t.Errorf("ingress: %v", got)
	}
	if got := tier.Policies(Egress); !slices.Equal(got, tier.Egress) {
		t.Errorf("egress: %v", got)
	}
	p := Policy{Ingress: []Rule{{Action: Allow}}, Egress: []Rule{{Action: Log}}}
	if got := p.Rules(Ingress)[0].Action; got != Allow {
		t.Errorf("ingress: %v", got)
	}
	if got := p.Rules(Egress)[0].Action; got != Log {
		t.Errorf("egress: %v", got)
	}
}

func TestChangesAreEmptyUntilSomethingIsInThem(t *testing.T) {
	if c := (Changes{}); !c.IsEmpty() {
		t.Error("no changes are not empty")
	}
	for _, c := range []Changes{
		{SetsAdded: make([]IPSet, 1)},
		{SetsChanged: make([]SetDelta, 1)},
		{Policies: make([]*Policy, 1)},
		{Profiles: make([]*Profile, 1)},
		{Endpoints: make([]*Endpoint, 1)},
		{EndpointsDeleted: make([]model.Key, 1)},
		{ProfilesDeleted: make([]string, 1)},
		{PoliciesDeleted: make([]model.PolicyKey, 1)},
		{SetsDeleted: make([]IPSet, 1)},
	} {
		if c.IsEmpty() {
			t.Errorf("%+v is empty", c)
		}
	}
}
