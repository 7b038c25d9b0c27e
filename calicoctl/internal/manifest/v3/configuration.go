package v3

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/settings"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// rawSetting is a value of a field that stands in the store as a setting of its own,
// whose name is the field's tag "raw".
type rawSetting interface {
	// Raw is the value as the store has it.
	Raw() string
	// SetRaw reads the store's value.
	SetRaw(raw string) error
}

// toRaw adds the settings of a specification's fields to values.
func toRaw(spec any, values map[string]string) {
	eachSetting(spec, func(name string, field reflect.Value) {
		if s, ok := field.Interface().(rawSetting); ok && !field.IsNil() {
			values[name] = s.Raw()
		}
	})
}

// fromRaw sets a specification's fields, and names the settings that there is no field
// for or whose value no field can have.
func fromRaw(spec any, values map[string]string) (lost []string) {
	rest := map[string]bool{}
	for name := range values {
		rest[name] = true
	}
	eachSetting(spec, func(name string, field reflect.Value) {
		raw, ok := values[name]
		if !ok {
			return
		}
		v := reflect.New(field.Type().Elem())
		if s, isSetting := v.Interface().(rawSetting); isSetting && s.SetRaw(raw) == nil {
			field.Set(v)
			delete(rest, name)
		}
	})
	for name := range rest {
		lost = append(lost, "setting "+name)
	}
	slices.Sort(lost)
	return lost
}

func eachSetting(spec any, do func(name string, field reflect.Value)) {
	v := reflect.ValueOf(spec).Elem()
	for info, field := range v.Fields() {
		if name := info.Tag.Get("raw"); name != "" {
			do(name, field)
		}
	}
}

// The values of fields.
type (
	// Text is any text.
	Text string
	// Flag is true or false.
	Flag bool
	// Number is a whole number.
	Number int
	// Mark is a set of bits.
	Mark uint32
	// Duration is a time span such as 10s or 1m30s.
	Duration time.Duration
	// IdleText is a text; it and the next two are of settings that no program acts on.
	IdleText string
	// IdleFlag is true or false.
	IdleFlag bool
	// IdleDuration is a time span.
	IdleDuration struct{ Duration }
	// Severity is a level of logging.
	Severity string
	// EndpointAction is a fate of packets from a workload to its host.
	EndpointAction string
	// AllowAction is what becomes of accepted packets.
	AllowAction string
	// DenyAction is what becomes of denied packets.
	DenyAction string
	// InsertMode is where felix's chains are entered from.
	InsertMode string
	// FailsafePorts are ports that no policy closes.
	FailsafePorts []FailsafePort
)

// Raw is the value as the store has it.
func (t *Text) Raw() string { return string(*t) }

// SetRaw reads the store's value.
func (t *Text) SetRaw(raw string) error { *t = Text(raw); return nil }

// Raw is the value as the store has it.
func (f *Flag) Raw() string { return strconv.FormatBool(bool(*f)) }

// SetRaw reads the store's value.
func (f *Flag) SetRaw(raw string) error {
	switch strings.ToLower(raw) {
	case "true", "1", "yes", "y", "t":
		*f = true
	case "false", "0", "no", "n", "f":
		*f = false
	default:
		return errors.New("not a truth value")
	}
	return nil
}

// Idle says that the setting has no effect.
func (IdleText) Idle() string { return scalar.Idle }

// Raw is the value as the store has it.
func (t *IdleText) Raw() string { return string(*t) }

// SetRaw reads the store's value.
func (t *IdleText) SetRaw(raw string) error { *t = IdleText(raw); return nil }

// Idle says that the setting has no effect.
func (IdleFlag) Idle() string { return scalar.Idle }

// Raw is the value as the store has it.
func (f *IdleFlag) Raw() string { return (*Flag)(f).Raw() }

// SetRaw reads the store's value.
func (f *IdleFlag) SetRaw(raw string) error { return (*Flag)(f).SetRaw(raw) }

// Idle says that the setting has no effect.
func (IdleDuration) Idle() string { return scalar.Idle }

// Raw is the value as the store has it.
func (n *Number) Raw() string { return strconv.Itoa(int(*n)) }

// SetRaw reads the store's value.
func (n *Number) SetRaw(raw string) error {
	i, err := strconv.Atoi(raw)
	*n = Number(i)
	return err
}

// Raw is the value as the store has it.
func (m *Mark) Raw() string { return fmt.Sprintf("%#x", uint32(*m)) }

// SetRaw reads the store's value.
func (m *Mark) SetRaw(raw string) error {
	n, err := strconv.ParseUint(raw, 0, 32)
	*m = Mark(n)
	return err
}

// maxDuration is the longest time that felix takes.
const maxDuration = 365 * 24 * time.Hour

// UnmarshalText reads a time span.
func (d *Duration) UnmarshalText(text []byte) error {
	span, err := time.ParseDuration(string(text))
	if err != nil || span < 0 || span > maxDuration {
		return fmt.Errorf("%q is not a time span such as 10s or 1m30s", text)
	}
	*d = Duration(span)
	return nil
}

// MarshalText writes the time span.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Raw is the value as the store has it: seconds.
func (d *Duration) Raw() string {
	return strconv.FormatFloat(time.Duration(*d).Seconds(), 'f', -1, 64)
}

// SetRaw reads the store's value.
func (d *Duration) SetRaw(raw string) error {
	seconds, err := strconv.ParseFloat(raw, 64)
	if err != nil {
		return d.UnmarshalText([]byte(raw))
	}
	*d = Duration(seconds * float64(time.Second))
	return nil
}

// UnmarshalText reads a level.
func (s *Severity) UnmarshalText(text []byte) error {
	return word(s, "a log severity", text, "Debug", "Info", "Warning", "Error", "Fatal")
}

// Raw is the value as the store has it.
func (s *Severity) Raw() string { return strings.ToUpper(string(*s)) }

// SetRaw reads the store's value.
func (s *Severity) SetRaw(raw string) error {
	if strings.EqualFold(raw, "critical") {
		raw = "Fatal"
	}
	return s.UnmarshalText([]byte(raw))
}

// UnmarshalText reads an action.
func (a *EndpointAction) UnmarshalText(text []byte) error {
	return word(a, "an action", text, "Drop", "Return", "Accept")
}

// Raw is the value as the store has it.
func (a *EndpointAction) Raw() string { return strings.ToUpper(string(*a)) }

// SetRaw reads the store's value.
func (a *EndpointAction) SetRaw(raw string) error { return a.UnmarshalText([]byte(raw)) }

// UnmarshalText reads an action.
func (a *AllowAction) UnmarshalText(text []byte) error {
	return word(a, "an action", text, "Accept", "Return")
}

// Raw is the value as the store has it.
func (a *AllowAction) Raw() string { return strings.ToUpper(string(*a)) }

// SetRaw reads the store's value.
func (a *AllowAction) SetRaw(raw string) error { return a.UnmarshalText([]byte(raw)) }

// UnmarshalText reads an action.
func (a *DenyAction) UnmarshalText(text []byte) error {
	return word(a, "an action", text, "Drop", "Reject")
}

// Raw is the value as the store has it.
func (a *DenyAction) Raw() string { return strings.ToUpper(string(*a)) }

// SetRaw reads the store's value.
func (a *DenyAction) SetRaw(raw string) error { return a.UnmarshalText([]byte(raw)) }

// UnmarshalText reads a mode.
func (m *InsertMode) UnmarshalText(text []byte) error {
	return word(m, "a chain insert mode", text, "Insert", "Append")
}

// Raw is the value as the store has it.
func (m *InsertMode) Raw() string { return strings.ToLower(string(*m)) }

// SetRaw reads the store's value.
func (m *InsertMode) SetRaw(raw string) error { return m.UnmarshalText([]byte(raw)) }

// FailsafePort is a port, of all networks or of one.
type FailsafePort struct {
	Protocol FailsafeProtocol `json:"protocol,omitempty"`
	Port     FailsafeNumber   `json:"port"`
	Net      *scalar.IPNet    `json:"net,omitempty"`
}

// FailsafeProtocol is TCP or UDP.
type FailsafeProtocol string

// UnmarshalText reads the protocol.
func (p *FailsafeProtocol) UnmarshalText(text []byte) error {
	return word(p, "a protocol of failsafe ports", text, "TCP", "UDP")
}

// FailsafeNumber is the number of a port.
type FailsafeNumber uint16

// UnmarshalText reads the number.
func (n *FailsafeNumber) UnmarshalText(text []byte) error {
	port, err := scalar.ParseDigits(string(text), 16)
	if err != nil || port == 0 {
		return fmt.Errorf("%q is not a port: expected 1 to 65535", text)
	}
	*n = FailsafeNumber(port)
	return nil
}

// Raw is the value as the store has it.
func (ps *FailsafePorts) Raw() string {
	var items []string
	for _, p := range *ps {
		item := strings.ToLower(string(cmp.Or(p.Protocol, "TCP"))) + ":"
		if p.Net != nil && p.Net.Addr().Is4() {
			item += p.Net.String() + ":"
		} else if p.Net != nil {
			item += "[" + p.Net.String() + "]:"
		}
		items = append(items, item+strconv.Itoa(int(p.Port)))
	}
	if len(items) == 0 {
		return "none"
	}
	return strings.Join(items, ",")
}

// SetRaw reads the store's value.
func (ps *FailsafePorts) SetRaw(raw string) error {
	*ps = FailsafePorts{}
	if strings.EqualFold(raw, "none") {
		return nil
	}
	for item := range strings.SplitSeq(raw, ",") {
		var p FailsafePort
		if err := p.set(strings.TrimSpace(item)); err != nil {
			return err
		}
		*ps = append(*ps, p)
	}
	return nil
}

// set reads <port>, <protocol>:<port> or <protocol>:<net>:<port>.
func (p *FailsafePort) set(item string) error {
	protocol, rest, found := strings.Cut(item, ":")
	if !found {
		protocol, rest = "TCP", item
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		p.Net = &scalar.IPNet{}
		if err := p.Net.UnmarshalText([]byte(strings.Trim(rest[:i], "[]"))); err != nil {
			return err
		}
		rest = rest[i+1:]
	}
	return errors.Join(p.Protocol.UnmarshalText([]byte(protocol)), p.Port.UnmarshalText([]byte(rest)))
}

// FelixConfigurationSpec is the settings of felix: those that it honours, those that it
// names as of no effect, and those that cannot be set because they would change traffic.
type FelixConfigurationSpec struct {
	InterfacePrefix              *Text           `json:"interfacePrefix,omitempty" raw:"InterfacePrefix"`
	IPv6Support                  *Flag           `json:"ipv6Support,omitempty" raw:"Ipv6Support"`
	IPIPEnabled                  *Flag           `json:"ipipEnabled,omitempty" raw:"IpInIpEnabled"`
	DefaultEndpointToHostAction  *EndpointAction `json:"defaultEndpointToHostAction,omitempty" raw:"DefaultEndpointToHostAction"`
	ChainInsertMode              *InsertMode     `json:"chainInsertMode,omitempty" raw:"ChainInsertMode"`
	IptablesFilterAllowAction    *AllowAction    `json:"iptablesFilterAllowAction,omitempty" raw:"IptablesFilterAllowAction"`
	IptablesMangleAllowAction    *AllowAction    `json:"iptablesMangleAllowAction,omitempty" raw:"IptablesMangleAllowAction"`
	IptablesFilterDenyAction     *DenyAction     `json:"iptablesFilterDenyAction,omitempty" raw:"IptablesFilterDenyAction"`
	IptablesMarkMask             *Mark           `json:"iptablesMarkMask,omitempty" raw:"IptablesMarkMask"`
	DisableConntrackInvalidCheck *Flag           `json:"disableConntrackInvalidCheck,omitempty" raw:"DisableConntrackInvalidCheck"`

	IptablesRefreshInterval *Duration `json:"iptablesRefreshInterval,omitempty" raw:"IptablesRefreshInterval"`
	IpsetsRefreshInterval   *Duration `json:"ipsetsRefreshInterval,omitempty" raw:"IpsetsRefreshInterval"`
	RouteRefreshInterval    *Duration `json:"routeRefreshInterval,omitempty" raw:"RouteRefreshInterval"`
	MaxIpsetSize            *Number   `json:"maxIpsetSize,omitempty" raw:"MaxIpsetSize"`
	DeviceRouteProtocol     *Number   `json:"deviceRouteProtocol,omitempty" raw:"DeviceRouteProtocol"`
	RemoveExternalRoutes    *Flag     `json:"removeExternalRoutes,omitempty" raw:"RemoveExternalRoutes"`

	WorkloadDNSEnabled         *Flag          `json:"workloadDNSEnabled,omitempty" raw:"WorkloadDNSEnabled"`
	WorkloadsReachControlPlane *Flag          `json:"workloadsReachControlPlane,omitempty" raw:"WorkloadsReachControlPlane"`
	FailsafeInboundHostPorts   *FailsafePorts `json:"failsafeInboundHostPorts,omitempty" raw:"FailsafeInboundHostPorts"`
	FailsafeOutboundHostPorts  *FailsafePorts `json:"failsafeOutboundHostPorts,omitempty" raw:"FailsafeOutboundHostPorts"`

	LogPrefix                *Text     `json:"logPrefix,omitempty" raw:"LogPrefix"`
	LogSeverityScreen        *Severity `json:"logSeverityScreen,omitempty" raw:"LogSeverityScreen"`
	ReportingInterval        *Duration `json:"reportingInterval,omitempty" raw:"ReportingIntervalSecs"`
	ReportingTTL             *Duration `json:"reportingTTL,omitempty" raw:"ReportingTTLSecs"`
	EndpointReportingEnabled *Flag     `json:"endpointReportingEnabled,omitempty" raw:"EndpointReportingEnabled"`
	EndpointReportingDelay   *Duration `json:"endpointReportingDelay,omitempty" raw:"EndpointReportingDelaySecs"`

	HealthEnabled            *Flag   `json:"healthEnabled,omitempty" raw:"HealthEnabled"`
	HealthHost               *Text   `json:"healthHost,omitempty" raw:"HealthHost"`
	HealthPort               *Number `json:"healthPort,omitempty" raw:"HealthPort"`
	PrometheusMetricsEnabled *Flag   `json:"prometheusMetricsEnabled,omitempty" raw:"PrometheusMetricsEnabled"`
	PrometheusMetricsHost    *Text   `json:"prometheusMetricsHost,omitempty" raw:"PrometheusMetricsHost"`
	PrometheusMetricsPort    *Number `json:"prometheusMetricsPort,omitempty" raw:"PrometheusMetricsPort"`

	LogFilePath                    *IdleText     `json:"logFilePath,omitempty" raw:"LogFilePath"`
	LogSeverityFile                *IdleText     `json:"logSeverityFile,omitempty" raw:"LogSeverityFile"`
	LogSeveritySys                 *IdleText     `json:"logSeveritySys,omitempty" raw:"LogSeveritySys"`
	IptablesPostWriteCheckInterval *IdleDuration `json:"iptablesPostWriteCheckInterval,omitempty" raw:"IptablesPostWriteCheckIntervalSecs"`
	IptablesLockFilePath           *IdleText     `json:"iptablesLockFilePath,omitempty" raw:"IptablesLockFilePath"`
	IptablesLockProbeInterval      *IdleText     `json:"iptablesLockProbeInterval,omitempty" raw:"IptablesLockProbeIntervalMillis"`
	IptablesLockTimeout            *IdleDuration `json:"iptablesLockTimeout,omitempty" raw:"IptablesLockTimeoutSecs"`
	NetlinkTimeout                 *IdleDuration `json:"netlinkTimeout,omitempty" raw:"NetlinkTimeoutSecs"`
	UsageReportingEnabled          *IdleFlag     `json:"usageReportingEnabled,omitempty" raw:"UsageReportingEnabled"`
	UsageReportingInitialDelay     *IdleDuration `json:"usageReportingInitialDelay,omitempty" raw:"UsageReportingInitialDelaySecs"`
	UsageReportingInterval         *IdleDuration `json:"usageReportingInterval,omitempty" raw:"UsageReportingIntervalSecs"`
	DebugMemoryProfilePath         *IdleText     `json:"debugMemoryProfilePath,omitempty" raw:"DebugMemoryProfilePath"`
	DebugDisableLogDropping        *IdleFlag     `json:"debugDisableLogDropping,omitempty" raw:"DebugDisableLogDropping"`
	PrometheusGoMetrics            *IdleFlag     `json:"prometheusGoMetricsEnabled,omitempty" raw:"PrometheusGoMetricsEnabled"`
	PrometheusProcessMetrics       *IdleFlag     `json:"prometheusProcessMetricsEnabled,omitempty" raw:"PrometheusProcessMetricsEnabled"`
	PrometheusWireguardMetrics     *IdleFlag     `json:"prometheusWireGuardMetricsEnabled,omitempty" raw:"PrometheusWireGuardMetricsEnabled"`

	IptablesBackend scalar.Elsewhere `json:"iptablesBackend,omitzero"`
	IPIPMTU         scalar.Elsewhere `json:"ipipMTU,omitzero"`
	BPFEnabled      scalar.Elsewhere `json:"bpfEnabled,omitzero"`
	VXLANEnabled    scalar.Elsewhere `json:"vxlanEnabled,omitzero"`
	Wireguard       scalar.Elsewhere `json:"wireguardEnabled,omitzero"`
	NATPortRange    scalar.Elsewhere `json:"natPortRange,omitzero"`
	FloatingIPs     scalar.Elsewhere `json:"floatingIPs,omitzero"`
}

func felixConfigurationKind() dialect.Kind {
	c := configuration("FelixConfiguration", settings.KindFelix, checkFelix,
		"felixconfiguration", "felixconfigurations", "felixconfig", "felixconfigs")
	c.columns = []dialect.Column{nameColumn[FelixConfigurationSpec]()}
	c.short, c.wide = []string{"NAME"}, []string{"NAME"}
	return c.dialectKind()
}

// configuration is the conversion of settings, all of which are fields of S with a tag
// "raw".
func configuration[S any](name string, of model.Kind, check func(*tree.Report, settings.Key, S), aliases ...string) conversion[S, *settings.Settings] {
	return conversion[S, *settings.Settings]{
		kind: of, name: name, aliases: aliases, anyName: true,
		decode: func(r *tree.Report, m ObjectMeta, spec S) (model.Key, *settings.Settings) {
			value := &settings.Settings{Of: of, Values: map[string]string{}}
			key, ok := settings.ParseName(of, m.Name)
			if !ok && m.Name != "" {
				r.Add("metadata.name", "%q: must be default, or node.<node> for the settings of one node", m.Name)
			}
			check(r, key, spec)
			toRaw(&spec, value.Values)
			return key, value
		},
		encode: func(_ model.Key, v *settings.Settings) (S, []string) {
			var spec S
			lost := fromRaw(&spec, v.Values)
			return spec, lost
		},
		nameOf: func(k model.Key, _ *settings.Settings) string { return k.(settings.Key).Name() },
		keyOf: func(name string) model.Key {
			if k, ok := settings.ParseName(of, name); ok {
				return k
			}
			return nil
		},
	}
}

// checkFelix checks what felix would not take.
func checkFelix(r *tree.Report, _ settings.Key, s FelixConfigurationSpec) {
	for _, n := range []struct {
		field     string
		value     *Number
		low, high int
	}{
		{"maxIpsetSize", s.MaxIpsetSize, 1, 1<<31 - 1},
		{"deviceRouteProtocol", s.DeviceRouteProtocol, 1, 255},
		{"healthPort", s.HealthPort, 1, 65535},
		{"prometheusMetricsPort", s.PrometheusMetricsPort, 1, 65535},
	} {
		if n.value != nil && (int(*n.value) < n.low || int(*n.value) > n.high) && !r.Doubts("spec."+n.field) {
			r.Add("spec."+n.field, "%d: must be %d to %d", *n.value, n.low, n.high)
		}
	}
	if m := s.IptablesMarkMask; m != nil && !r.Doubts("spec.iptablesMarkMask") && bitsOf(uint32(*m)) < 4 {
		r.Add("spec.iptablesMarkMask", "%#x: at least 4 bits must be set, as in 0xff000000", uint32(*m))
	}
	if p := s.InterfacePrefix; p != nil {
		for prefix := range strings.SplitSeq(string(*p), ",") {
			if prefix == "" || len(prefix) > 14 || strings.ContainsAny(prefix, "/+*! \t\"'") {
				r.Add("spec.interfacePrefix", "%q is no beginning of an interface's name", prefix)
			}
		}
	}
	for field, ports := range map[string]*FailsafePorts{
		"spec.failsafeInboundHostPorts": s.FailsafeInboundHostPorts, "spec.failsafeOutboundHostPorts": s.FailsafeOutboundHostPorts,
	} {
		for i, p := range deref(ports, nil) {
			if at := tree.Index(field, i); p.Port == 0 && !r.Has(at) {
				r.Add(at, "needs a port")
			}
		}
	}
}

func bitsOf(m uint32) (n int) {
	for ; m != 0; m &= m - 1 {
		n++
	}
	return n
}

// BGPConfigurationSpec is the settings of BGP that are honoured.
type BGPConfigurationSpec struct {
	LogSeverityScreen     *BGPSeverity `json:"logSeverityScreen,omitempty" raw:"loglevel"`
	NodeToNodeMeshEnabled *MeshEnabled `json:"nodeToNodeMeshEnabled,omitempty" raw:"node_mesh"`
	ASNumber              *ClusterAS   `json:"asNumber,omitempty" raw:"as_num"`

	ListenPort             scalar.Elsewhere  `json:"listenPort,omitzero"`
	BindMode               scalar.Elsewhere  `json:"bindMode,omitzero"`
	Communities            scalar.Elsewhere  `json:"communities,omitzero"`
	PrefixAdvertisements   scalar.Elsewhere  `json:"prefixAdvertisements,omitzero"`
	NodeMeshMaxRestartTime scalar.Elsewhere  `json:"nodeMeshMaxRestartTime,omitzero"`
	IgnoredInterfaces      scalar.Elsewhere  `json:"ignoredInterfaces,omitzero"`
	IPv4RoutePriority      scalar.Elsewhere  `json:"ipv4NormalRoutePriority,omitzero"`
	IPv6RoutePriority      scalar.Elsewhere  `json:"ipv6NormalRoutePriority,omitzero"`
	ProgramClusterRoutes   scalar.Elsewhere  `json:"programClusterRoutes,omitzero"`
	NodeMeshPassword       scalar.Kubernetes `json:"nodeMeshPassword,omitzero"`
	ServiceClusterIPs      scalar.Kubernetes `json:"serviceClusterIPs,omitzero"`
	ServiceExternalIPs     scalar.Kubernetes `json:"serviceExternalIPs,omitzero"`
	ServiceLoadBalancerIPs scalar.Kubernetes `json:"serviceLoadBalancerIPs,omitzero"`
	LocalPeeringV4         scalar.Kubernetes `json:"localWorkloadPeeringIPV4,omitzero"`
	LocalPeeringV6         scalar.Kubernetes `json:"localWorkloadPeeringIPV6,omitzero"`
}

// BGPSeverity is a level of logging of BGP, which logs at Debug, Info or not at all.
type BGPSeverity string

// UnmarshalText reads a level.
func (s *BGPSeverity) UnmarshalText(text []byte) error { return (*Severity)(s).UnmarshalText(text) }

// Raw is the value as the store has it.
func (s *BGPSeverity) Raw() string {
	switch *s {
	case "Debug", "Info":
		return strings.ToLower(string(*s))
	default:
		return "none"
	}
}

// SetRaw reads the store's value.
func (s *BGPSeverity) SetRaw(raw string) error {
	if raw == "none" {
		raw = "Fatal"
	}
	return s.UnmarshalText([]byte(raw))
}

// MeshEnabled says whether every node peers with every other.
type MeshEnabled bool

// Raw is the value as the store has it.
func (m *MeshEnabled) Raw() string { return fmt.Sprintf(`{"enabled":%t}`, *m) }

// SetRaw reads the store's value.
func (m *MeshEnabled) SetRaw(raw string) error {
	enabled, err := settings.ParseMesh(raw)
	*m = MeshEnabled(enabled)
	return err
}

// ClusterAS is the AS number of nodes that have none of their own.
type ClusterAS scalar.ASNumber

// UnmarshalText reads an AS number.
func (n *ClusterAS) UnmarshalText(text []byte) error {
	if err := (*scalar.ASNumber)(n).UnmarshalText(text); err != nil {
		return err
	}
	if *n == 0 {
		return errors.New("AS 0 is reserved (RFC 7607)")
	}
	return nil
}

// MarshalJSON writes the number.
func (n ClusterAS) MarshalJSON() ([]byte, error) { return scalar.ASNumber(n).MarshalJSON() }

// Raw is the value as the store has it.
func (n *ClusterAS) Raw() string { return scalar.ASNumber(*n).String() }

// SetRaw reads the store's value.
func (n *ClusterAS) SetRaw(raw string) error { return n.UnmarshalText([]byte(strings.Trim(raw, `" `))) }

func bgpConfigurationKind() dialect.Kind {
	type document = Resource[BGPConfigurationSpec]
	c := configuration("BGPConfiguration", settings.KindBGP, func(r *tree.Report, k settings.Key, s BGPConfigurationSpec) {
		if k.Node != "" && s.ASNumber != nil {
			r.Add("spec.asNumber", "is for all nodes; a node's own stands in its Node resource")
		}
		if k.Node != "" && s.NodeToNodeMeshEnabled != nil {
			r.Add("spec.nodeToNodeMeshEnabled", "is for all nodes: it can be set in default only")
		}
	}, "bgpconfiguration", "bgpconfigurations", "bgpconfig", "bgpconfigs")
	c.columns = []dialect.Column{
		nameColumn[BGPConfigurationSpec](),
		column("LOGSEVERITY", func(d *document) string { return string(deref(d.Spec.LogSeverityScreen, "")) }),
		column("MESHENABLED", func(d *document) string {
			if d.Spec.NodeToNodeMeshEnabled == nil {
				return ""
			}
			return strconv.FormatBool(bool(*d.Spec.NodeToNodeMeshEnabled))
		}),
		column("ASNUMBER", func(d *document) string {
			if d.Spec.ASNumber == nil {
				return ""
			}
			return d.Spec.ASNumber.Raw()
		}),
	}
	c.short = []string{"NAME", "LOGSEVERITY", "MESHENABLED", "ASNUMBER"}
	c.wide = c.short
	return c.dialectKind()
}

// ClusterInformationSpec is what is known of the cluster as a whole.
type ClusterInformationSpec struct {
	ClusterGUID    *Text `json:"clusterGUID,omitempty" raw:"ClusterGUID"`
	ClusterType    *Text `json:"clusterType,omitempty" raw:"ClusterType"`
	CalicoVersion  *Text `json:"calicoVersion,omitempty" raw:"CalicoVersion"`
	DatastoreReady *Flag `json:"datastoreReady,omitempty" raw:"Ready"`
}

func clusterInformationKind() dialect.Kind {
	c := configuration("ClusterInformation", settings.KindCluster, func(*tree.Report, settings.Key, ClusterInformationSpec) {},
		"clusterinformation", "clusterinformations", "clusterinfo", "clusterinfos")
	c.readOnly = "a ClusterInformation is written by the nodes themselves and can only be read"
	text := func(heading string, of func(ClusterInformationSpec) *Text) dialect.Column {
		return column(heading, func(d *Resource[ClusterInformationSpec]) string { return string(deref(of(d.Spec), "")) })
	}
	c.columns = []dialect.Column{
		nameColumn[ClusterInformationSpec](),
		text("CLUSTERGUID", func(s ClusterInformationSpec) *Text { return s.ClusterGUID }),
		text("CLUSTERTYPE", func(s ClusterInformationSpec) *Text { return s.ClusterType }),
		text("CALICOVERSION", func(s ClusterInformationSpec) *Text { return s.CalicoVersion }),
		column("DATASTOREREADY", func(d *Resource[ClusterInformationSpec]) string {
			return strconv.FormatBool(bool(deref(d.Spec.DatastoreReady, false)))
		}),
	}
	c.short = []string{"NAME", "CLUSTERGUID", "CLUSTERTYPE", "CALICOVERSION", "DATASTOREREADY"}
	c.wide = c.short
	return c.dialectKind()
}
