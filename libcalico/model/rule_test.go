package model_test

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/model"
)

var rules = []struct {
	name string
	rule model.Rule
	json string
}{
	{"only an action", model.Rule{Action: "allow"}, `{"action":"allow"}`},
	{"IP version and protocol", model.Rule{Action: "deny", IPVersion: 6, Protocol: "tcp"}, `{"action":"deny","ip_version":6,"protocol":"tcp"}`},
	{"a protocol number", model.Rule{Action: "deny", Protocol: "47", NotProtocol: "50"}, `{"action":"deny","protocol":47,"!protocol":50}`},
	{
		"ICMP",
		model.Rule{Action: "allow", Protocol: "icmp", ICMP: &model.ICMP{Type: 8, Code: new(0)}, NotICMP: &model.ICMP{Type: 0}},
		`{"action":"allow","protocol":"icmp","icmp_type":8,"icmp_code":0,"!icmp_type":0}`,
	},
	{
		"both ends in full",
		model.Rule{
			Action: "allow", Protocol: "tcp",
			Source: model.Match{
				Tag: "t1", Nets: []netip.Prefix{prefix("10.0.0.0/8"), prefix("10.0.0.5/8")}, Selector: "a == 'b'", Ports: []model.Port{{First: 80, Last: 80}},
				NotTag: "t2", NotNets: []netip.Prefix{prefix("10.1.0.0/16")}, NotSelector: "has(c)", NotPorts: []model.Port{{First: 1, Last: 1023}},
			},
			Destination: model.Match{
				Tag: "t3", Nets: []netip.Prefix{prefix("10.2.0.0/16")}, Selector: "d != 'e'", Ports: []model.Port{{Name: "http"}, {First: 0, Last: 65535}},
				NotTag: "t4", NotNets: []netip.Prefix{prefix("10.3.0.0/16")}, NotSelector: "!has(f)", NotPorts: []model.Port{{First: 443, Last: 443}},
			},
		},
		`{"action":"allow","protocol":"tcp",` +
			`"src_tag":"t1","src_nets":["10.0.0.0/8","10.0.0.5/8"],"src_selector":"a == 'b'","src_ports":[80],` +
			`"dst_tag":"t3","dst_nets":["10.2.0.0/16"],"dst_selector":"d != 'e'","dst_ports":["http","0:65535"],` +
			`"!src_tag":"t2","!src_nets":["10.1.0.0/16"],"!src_selector":"has(c)","!src_ports":["1:1023"],` +
			`"!dst_tag":"t4","!dst_nets":["10.3.0.0/16"],"!dst_selector":"!has(f)","!dst_ports":[443]}`,
	},
	{
		"a log rule with annotations",
		model.Rule{Action: "log", LogPrefix: "seen", Annotations: map[string]string{"id": "7"}},
		`{"action":"log","log_prefix":"seen","annotations":{"id":"7"}}`,
	},
}

func TestRuleJSON(t *testing.T) {
	t.Parallel()
	for _, tt := range rules {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var values bytesWriter
			enc := json.NewEncoder(&values)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(tt.rule); err != nil {
				t.Fatal(err)
			}
			if got := values.line(); got != tt.json {
				t.Errorf("written %s\nwant    %s", got, tt.json)
			}
			var back model.Rule
			if err := json.Unmarshal([]byte(tt.json), &back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.rule, back, compareValues); diff != "" {
				t.Errorf("read (-want +got):\n%s", diff)
			}
		})
	}
}

type bytesWriter []byte

func (w *bytesWriter) Write(b []byte) (int, error) {
	*w = append(*w, b...)
	return len(b), nil
}

func (w *bytesWriter) line() string { return string((*w)[:len(*w)-1]) }

func TestRuleJSONOfOthers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]model.Rule{
		`{}`:                {Action: "allow"},
		`{"action":"pass"}`: {Action: "next-tier"},
		`{"action":"DENY"}`: {Action: "deny"},
		`{"action":"allow","src_net":"10.0.0.0/8","!dst_net":"10.1.0.0/16"}`: {
			Action: "allow", Source: model.Match{Nets: []netip.Prefix{prefix("10.0.0.0/8")}},
			Destination: model.Match{NotNets: []netip.Prefix{prefix("10.1.0.0/16")}},
		},
		`{"action":"allow","src_net":"10.0.0.0/8","src_nets":["10.1.0.0/16"]}`: {
			Action: "allow", Source: model.Match{Nets: []netip.Prefix{prefix("10.0.0.0/8"), prefix("10.1.0.0/16")}},
		},
		`{"action":"allow","src_nets":[],"src_ports":[],"annotations":{},"protocol":null,"icmp_type":null}`: {Action: "allow"},
		`{"action":"allow","protocol":"TCP","!protocol":"017","src_ports":["80","1:2"]}`: {
			Action: "allow", Protocol: "tcp", NotProtocol: "17",
			Source: model.Match{Ports: []model.Port{{First: 80, Last: 80}, {First: 1, Last: 2}}},
		},
	} {
		var got model.Rule
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got, compareValues); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func TestProtocols(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		p      model.Protocol
		number uint8
		ok     bool
		ports  bool
	}{
		{"tcp", 6, true, true},
		{"6", 6, true, true},
		{"udp", 17, true, true},
		{"sctp", 132, true, true},
		{"udplite", 136, true, false},
		{"icmp", 1, true, false},
		{"icmpv6", 58, true, false},
		{"255", 255, true, false},
		{"", 0, false, false},
		{"0", 0, false, false},
		{"256", 0, false, false},
		{"ipip", 0, false, false},
	} {
		if number, ok := tt.p.Number(); ok != tt.ok || ok && number != tt.number {
			t.Errorf("%q is number %d, %v", tt.p, number, ok)
		}
		if tt.p.HasPorts() != tt.ports {
			t.Errorf("%q has ports: %v", tt.p, tt.p.HasPorts())
		}
	}
	if !model.Protocol("tcp").Is("6") || model.Protocol("").Is("") || model.Protocol("tcp").Is("udp") {
		t.Error("Is does not compare protocols by number")
	}
}

func TestASNumbers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]model.ASNumber{
		"0": 0, "64512": 64512, "4294967295": 4294967295, "65000.5": 65000<<16 | 5, "0.1": 1, "65535.65535": 4294967295,
	} {
		if got, err := model.ParseASNumber(text); err != nil || got != want {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "4294967296", "1.65536", "65536.1", "1.2.3", "1.", ".1", "AS1", "0x10", "1e3", " 1"} {
		if got, err := model.ParseASNumber(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
	if got, err := json.Marshal(model.DefaultASNumber); err != nil || string(got) != `"64512"` {
		t.Errorf("marshalled to %s, %v", got, err)
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]model.Port{
		"80": {First: 80, Last: 80}, "1:65535": {First: 1, Last: 65535}, "http": {Name: "http"}, "80a": {Name: "80a"},
	} {
		got, err := model.ParsePort(text)
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
		if got.String() != text {
			t.Errorf("%q is written %q", text, got)
		}
	}
	for _, text := range []string{"", "70000", "-1", "1:", ":2", "1:2:3", "1:70000", "a b", "80,90", "_"} {
		if got, err := model.ParsePort(text); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

// FuzzRuleJSON checks that whatever is read as a rule is written and read as the same
// rule again, and that no rule makes the checks panic.
func FuzzRuleJSON(f *testing.F) {
	for _, tt := range rules {
		f.Add(tt.json)
	}
	f.Add(`{"src_net":"::ffff:1.2.3.4/96","src_ports":["a:b",0,"0:0"],"protocol":"0"}`)
	f.Fuzz(func(t *testing.T, text string) {
		var rule model.Rule
		if json.Unmarshal([]byte(text), &rule) != nil {
			return
		}
		written, err := json.Marshal(rule)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		var back model.Rule
		if err := json.Unmarshal(written, &back); err != nil {
			t.Fatalf("%s, written as %s: %v", text, written, err)
		}
		if diff := cmp.Diff(rule, back, compareValues); diff != "" {
			t.Errorf("%s, written as %s (-read +read again):\n%s", text, written, diff)
		}
		_ = model.Validate(model.NewPolicyKey("", "p"), &model.Policy{InboundRules: []model.Rule{rule}})
	})
}
