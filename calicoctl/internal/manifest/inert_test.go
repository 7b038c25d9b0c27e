package manifest

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/model"
)

const nodeWithInert = `- apiVersion: projectcalico.org/v3
  kind: Node
  metadata:
    name: node1
  spec:
    addresses:
      - address: 10.0.0.1
        type: InternalIP
    bgp:
      ipv4Address: 192.0.2.1/24
      ipv4IPIPTunnelAddr: 10.1.0.1
    orchRefs:
      - nodeName: "0777"
        orchestrator: k8s
        weight: 12345678901234567890
    wireguard:
      deep:
        nothing: null
        yes: true
`

// TestInertFieldsAreKept reads fields without effect, and prints them as they were, also
// after the store had them; each is warned of.
func TestInertFieldsAreKept(t *testing.T) {
	t.Parallel()
	s := read("f.yaml", nodeWithInert)
	if len(s.Faults) > 0 || len(s.Objects) != 1 {
		t.Fatal(s.Faults)
	}
	o := s.Objects[0]
	parts, err := model.Encode(o.Key, o.Value)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := model.Decode(o.Key, parts)
	if err != nil {
		t.Fatal(err)
	}
	doc, _ := o.Kind.Encode(o.Key, stored)
	var out bytes.Buffer
	if err := WriteYAML(&out, []any{doc}); err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(strings.ReplaceAll(nodeWithInert, "      - ", "    - "), "        type: InternalIP", "      type: InternalIP")
	want = strings.ReplaceAll(strings.ReplaceAll(want, "        orchestrator", "      orchestrator"), "        weight", "      weight")
	want = strings.ReplaceAll(want, "yes:", `"yes":`)
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("printed (-want +got):\n%s", diff)
	}
	var warned []string
	for _, w := range s.Warnings {
		warned = append(warned, w.Error())
	}
	if diff := cmp.Diff([]string{
		"f.yaml:6:5: [0].spec.addresses: is stored and shown, and has no effect here",
		"f.yaml:11:7: [0].spec.bgp.ipv4IPIPTunnelAddr: is stored and shown, and has no effect here",
		"f.yaml:12:5: [0].spec.orchRefs: is stored and shown, and has no effect here",
		"f.yaml:16:5: [0].spec.wireguard: is stored and shown, and has no effect here",
	}, warned); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// TestInertFieldsAreChanged applies another document over a stored resource: in v3 it says
// what is there from then on, in v1, which has no words for it, all stays. What only a
// newer program has a field for stays too.
func TestInertFieldsAreChanged(t *testing.T) {
	t.Parallel()
	old := read("f.yaml", nodeWithInert).Objects[0].Value
	model.MetadataOf(old).V3Inert["spec.newer"] = []byte(`1`)
	model.MetadataOf(old).Unknown = `"newest":2`
	for name, want := range map[string]int{
		"{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: node1}, spec: {addresses: [], bgp: {ipv4Address: 192.0.2.1/24}}}": 2,
		"{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: node1}, spec: {bgp: {ipv4Address: 192.0.2.1/24}}}":                1,
		"{apiVersion: v1, kind: node, metadata: {name: node1}, spec: {bgp: {ipv4Address: 192.0.2.1/24}}}":                                  5,
	} {
		s := read("f.yaml", name)
		if len(s.Faults) > 0 {
			t.Fatal(s.Faults)
		}
		next := s.Objects[0]
		value, lost, err := next.Kind.Carry(next.Key, old, next.Value)
		if err != nil || len(lost) > 0 {
			t.Fatalf("lost %v, error %v", lost, err)
		}
		meta := model.MetadataOf(value)
		if len(meta.V3Inert) != want || string(meta.V3Inert["spec.newer"]) != "1" || meta.Unknown != `"newest":2` {
			t.Errorf("%s: %s and %s", name, meta.V3Inert, meta.Unknown)
		}
	}
}

// TestServerKeptFieldsAreDropped reads what kubectl prints.
func TestServerKeptFieldsAreDropped(t *testing.T) {
	t.Parallel()
	const doc = `apiVersion: projectcalico.org/v3
kind: Tier
metadata:
  name: a
  generation: 2
  selfLink: /x
  ownerReferences: [{kind: x}]
  finalizers: [y]
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: "{}"
  managedFields:
    - manager: kubectl
spec: {order: 1}
status: {ok: true}
`
	s := read("f.yaml", doc)
	if len(s.Faults) > 0 || len(s.Objects) != 1 {
		t.Fatal(s.Faults)
	}
	tier := s.Objects[0].Value.(*model.Tier)
	if diff := cmp.Diff(&model.Tier{Order: new(1.0)}, tier); diff != "" {
		t.Errorf("taken (-want +got):\n%s", diff)
	}
	const kept = ": is kept by the server and not taken from documents"
	var warned []string
	for _, w := range s.Warnings.Sorted() {
		warned = append(warned, strings.TrimSuffix(w.Error(), kept))
	}
	if diff := cmp.Diff([]string{
		"f.yaml:5:3: metadata.generation", "f.yaml:6:3: metadata.selfLink", "f.yaml:7:3: metadata.ownerReferences", "f.yaml:8:3: metadata.finalizers",
		`f.yaml:10:55: metadata.annotations["kubectl.kubernetes.io/last-applied-configuration"]`, "f.yaml:11:3: metadata.managedFields", "f.yaml:14:1: status",
	}, warned); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	both := read("f.yaml", doc+"---\n"+strings.Replace(doc, "name: a", "name: b", 1)).Warnings.Condensed()
	if len(both) != len(warned) || !strings.HasSuffix(both[0].Error(), kept+" (and so in 1 more)") {
		t.Errorf("of two objects: %v", both)
	}
	if s := NewSet(NewRegistry(), true); true {
		s.Read("f.yaml", []byte(doc))
		if len(s.Warnings) > 0 || len(s.Faults) > 0 {
			t.Errorf("who only identifies is told %v, %v", s.Warnings, s.Faults)
		}
	}
}
