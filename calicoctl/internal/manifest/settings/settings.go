// Package settings makes resources of the raw settings of felix and BGP, each of which
// has a key of its own in the store: the v3 dialect writes them as one document for the
// cluster ("default") and one for each node ("node.<node>"). It is pure.
package settings

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"calico.internal/libcalico/model"
)

// The kinds of such resources.
const (
	KindFelix   model.Kind = "felixConfiguration"
	KindBGP     model.Kind = "bgpConfiguration"
	KindCluster model.Kind = "clusterInformation"
)

// Kinds lists the kinds.
func Kinds() []model.Kind { return []model.Kind{KindFelix, KindBGP, KindCluster} }

// Key names the settings of all nodes (Node empty), or of one.
type Key struct {
	Of   model.Kind
	Node string
}

// Kind is the kind of the settings.
func (k Key) Kind() model.Kind { return k.Of }

// String is the key as messages show it.
func (k Key) String() string { return string(k.Of) + "(name=" + k.Name() + ")" }

const (
	global     = "default"
	nodePrefix = "node."
)

// Name is the name of the settings.
func (k Key) Name() string {
	if k.Node == "" {
		return global
	}
	return nodePrefix + k.Node
}

// ParseName is the inverse of Name.
func ParseName(of model.Kind, name string) (Key, bool) {
	node, isNode := strings.CutPrefix(name, nodePrefix)
	switch {
	case name == global:
		return Key{Of: of}, true
	case isNode && node != "":
		return Key{Of: of, Node: node}, true
	}
	return Key{}, false
}

// Metadata is where what only the v3 dialect knows of the settings stands; ok is false
// for settings that have none.
func (k Key) Metadata() (key model.ConfigurationKey, ok bool) {
	switch k.Of {
	case KindFelix:
		return model.ConfigurationKey{Of: model.FelixConfigurations, Name: k.Name()}, true
	case KindBGP:
		return model.ConfigurationKey{Of: model.BGPConfigurations, Name: k.Name()}, true
	default:
		return model.ConfigurationKey{}, false
	}
}

// Raw is the store's key of one of the settings.
func (k Key) Raw(name string) model.Key {
	if k.Of == KindBGP {
		return model.BGPConfigKey{Node: k.Node, Name: name}
	}
	return model.FelixConfigKey{Node: k.Node, Name: name}
}

// Of tells which settings a raw one belongs to, and its name there. Those about the
// cluster as a whole are not felix's.
func Of(raw model.Key) (k Key, name string, ok bool) {
	switch raw := raw.(type) {
	case model.FelixConfigKey:
		if slices.Contains(clusterNames, raw.Name) {
			return Key{Of: KindCluster}, raw.Name, raw.Node == ""
		}
		return Key{KindFelix, raw.Node}, raw.Name, true
	case model.BGPConfigKey:
		return Key{KindBGP, raw.Node}, raw.Name, true
	}
	return Key{}, "", false
}

// The raw settings about the cluster as a whole.
const (
	ClusterGUID   = "ClusterGUID"
	ClusterType   = "ClusterType"
	CalicoVersion = "CalicoVersion"
	// Ready stands for the flag that is not a setting of felix.
	Ready = "Ready"
)

var clusterNames = []string{ClusterGUID, ClusterType, CalicoVersion}

// Settings is the values of raw settings by name.
type Settings struct {
	model.Meta

	Of     model.Kind
	Values map[string]string
	// Revisions is at which revisions the store has the values, by their keys; it is for
	// the store's use.
	Revisions map[model.Key]int64
}

// Kind is the kind of the settings.
func (s *Settings) Kind() model.Kind { return s.Of }

// Equal reports whether both have the same metadata and values.
func (s *Settings) Equal(other *Settings) bool {
	return maps.Equal(s.Values, other.Values) && s.UID == other.UID && s.CreationTimestamp.Equal(other.CreationTimestamp) &&
		maps.Equal(s.Annotations, other.Annotations) && maps.Equal(s.V3Labels, other.V3Labels) &&
		s.Unknown == other.Unknown && maps.EqualFunc(s.V3Inert, other.V3Inert, func(a, b json.RawMessage) bool { return string(a) == string(b) })
}

// known is the raw settings that the dialect has fields for.
var known = map[model.Kind][]string{
	KindFelix: {
		"InterfacePrefix", "Ipv6Support", "IpInIpEnabled", "DefaultEndpointToHostAction",
		"ChainInsertMode", "IptablesFilterAllowAction", "IptablesMangleAllowAction", "IptablesFilterDenyAction",
		"IptablesMarkMask", "DisableConntrackInvalidCheck", "IptablesRefreshInterval",
		"IpsetsRefreshInterval", "RouteRefreshInterval", "MaxIpsetSize",
		"DeviceRouteProtocol", "RemoveExternalRoutes", "WorkloadDNSEnabled", "WorkloadsReachControlPlane", "FailsafeInboundHostPorts", "FailsafeOutboundHostPorts",
		"LogPrefix", "LogSeverityScreen", "ReportingIntervalSecs", "ReportingTTLSecs",
		"EndpointReportingEnabled", "EndpointReportingDelaySecs", "HealthEnabled", "HealthHost",
		"HealthPort", "PrometheusMetricsEnabled", "PrometheusMetricsHost", "PrometheusMetricsPort",
		"LogFilePath", "LogSeverityFile", "LogSeveritySys", "IptablesPostWriteCheckIntervalSecs",
		"IptablesLockFilePath", "IptablesLockProbeIntervalMillis", "IptablesLockTimeoutSecs", "NetlinkTimeoutSecs",
		"UsageReportingEnabled", "UsageReportingInitialDelaySecs", "UsageReportingIntervalSecs", "DebugMemoryProfilePath", "DebugDisableLogDropping",
		"PrometheusGoMetricsEnabled", "PrometheusProcessMetricsEnabled", "PrometheusWireGuardMetricsEnabled",
	},
	KindBGP:     {"loglevel", "node_mesh", "as_num"},
	KindCluster: {ClusterGUID, ClusterType, CalicoVersion, Ready},
}

// Known lists the raw settings of a kind that the dialect has fields for.
func Known(of model.Kind) []string { return known[of] }

// Exists reports whether there is anything that the dialect can show: metadata, or a
// setting that it has a field for.
func (s *Settings) Exists() bool {
	if s.UID != "" {
		return true
	}
	return slices.ContainsFunc(known[s.Of], func(name string) bool { _, ok := s.Values[name]; return ok })
}
