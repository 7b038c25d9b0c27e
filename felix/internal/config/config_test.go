package config

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// one is a source with one value.
func one(name, value string) map[string]string { return map[string]string{name: value} }

// valueOf finds an effective value in a result.
func valueOf(t *testing.T, r Result, name string) Value {
	t.Helper()
	i := slices.IndexFunc(r.Values, func(v Value) bool { return v.Name == name })
	if i < 0 {
		t.Fatalf("parameter %s is not listed", name)
	}
	return r.Values[i]
}

func TestResolve(t *testing.T) {
	tests := []struct {
		name     string
		src      Sources
		param    string
		want     string
		source   Source
		warnings []string
		err      string
	}{
		{name: "default", param: "LogPrefix", want: "calico-packet", source: Default},
		{
			name: "global", src: Sources{Global: one("LogPrefix", "g")},
			param: "LogPrefix", want: "g", source: Global,
		},
		{
			name: "host beats global", src: Sources{Global: one("LogPrefix", "g"), Host: one("LogPrefix", "h")},
			param: "LogPrefix", want: "h", source: Host,
		},
		{
			name:  "file beats host",
			src:   Sources{Global: one("LogPrefix", "g"), Host: one("LogPrefix", "h"), File: one("LogPrefix", "f")},
			param: "LogPrefix", want: "f", source: File,
		},
		{
			name:  "environment beats all",
			src:   Sources{Environment: one("LOGPREFIX", "e"), File: one("LogPrefix", "f"), Host: one("LogPrefix", "h")},
			param: "LogPrefix", want: "e", source: Environment,
		},
		{
			name: "the case of a name does not matter", src: Sources{File: one("logPREFIX", "f")},
			param: "LogPrefix", want: "f", source: File,
		},
		{
			name: "an empty value counts as none given", src: Sources{Environment: one("LogPrefix", " "), Global: one("LogPrefix", "g")},
			param: "LogPrefix", want: "g", source: Global,
		},
		{
			name: "none forces the zero value", src: Sources{Environment: one("FailsafeInboundHostPorts", "none"), Global: one("FailsafeInboundHostPorts", "tcp:1")},
			param: "FailsafeInboundHostPorts", want: "", source: Environment,
		},
		{
			name: "none switches a log off", src: Sources{Global: one("LogSeverityScreen", "None")},
			param: "LogSeverityScreen", want: "", source: Global,
		},
		{
			name: "none switches an audit off", src: Sources{Global: one("RouteRefreshInterval", "none")},
			param: "RouteRefreshInterval", want: "0", source: Global,
		},
		{
			name: "none is no action", src: Sources{Global: one("DefaultEndpointToHostAction", "none")},
			param: "DefaultEndpointToHostAction", want: "DROP", source: Default,
			err: "DefaultEndpointToHostAction = none (datastore, global): this parameter cannot be switched off",
		},
		{
			name:  "a bad value is the default, even when a weaker source has a good one",
			src:   Sources{Environment: one("MaxIpsetSize", "many"), Global: one("MaxIpsetSize", "5")},
			param: "MaxIpsetSize", want: "1048576", source: Default,
			warnings: []string{"MaxIpsetSize = many (environment): want a number from 1 to 2147483647; the default 1048576 is used"},
		},
		{
			name: "a bad value without a safe stand-in is an error", src: Sources{File: one("DefaultEndpointToHostAction", "ACEPT")},
			param: "DefaultEndpointToHostAction", want: "DROP", source: Default,
			err: "DefaultEndpointToHostAction = ACEPT (file): want one of DROP, RETURN, ACCEPT",
		},
		{
			name: "an action in lower case", src: Sources{Host: one("DefaultEndpointToHostAction", "accept")},
			param: "DefaultEndpointToHostAction", want: "ACCEPT", source: Host,
		},
		{
			name: "a parameter that is needed before the datastore", src: Sources{Host: one("FelixHostname", "x")},
			param: "FelixHostname", want: "", source: Default,
			warnings: []string{"FelixHostname (datastore, host): is needed before the datastore can be read, so it is ignored there; set it in the file or the environment"},
		},
		{
			name: "a mistyped name", src: Sources{Global: one("DefaultEndpointToHostActoin", "ACCEPT")},
			param: "DefaultEndpointToHostAction", want: "DROP", source: Default,
			warnings: []string{"DefaultEndpointToHostActoin (datastore, global): is not a parameter; did you mean DefaultEndpointToHostAction?"},
		},
		{
			name: "a name of nothing", src: Sources{Environment: one("Banana", "1")},
			param: "LogPrefix", want: "calico-packet", source: Default,
			warnings: []string{"Banana (environment): is not a parameter"},
		},
		{
			name: "a parameter of the original without effect here", src: Sources{Global: one("UsageReportingEnabled", "false")},
			param: "LogPrefix", want: "calico-packet", source: Default,
			warnings: []string{"UsageReportingEnabled (datastore, global): has no effect in this felix"},
		},
		{
			name: "what the start-up says of the cluster", src: Sources{Global: one("ClusterGUID", "0123456789abcdef0123456789abcdef")},
			param: "LogPrefix", want: "calico-packet", source: Default,
		},
		{
			name: "a number of seconds with a fraction", src: Sources{File: one("EndpointReportingDelaySecs", "0.25")},
			param: "EndpointReportingDelaySecs", want: "0.25", source: File,
		},
		{
			name: "a duration with a unit", src: Sources{File: one("RouteRefreshInterval", "2m")},
			param: "RouteRefreshInterval", want: "120", source: File,
		},
		{
			name: "a duration below zero", src: Sources{File: one("RouteRefreshInterval", "-1")},
			param: "RouteRefreshInterval", want: "90", source: Default,
			warnings: []string{"RouteRefreshInterval = -1 (file): want a number of seconds, such as 30 or 0.5; the default 90 is used"},
		},
		{
			name: "not a number of seconds", src: Sources{File: one("RouteRefreshInterval", "NaN")},
			param: "RouteRefreshInterval", want: "90", source: Default,
			warnings: []string{"RouteRefreshInterval = NaN (file): want a number of seconds, such as 30 or 0.5; the default 90 is used"},
		},
		{
			name: "failsafe ports of all forms", src: Sources{Global: one("FailsafeInboundHostPorts", "22, udp:68,tcp:10.1.2.3/8:80, tcp:[fd00::/8]:443")},
			param: "FailsafeInboundHostPorts", want: "tcp:22,udp:68,tcp:10.0.0.0/8:80,tcp:[fd00::/8]:443", source: Global,
		},
		{
			name: "a failsafe port that is none", src: Sources{Global: one("FailsafeInboundHostPorts", "tcp:22,tcp:70000")},
			param: "FailsafeInboundHostPorts", want: "tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380", source: Default,
			err: `FailsafeInboundHostPorts = tcp:22,tcp:70000 (datastore, global): "tcp:70000": want <protocol>:<port> or <protocol>:<net>:<port> with protocol tcp or udp, such as tcp:22 or tcp:10.0.0.0/8:22, or none`,
		},
		{
			name: "several interface prefixes", src: Sources{Environment: one("InterfacePrefix", "cali,tap")},
			param: "InterfacePrefix", want: "cali,tap", source: Environment,
		},
		{
			name: "an interface prefix that is none", src: Sources{Environment: one("InterfacePrefix", "cali+")},
			param: "InterfacePrefix", want: "cali", source: Default,
			err: `InterfacePrefix = cali+ (environment): "cali+": is no beginning of an interface's name`,
		},
		{
			name: "a mark mask with too few bits", src: Sources{Environment: one("IptablesMarkMask", "0x7")},
			param: "IptablesMarkMask", want: "0xff000000", source: Default,
			err: "IptablesMarkMask = 0x7 (environment): want a number of 32 bits of which at least 4 are set, such as 0xff000000",
		},
		{
			name: "a secret is not shown", src: Sources{Environment: one("EtcdPassword", "hush")},
			param: "EtcdPassword", want: "…", source: Environment,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Resolve(tt.src)
			if got := valueOf(t, r, tt.param); got.Value != tt.want || got.Source != tt.source {
				t.Errorf("got %+v, want %q from %s", got, tt.want, tt.source)
			}
			if diff := cmp.Diff(tt.warnings, r.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			text := ""
			if err != nil {
				text = err.Error()
			}
			if text != tt.err {
				t.Errorf("error %q, want %q", text, tt.err)
			}
		})
	}
}

func TestDefaultsAreValidAndComplete(t *testing.T) {
	r, err := Resolve(Sources{})
	if err != nil || len(r.Warnings) > 0 {
		t.Fatalf("defaults: error %v, warnings %v", err, r.Warnings)
	}
	for _, p := range params() {
		var c Config
		if err := p.set(&c, p.def); err != nil {
			t.Errorf("%s: default %q: %v", p.name, p.def, err)
		}
		if got := p.show(&c); got != p.def {
			t.Errorf("%s: default %q is shown as %q", p.name, p.def, got)
		}
	}
	if _, err := rules.NewRenderer(r.Config.Rules()); err != nil {
		t.Errorf("rules from the defaults: %v", err)
	}
	want := rules.DefaultConfig()
	got := r.Config.Rules()
	got.FailsafeInbound, got.FailsafeOutbound = nil, nil
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("rules from the defaults (-rules' own +config's):\n%s", diff)
	}
}

func TestRules(t *testing.T) {
	r, err := Resolve(Sources{File: map[string]string{
		"ChainInsertMode": "Append", "DefaultEndpointToHostAction": "RETURN", "IptablesFilterAllowAction": "RETURN",
		"IptablesFilterDenyAction": "REJECT", "FailsafeInboundHostPorts": "udp:68", "DisableConntrackInvalidCheck": "true",
		"WorkloadsReachControlPlane": "true", "WorkloadDNSEnabled": "false",
	}})
	if err != nil {
		t.Fatal(err)
	}
	c := r.Config.Rules()
	if c.HookPosition != rules.Last || c.EndpointToHost != rules.Return || c.FilterAllow != rules.Return ||
		c.MangleAllow != rules.Accept || c.FilterDeny != rules.Reject || !c.NoInvalidCheck || !c.ReachControlPlane || c.WorkloadDNS {
		t.Errorf("got %+v", c)
	}
	if want := []rules.FailsafePort{{Protocol: desired.UDP, Port: 68}}; !slices.Equal(c.FailsafeInbound, want) {
		t.Errorf("failsafe ports %v, want %v", c.FailsafeInbound, want)
	}
}

func TestDiffNamesWhatChanged(t *testing.T) {
	a, _ := Resolve(Sources{})
	b, _ := Resolve(Sources{Global: map[string]string{"LogPrefix": "x", "RouteRefreshInterval": "1", "MaxIpsetSize": "1048576"}})
	if got, want := Diff(&a.Config, &b.Config), []string{"RouteRefreshInterval", "LogPrefix"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if b.Config.RouteRefreshInterval != time.Second {
		t.Errorf("RouteRefreshInterval = %v", b.Config.RouteRefreshInterval)
	}
}

func TestNeedsRestart(t *testing.T) {
	for names, want := range map[string]string{
		"LogPrefix,MaxIpsetSize,DeviceRouteProtocol": "", "": "", "LogPrefix,Ipv6Support": "Ipv6Support", "EtcdEndpoints": "EtcdEndpoints",
	} {
		if got := NeedsRestart(strings.Split(names, ",")); got != want {
			t.Errorf("of %q got %q, want %q", names, got, want)
		}
	}
}

// TestEveryParameterIsRead looks for each field of Config in felix's source but for the table
// of parameters: what is accepted and shown acts.
func TestEveryParameterIsRead(t *testing.T) {
	read := map[string]bool{}
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || filepath.Base(path) == "params.go" {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				read[s.Sel.Name] = true
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if !read[f.Name] {
			t.Errorf("%s is read nowhere", f.Name)
		}
	}
}

func TestFromEnvironment(t *testing.T) {
	got := FromEnvironment([]string{"PATH=/bin", "FELIX_LOGPREFIX=a=b", "felix_HealthPort=1", "FELIX_=x", "FELIXLOG=1", "NODENAME=n"})
	want := map[string]string{"LOGPREFIX": "a=b", "HealthPort": "1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseFile(t *testing.T) {
	got, warnings := ParseFile("# comment\n[global]\nLogPrefix = x y \n; other\n\nHealthPort=9\nnonsense\n")
	if diff := cmp.Diff(map[string]string{"LogPrefix": "x y", "HealthPort": "9"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if want := []string{`line 7: "nonsense" is not of the form Name = value; it is ignored`}; !slices.Equal(warnings, want) {
		t.Errorf("warnings %q, want %q", warnings, want)
	}
}

func TestSourcesFollowTheStore(t *testing.T) {
	set := func(node, name, value string) store.Event {
		return store.Event{Key: model.FelixConfigKey{Node: node, Name: name}, Value: &model.Setting{Of: model.KindFelixConfig, Value: value}}
	}
	var s Sources
	if !s.Apply("me", []store.Event{set("", "LogPrefix", "g"), set("me", "LogPrefix", "h"), set("you", "LogPrefix", "y")}) {
		t.Error("no change reported")
	}
	if s.Apply("me", []store.Event{set("you", "LogPrefix", "z"), {Key: model.TierKey{Name: "t"}}}) {
		t.Error("another node's parameter reported as a change")
	}
	r, _ := Resolve(s)
	if got := valueOf(t, r, "LogPrefix"); got.Value != "h" || got.Source != Host {
		t.Errorf("got %+v", got)
	}
	s.Apply("me", []store.Event{{Key: model.FelixConfigKey{Node: "me", Name: "LogPrefix"}}})
	r, _ = Resolve(s)
	if got := valueOf(t, r, "LogPrefix"); got.Value != "g" || got.Source != Global {
		t.Errorf("after the delete: got %+v", got)
	}
}

// TestReferenceFile keeps the commented reference file complete and true: it names every
// parameter with its default.
func TestReferenceFile(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "testdata", "config", "felix.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	uncommented := strings.ReplaceAll(string(text), "#", "")
	values, _ := ParseFile(uncommented)
	for _, p := range params() {
		got, ok := values[p.name]
		if !ok || got != p.def {
			t.Errorf("%s: the reference file says %q (named: %v), the default is %q", p.name, got, ok, p.def)
		}
	}
	plain, warnings := ParseFile(string(text))
	if len(plain) > 0 || len(warnings) > 0 {
		t.Errorf("the reference file sets %v, warnings %v; everything in it should be a comment", plain, warnings)
	}
}

func FuzzResolve(f *testing.F) {
	f.Add("FailsafeInboundHostPorts", "tcp:[fd00::/8]:443")
	f.Add("InterfacePrefix", "cali,tap")
	f.Add("ReportingTTLSecs", "1e309")
	f.Fuzz(func(t *testing.T, name, value string) {
		r, err := Resolve(Sources{File: one(name, value)})
		if err != nil {
			return
		}
		// What is shown can be read again and means the same.
		shown := map[string]string{}
		for _, v := range r.Values {
			shown[v.Name] = v.Value
			if v.Value == "" {
				shown[v.Name] = "none"
			}
		}
		for _, p := range params() {
			if p.secret || p.zero == nil && shown[p.name] == "none" {
				delete(shown, p.name)
			}
		}
		again, err := Resolve(Sources{File: shown})
		if err != nil {
			t.Fatalf("%s=%q: shown as %q: %v", name, value, shown, err)
		}
		if diff := Diff(&r.Config, &again.Config); slices.ContainsFunc(diff, func(n string) bool { return n != "EtcdPassword" }) {
			t.Errorf("%s=%q: %v change when read again", name, value, diff)
		}
	})
}
