package config

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
)

// param is one parameter: its name, default, and how it is read into the Config and
// shown again.
type param struct {
	name string
	def  string
	// local parameters are needed before the store is read, so that the store cannot
	// hold them.
	local bool
	// live parameters can change while felix runs; for any other one it starts again.
	live bool
	// fatal parameters have no safe stand-in for a bad value.
	fatal bool
	// secret values are not shown.
	secret bool
	// parse reads a value that is not empty; zero sets what "none" stands for, and is
	// nil when that is no value.
	parse func(c *Config, value string) error
	zero  func(c *Config)
	show  func(c *Config) string
}

// params lists all parameters, in the order in which they are shown.
func params() []param {
	list := liveParams()
	for i := range list {
		list[i].live = true
	}
	return append(startParams(), list...)
}

// startParams are read at the start only.
func startParams() []param {
	return []param{
		local(textParam("FelixHostname", "", func(c *Config) *string { return &c.FelixHostname })),
		local(textParam("EtcdAddr", "127.0.0.1:2379", func(c *Config) *string { return &c.EtcdAddr })),
		local(oneOf("EtcdScheme", "http", func(c *Config) *string { return &c.EtcdScheme }, "http", "https")),
		local(listParam("EtcdEndpoints", "", func(c *Config) *[]string { return &c.EtcdEndpoints })),
		local(textParam("EtcdCaFile", "", func(c *Config) *string { return &c.EtcdCaFile })),
		local(textParam("EtcdCertFile", "", func(c *Config) *string { return &c.EtcdCertFile })),
		local(textParam("EtcdKeyFile", "", func(c *Config) *string { return &c.EtcdKeyFile })),
		local(textParam("EtcdUsername", "", func(c *Config) *string { return &c.EtcdUsername })),
		secret(local(textParam("EtcdPassword", "", func(c *Config) *string { return &c.EtcdPassword }))),

		local(fatal(oneOf("Dataplane", "auto", func(c *Config) *string { return &c.Dataplane }, "auto", "iptables", "nftables"))),
		local(fatal(oneOf("IptablesBackend", "auto", func(c *Config) *string { return &c.IptablesBackend }, "auto", "legacy", "nft"))),
		fatal(listParam("InterfacePrefix", "cali", func(c *Config) *[]string { return &c.InterfacePrefix })).check(checkPrefixes),
		boolParam("Ipv6Support", "true", func(c *Config) *bool { return &c.IPv6Support }),
	}
}

func liveParams() []param {
	return []param{
		fatal(oneOf("ChainInsertMode", "insert", func(c *Config) *string { return &c.ChainInsertMode }, "insert", "append")),
		fatal(oneOf("DefaultEndpointToHostAction", "DROP", func(c *Config) *string { return &c.DefaultEndpointToHostAction }, "DROP", "RETURN", "ACCEPT")),
		boolParam("WorkloadDNSEnabled", "true", func(c *Config) *bool { return &c.WorkloadDNSEnabled }),
		boolParam("WorkloadsReachControlPlane", "false", func(c *Config) *bool { return &c.WorkloadsReachControlPlane }),
		fatal(oneOf("IptablesFilterAllowAction", "ACCEPT", func(c *Config) *string { return &c.IptablesFilterAllowAction }, "ACCEPT", "RETURN")),
		fatal(oneOf("IptablesMangleAllowAction", "ACCEPT", func(c *Config) *string { return &c.IptablesMangleAllowAction }, "ACCEPT", "RETURN")),
		fatal(oneOf("IptablesFilterDenyAction", "DROP", func(c *Config) *string { return &c.IptablesFilterDenyAction }, "DROP", "REJECT")),
		fatal(markParam("IptablesMarkMask", "0xff000000", func(c *Config) *uint32 { return &c.IptablesMarkMask })),
		boolParam("DisableConntrackInvalidCheck", "false", func(c *Config) *bool { return &c.DisableConntrackInvalidCheck }),

		durationParam("IptablesRefreshInterval", "90", func(c *Config) *time.Duration { return &c.IptablesRefreshInterval }),
		durationParam("IpsetsRefreshInterval", "90", func(c *Config) *time.Duration { return &c.IpsetsRefreshInterval }),
		durationParam("RouteRefreshInterval", "90", func(c *Config) *time.Duration { return &c.RouteRefreshInterval }),
		intParam("MaxIpsetSize", "1048576", 1<<31-1, func(c *Config) *int { return &c.MaxIpsetSize }),
		intParam("DeviceRouteProtocol", "3", 255, func(c *Config) *int { return &c.DeviceRouteProtocol }),
		boolParam("RemoveExternalRoutes", "true", func(c *Config) *bool { return &c.RemoveExternalRoutes }),

		fatal(portsParam("FailsafeInboundHostPorts", "tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380",
			func(c *Config) *[]rules.FailsafePort { return &c.FailsafeInboundHostPorts })),
		fatal(portsParam("FailsafeOutboundHostPorts", "udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:4001,tcp:7001",
			func(c *Config) *[]rules.FailsafePort { return &c.FailsafeOutboundHostPorts })),

		textParam("LogPrefix", "calico-packet", func(c *Config) *string { return &c.LogPrefix }),
		severityParam("LogSeverityScreen", "INFO", func(c *Config) *string { return &c.LogSeverityScreen }),

		durationParam("ReportingIntervalSecs", "30", func(c *Config) *time.Duration { return &c.ReportingInterval }),
		durationParam("ReportingTTLSecs", "90", func(c *Config) *time.Duration { return &c.ReportingTTL }),
		boolParam("EndpointReportingEnabled", "false", func(c *Config) *bool { return &c.EndpointReportingEnabled }),
		durationParam("EndpointReportingDelaySecs", "1", func(c *Config) *time.Duration { return &c.EndpointReportingDelay }),

		boolParam("HealthEnabled", "false", func(c *Config) *bool { return &c.HealthEnabled }),
		textParam("HealthHost", "localhost", func(c *Config) *string { return &c.HealthHost }),
		intParam("HealthPort", "9099", 65535, func(c *Config) *int { return &c.HealthPort }),
		boolParam("PrometheusMetricsEnabled", "false", func(c *Config) *bool { return &c.PrometheusMetricsEnabled }),
		textParam("PrometheusMetricsHost", "", func(c *Config) *string { return &c.PrometheusMetricsHost }),
		intParam("PrometheusMetricsPort", "9091", 65535, func(c *Config) *int { return &c.PrometheusMetricsPort }),
	}
}

// noEffect are parameters of the original that mean nothing here.
var noEffect = []string{
	"DatastoreType", "IgnoreLooseRPF", "IptablesPostWriteCheckIntervalSecs", "NetlinkTimeoutSecs", "IptablesLockFilePath", "IptablesLockTimeoutSecs", "IptablesLockProbeIntervalMillis",
	"InterfaceExclude", "InterfaceRefreshInterval", "IpInIpEnabled", "IpInIpMtu", "IpInIpTunnelAddr",
	"TyphaAddr", "TyphaK8sServiceName", "TyphaK8sNamespace", "TyphaReadTimeout", "TyphaWriteTimeout",
	"LogFilePath", "LogSeverityFile", "LogSeveritySys", "MetadataAddr", "MetadataPort", "OpenstackRegion",
	"EndpointStatusPathPrefix", "UsageReportingEnabled", "UsageReportingInitialDelaySecs", "UsageReportingIntervalSecs",
	"UseInternalDataplaneDriver", "DataplaneDriver", "PolicySyncPathPrefix",
	"DebugMemoryProfilePath", "DebugCPUProfilePath", "DebugDisableLogDropping", "DebugSimulateCalcGraphHangAfter",
	"DebugSimulateDataplaneHangAfter", "PrometheusGoMetricsEnabled", "PrometheusProcessMetricsEnabled",
	"PrometheusWireGuardMetricsEnabled",
}

// aboutCluster stand among the parameters and are none: they say what the cluster is, and
// every cluster has them.
var aboutCluster = []string{"ClusterGUID", "ClusterType", "CalicoVersion"}

func local(p param) param  { p.local = true; return p }
func fatal(p param) param  { p.fatal = true; return p }
func secret(p param) param { p.secret = true; return p }

// check adds a check of what was read; "none" is then no value either.
func (p param) check(check func(c *Config) error) param {
	parse := p.parse
	p.zero = nil
	p.parse = func(c *Config, v string) error {
		if err := parse(c, v); err != nil {
			return err
		}
		return check(c)
	}
	return p
}

// at0 makes the function that sets a value to zero.
func at0[T any](at func(*Config) *T) func(*Config) {
	return func(c *Config) {
		var zero T
		*at(c) = zero
	}
}

func textParam(name, def string, at func(*Config) *string) param {
	return param{
		name: name, def: def, zero: at0(at),
		parse: func(c *Config, v string) error { *at(c) = v; return nil },
		show:  func(c *Config) string { return *at(c) },
	}
}

func oneOf(name, def string, at func(*Config) *string, values ...string) param {
	p := textParam(name, def, at)
	p.zero = nil
	p.parse = func(c *Config, v string) error {
		i := slices.IndexFunc(values, func(w string) bool { return strings.EqualFold(v, w) })
		if i < 0 {
			return fmt.Errorf("want one of %s", strings.Join(values, ", "))
		}
		*at(c) = values[i]
		return nil
	}
	return p
}

// severityParam is a log level: besides ours, the original's names are known.
func severityParam(name, def string, at func(*Config) *string) param {
	p := oneOf(name, def, at, "DEBUG", "INFO", "WARNING", "ERROR")
	parse := p.parse
	p.zero = at0(at)
	p.parse = func(c *Config, v string) error {
		switch strings.ToUpper(v) {
		case "WARN":
			v = "WARNING"
		case "FATAL", "CRITICAL":
			v = "ERROR"
		case "TRACE":
			v = "DEBUG"
		}
		return parse(c, v)
	}
	return p
}

func listParam(name, def string, at func(*Config) *[]string) param {
	return param{
		name: name, def: def, zero: at0(at),
		parse: func(c *Config, v string) error { *at(c) = split(v); return nil },
		show:  func(c *Config) string { return strings.Join(*at(c), ",") },
	}
}

func boolParam(name, def string, at func(*Config) *bool) param {
	return param{
		name: name, def: def, zero: at0(at),
		parse: func(c *Config, v string) error {
			switch strings.ToLower(v) {
			case "true", "1", "yes", "y", "t":
				*at(c) = true
			case "false", "0", "no", "n", "f":
				*at(c) = false
			default:
				return errors.New("want true or false")
			}
			return nil
		},
		show: func(c *Config) string { return strconv.FormatBool(*at(c)) },
	}
}

func intParam(name, def string, most int, at func(*Config) *int) param {
	return param{
		name: name, def: def,
		parse: func(c *Config, v string) error {
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 || n > most {
				return fmt.Errorf("want a number from 1 to %d", most)
			}
			*at(c) = n
			return nil
		},
		show: func(c *Config) string { return strconv.Itoa(*at(c)) },
	}
}

func markParam(name, def string, at func(*Config) *uint32) param {
	return param{
		name: name, def: def,
		parse: func(c *Config, v string) error {
			n, err := strconv.ParseUint(v, 0, 32)
			if err != nil || bits.OnesCount64(n) < 4 {
				return errors.New("want a number of 32 bits of which at least 4 are set, such as 0xff000000")
			}
			*at(c) = uint32(n)
			return nil
		},
		show: func(c *Config) string { return fmt.Sprintf("%#x", *at(c)) },
	}
}

// durationParam is a number of seconds, or a number with a unit.
func durationParam(name, def string, at func(*Config) *time.Duration) param {
	return param{
		name: name, def: def, zero: at0(at),
		parse: func(c *Config, v string) error {
			d, err := parseSeconds(v)
			if err != nil {
				return err
			}
			*at(c) = d
			return nil
		},
		show: func(c *Config) string { return strconv.FormatFloat(at(c).Seconds(), 'f', -1, 64) },
	}
}

// maxSeconds bounds durations: a year.
const maxSeconds = 365 * 24 * 3600

func parseSeconds(v string) (time.Duration, error) {
	if f, err := strconv.ParseFloat(v, 64); err == nil && f >= 0 && f <= maxSeconds {
		return time.Duration(f * float64(time.Second)), nil
	}
	if d, err := time.ParseDuration(v); err == nil && d >= 0 && d <= maxSeconds*time.Second {
		return d, nil
	}
	return 0, errors.New("want a number of seconds, such as 30 or 0.5")
}

func portsParam(name, def string, at func(*Config) *[]rules.FailsafePort) param {
	return param{
		name: name, def: def, zero: at0(at),
		parse: func(c *Config, v string) error {
			var list []rules.FailsafePort
			for _, item := range split(v) {
				p, err := parseFailsafe(item)
				if err != nil {
					return err
				}
				list = append(list, p)
			}
			*at(c) = list
			return nil
		},
		show: func(c *Config) string {
			var list []string
			for _, p := range *at(c) {
				list = append(list, showFailsafe(p))
			}
			return strings.Join(list, ",")
		},
	}
}

// parseFailsafe reads <port>, <protocol>:<port> or <protocol>:<net>:<port>, an IPv6 net
// in brackets. A port alone is TCP.
func parseFailsafe(item string) (p rules.FailsafePort, err error) {
	fault := fmt.Errorf("%q: want <protocol>:<port> or <protocol>:<net>:<port> with protocol tcp or udp, such as tcp:22 or tcp:10.0.0.0/8:22, or none", item)
	proto, rest, found := strings.Cut(item, ":")
	if !found {
		proto, rest = "tcp", item
	}
	switch strings.ToLower(proto) {
	case "tcp":
		p.Protocol = desired.TCP
	case "udp":
		p.Protocol = desired.UDP
	default:
		return p, fault
	}
	if i := strings.LastIndex(rest, ":"); i >= 0 {
		network := strings.TrimSuffix(strings.TrimPrefix(rest[:i], "["), "]")
		if p.Net, err = netip.ParsePrefix(network); err != nil {
			return p, fault
		}
		p.Net, rest = p.Net.Masked(), rest[i+1:]
	}
	n, err := strconv.ParseUint(rest, 10, 16)
	if err != nil || n == 0 {
		return p, fault
	}
	p.Port = uint16(n)
	return p, nil
}

func showFailsafe(p rules.FailsafePort) string {
	port := strconv.Itoa(int(p.Port))
	switch {
	case !p.Net.IsValid():
		return p.Protocol.String() + ":" + port
	case p.Net.Addr().Is4():
		return p.Protocol.String() + ":" + p.Net.String() + ":" + port
	}
	return p.Protocol.String() + ":[" + p.Net.String() + "]:" + port
}

// maxPrefix leaves room for at least one character in an interface's name of 15.
const maxPrefix = 14

func checkPrefixes(c *Config) error {
	if len(c.InterfacePrefix) == 0 {
		return errors.New("want at least one prefix, such as cali")
	}
	for _, p := range c.InterfacePrefix {
		if len(p) > maxPrefix || strings.ContainsAny(p, "/+*! \t\"'") {
			return fmt.Errorf("%q: is no beginning of an interface's name", p)
		}
	}
	return nil
}

// split separates a list by commas and drops empty items.
func split(v string) []string {
	var list []string
	for item := range strings.SplitSeq(v, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}
