package v1

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

var meta = model.Meta{
	V3Name: "v3", UID: "u", CreationTimestamp: time.Unix(1, 0), V3Labels: map[string]string{"a": "b"},
}

// beyond is resources with all that the dialect cannot say, by kind.
var beyond = map[model.Kind]struct {
	key   model.Key
	value model.Resource
	lost  []string
}{
	model.KindBGPPeer: {
		model.BGPPeerKey{IP: netip.MustParseAddr("192.0.2.1")},
		&model.BGPPeer{Meta: meta, IP: netip.MustParseAddr("192.0.2.1"), ASNumber: 1, Password: "p", Port: 1790, Filters: []string{"f"}},
		[]string{"password", "port", "filters"},
	},
	model.KindHostEndpoint: {
		model.HostEndpointKey{Node: "n", Name: "a"},
		&model.HostEndpoint{Meta: meta, Interface: "eth0", Ports: []model.EndpointPort{{Name: "a", Protocol: "tcp", Port: 1}}},
		[]string{"ports"},
	},
	model.KindIPPool: {
		model.IPPoolKey{CIDR: netip.MustParsePrefix("10.0.0.0/16")},
		&model.IPPool{
			Meta: meta, CIDR: netip.MustParsePrefix("10.0.0.0/16"), IPAM: true,
			BlockSize: 28, NodeSelector: "has(a)", VXLANMode: "always", DisableBGPExport: true, Manual: true,
		},
		[]string{"block size", "node selector", "VXLAN mode", "disableBGPExport", "assignment mode manual"},
	},
	model.KindNode: {
		model.NodeKey{Name: "n"},
		&model.Node{Meta: meta, RouteReflectorClusterID: "244.0.0.1", Labels: map[string]string{"a": "b"}},
		[]string{"route reflector cluster id", "labels"},
	},
	model.KindPolicy: {
		model.PolicyKey{Tier: model.DefaultTier, Name: "a"},
		&model.Policy{Meta: meta, ApplyOnForward: true, Types: []string{"ingress"}},
		[]string{"applyOnForward"},
	},
	model.KindProfile: {
		model.ProfileKey{Name: "a"},
		&model.Profile{Meta: meta},
		nil,
	},
	model.KindWorkloadEndpoint: {
		model.WorkloadEndpointKey{Node: "n", Orchestrator: "o", Workload: "w", Name: "a"},
		&model.WorkloadEndpoint{
			Meta: meta, State: "inactive", Interface: "cali0",
			Ports: []model.EndpointPort{{Name: "a", Protocol: "tcp", Port: 1}},
		},
		[]string{"state inactive", "ports"},
	},
}

// TestBeyondTheDialect checks that what the dialect cannot say of a resource is named
// when it is printed, and kept when what was printed replaces it.
func TestBeyondTheDialect(t *testing.T) {
	for _, kind := range Kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			old := beyond[kind.Model]
			doc, lost := kind.Encode(old.key, old.value)
			if diff := cmp.Diff(append(slices.Clone(old.lost), "metadata labels"), lost); diff != "" {
				t.Errorf("lost (-want +got):\n%s", diff)
			}
			key, next, faults := again(t, kind, doc)
			if len(faults) > 0 || key != old.key {
				t.Fatalf("read again as %v, faults %v", key, faults)
			}
			next, gone, err := kind.Carry(old.key, old.value, next)
			if err != nil || len(gone) > 0 {
				t.Fatalf("lost %v, error %v", gone, err)
			}
			options := []cmp.Option{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}
			if diff := cmp.Diff(old.value, next, options...); diff != "" {
				t.Errorf("replaced (-old +next):\n%s", diff)
			}
		})
	}
}

// TestRulesBeyondTheDialect checks what is named of rules.
func TestRulesBeyondTheDialect(t *testing.T) {
	var lost []string
	encodeRules("spec.ingress", []model.Rule{
		{Action: model.ActionAllow},
		{Action: model.ActionLog, LogPrefix: "x", Annotations: map[string]string{"a": "b"}},
		{Action: model.ActionAllow, Protocol: "tcp", Destination: model.Match{Ports: []model.Port{{Name: "http"}}}},
	}, &lost)
	want := []string{"spec.ingress[1] log prefix", "spec.ingress[1] annotations"}
	if diff := cmp.Diff(want, lost); diff != "" {
		t.Errorf("lost (-want +got):\n%s", diff)
	}
}

// TestPolicyTypes checks the directions of a policy that names none.
func TestPolicyTypes(t *testing.T) {
	rules := []model.Rule{{Action: model.ActionAllow}}
	for _, tc := range []struct {
		name   string
		policy model.Policy
		want   []string
	}{
		{"no rules", model.Policy{}, []string{"ingress"}},
		{"ingress rules", model.Policy{InboundRules: rules}, []string{"ingress"}},
		{"egress rules", model.Policy{OutboundRules: rules}, []string{"egress"}},
		{"both", model.Policy{InboundRules: rules, OutboundRules: rules}, []string{"ingress", "egress"}},
	} {
		if diff := cmp.Diff(tc.want, defaultTypes(&tc.policy)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

// again writes a document as JSON and reads it.
func again(t *testing.T, kind dialect.Kind, doc any) (model.Key, model.Resource, tree.Faults) {
	t.Helper()
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	for d := range tree.Documents("f.json", text) {
		values, faults := d.Parse()
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		r := tree.NewReport("f.json", values[0], "")
		key, value := kind.Decode(r)
		return key, value, r.Faults()
	}
	t.Fatal("nothing to read")
	return nil, nil, nil
}
