// Package config turns felix's raw parameters into typed values, and knows where each
// came from. It is pure: the file's text, the environment and what the store holds are
// arguments.
//
// A parameter's value comes from the first of these that gives one:
//
//	environment   FELIX_<NAME>, whatever the case of the name
//	file          /etc/calico/felix.cfg
//	host          /calico/v1/host/<node>/config/<Name>
//	global        /calico/v1/config/<Name>
//	default
//
// An empty value counts as none given. The value "none" forces the parameter's zero
// value (no ports, no logging), which an empty one cannot do.
package config

import (
	"time"

	"calico.internal/felix/internal/rules"
)

// Config is the effective configuration. Parameters have the names of the fields, unless
// their descriptions in the parameter table say otherwise.
type Config struct {
	FelixHostname string

	EtcdAddr, EtcdScheme       string
	EtcdEndpoints              []string
	EtcdCaFile, EtcdCertFile   string
	EtcdKeyFile                string
	EtcdUsername, EtcdPassword string

	// Dataplane is auto, iptables or nftables.
	Dataplane string
	// IptablesBackend is auto, legacy or nft.
	IptablesBackend string

	// WorkloadsReachControlPlane opens etcd and the nodes' BGP port to workloads, as far as
	// their policy allows it.
	WorkloadsReachControlPlane bool

	// WorkloadDNSEnabled lets containers ask their gateway for names, whatever policy says.
	WorkloadDNSEnabled bool

	InterfacePrefix []string
	IPv6Support     bool

	// ChainInsertMode is insert or append.
	ChainInsertMode string
	// DefaultEndpointToHostAction is DROP, RETURN or ACCEPT.
	DefaultEndpointToHostAction string
	// IptablesFilterAllowAction and IptablesMangleAllowAction are ACCEPT or RETURN.
	IptablesFilterAllowAction, IptablesMangleAllowAction string
	// IptablesFilterDenyAction is DROP or REJECT.
	IptablesFilterDenyAction     string
	IptablesMarkMask             uint32
	DisableConntrackInvalidCheck bool

	// Intervals of audits; 0 switches them off.
	IptablesRefreshInterval time.Duration
	IpsetsRefreshInterval   time.Duration
	RouteRefreshInterval    time.Duration

	MaxIpsetSize         int
	DeviceRouteProtocol  int
	RemoveExternalRoutes bool

	FailsafeInboundHostPorts, FailsafeOutboundHostPorts []rules.FailsafePort

	LogPrefix string
	// LogSeverityScreen is DEBUG, INFO, WARNING, ERROR, or empty for no log.
	LogSeverityScreen string

	ReportingInterval, ReportingTTL time.Duration
	EndpointReportingEnabled        bool
	EndpointReportingDelay          time.Duration

	HealthEnabled            bool
	HealthHost               string
	HealthPort               int
	PrometheusMetricsEnabled bool
	PrometheusMetricsHost    string
	PrometheusMetricsPort    int
}

// Rules is the part of the configuration that the rules depend on.
func (c *Config) Rules() rules.Config {
	r := rules.DefaultConfig()
	r.WorkloadPrefixes = c.InterfacePrefix
	r.MarkMask = c.IptablesMarkMask
	r.EndpointToHost = verb(c.DefaultEndpointToHostAction)
	r.FilterAllow = verb(c.IptablesFilterAllowAction)
	r.MangleAllow = verb(c.IptablesMangleAllowAction)
	r.FilterDeny = verb(c.IptablesFilterDenyAction)
	if c.ChainInsertMode == "append" {
		r.HookPosition = rules.Last
	}
	r.LogPrefix = c.LogPrefix
	r.NoInvalidCheck = c.DisableConntrackInvalidCheck
	r.WorkloadDNS = c.WorkloadDNSEnabled
	r.ReachControlPlane = c.WorkloadsReachControlPlane
	r.FailsafeInbound = c.FailsafeInboundHostPorts
	r.FailsafeOutbound = c.FailsafeOutboundHostPorts
	return r
}

// verb is the action that a parameter names.
func verb(name string) rules.Verb {
	switch name {
	case "ACCEPT":
		return rules.Accept
	case "RETURN":
		return rules.Return
	case "REJECT":
		return rules.Reject
	}
	return rules.Drop
}
