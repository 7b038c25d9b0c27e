package launch

import (
	"slices"
	"strings"
)

// felixParameters are those that felix reads from its environment and that have an effect.
// Where etcd is, and who this host is, stand in the container's own variables.
var felixParameters = []string{
	"ChainInsertMode", "Dataplane", "DefaultEndpointToHostAction", "DeviceRouteProtocol", "DisableConntrackInvalidCheck",
	"EndpointReportingDelaySecs", "EndpointReportingEnabled", "FailsafeInboundHostPorts", "FailsafeOutboundHostPorts",
	"HealthEnabled", "HealthHost", "HealthPort", "InterfacePrefix", "IpsetsRefreshInterval", "IptablesBackend",
	"IptablesFilterAllowAction", "IptablesFilterDenyAction", "IptablesMangleAllowAction", "IptablesMarkMask",
	"IptablesRefreshInterval", "Ipv6Support", "LogPrefix", "LogSeverityScreen", "MaxIpsetSize", "PrometheusMetricsEnabled",
	"PrometheusMetricsHost", "PrometheusMetricsPort", "RemoveExternalRoutes", "ReportingIntervalSecs", "ReportingTTLSecs",
	"RouteRefreshInterval", "WorkloadDNSEnabled", "WorkloadsReachControlPlane",
}

// felixParameter is a parameter's name as felix writes it; felix itself does not mind its
// case, nor whether it begins with FELIX_.
func felixParameter(name string) (string, bool) {
	if len(name) > len("FELIX_") && strings.EqualFold(name[:len("FELIX_")], "FELIX_") {
		name = name[len("FELIX_"):]
	}
	i := slices.IndexFunc(felixParameters, func(known string) bool { return strings.EqualFold(known, name) })
	if i < 0 {
		return "", false
	}
	return felixParameters[i], true
}

// FelixParameters are the names that --felix takes.
func FelixParameters() []string { return slices.Clone(felixParameters) }
