package nodestart

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nodestart/address"
)

// The pools of a cluster that says nothing else.
var (
	defaultPool4 = netip.MustParsePrefix("192.168.0.0/16")
	defaultPool6 = netip.MustParsePrefix("fd80:24e2:f998:72d6::/64")
)

// What IP and IP6 can be besides an address.
const (
	autodetect = "autodetect"
	noAddress  = "none"
)

// The kinds of BGP that CALICO_NETWORKING_BACKEND names. bird is gobgp by another name.
const (
	backendGoBGP = "gobgp"
	backendBIRD  = "bird"
	backendNone  = "none"
)

// settings is what the environment asks for.
type settings struct {
	// ip4 and ip6 are "", autodetect, noAddress or an address with or without its subnet.
	ip4, ip6         string
	method4, method6 address.Method
	as               *model.ASNumber
	backend          string
	programs         []string
	supervisor       string // of the programs; empty when it does not report
	checkConflicts   bool
	waitForStore     bool
	noPools          bool
	pool4, pool6     poolSettings
	clusterType      string
	ipv6             bool
	// logLevel is debug, info, warning, error, fatal or panic.
	logLevel string
	// poll is how often the addresses are looked at; 0: never.
	poll time.Duration
	// force moves the name from another host that lives.
	force bool
	// nodenameFile is one more file for the name.
	nodenameFile string
	// ignored are variables that have no effect here.
	ignored []string
}

// poolSettings is how the default pool of a family is to be.
type poolSettings struct {
	pool model.IPPool
	// named says that the environment has its range, and given are all variables that it has
	// of the pool, with their values.
	named    bool
	given    []string
	ipipMode string
	// natNote is the line that says where the pool's NAT came from.
	natNote string
}

// readSettings reads the environment and returns every fault found in it. etcd are the URLs at
// which etcd is.
func readSettings(getenv func(string) string, etcd []string, ipv6Kernel bool) (settings, error) {
	r := &reader{getenv: getenv}
	s := settings{
		backend:        r.backend(),
		checkConflicts: !r.flag("DISABLE_NODE_IP_CHECK"),
		waitForStore:   r.flag("WAIT_FOR_DATASTORE"),
		noPools:        r.flag("NO_DEFAULT_POOLS"),
		clusterType:    getenv("CLUSTER_TYPE"),
		ipv6:           ipv6Kernel && getenv("FELIX_IPV6SUPPORT") != "false",
		logLevel:       r.oneOf("CALICO_STARTUP_LOGLEVEL", "info", "debug", "warning", "error", "fatal", "panic"),
		poll:           r.interval("AUTODETECT_POLL_INTERVAL", time.Minute),
		force:          r.flag("CALICO_FORCE_NAME"),
		nodenameFile:   getenv("CALICO_NODENAME_FILE"),
	}
	for _, name := range []string{"CALICO_DISABLE_FELIX", "CALICO_DISABLE_FILE_LOGGING"} {
		r.flag(name) // which programs run is decided in several places
	}
	if text := getenv(PluginVariable); text != PluginOnHost && !isFlag(text) {
		r.note(fmt.Errorf("%s=%s: use true, false or host", PluginVariable, text))
	}
	hosts := hostsOf(etcd)
	s.ip4, s.method4 = r.address("IP", 4), r.method("IP_AUTODETECTION_METHOD", hosts)
	s.ip6, s.method6 = r.address("IP6", 6), r.method("IP6_AUTODETECTION_METHOD", hosts)
	s.programs = programs(getenv, s.backend)
	if text := getenv("AS"); text != "" {
		as, err := model.ParseASNumber(text)
		r.note(prefixed(err, "AS=%s", text))
		s.as = &as
	}
	s.pool4, s.pool6 = r.pool(4, defaultPool4, true), r.pool(6, defaultPool6, false)
	if s.noPools && (s.pool4.named || s.pool6.named) {
		r.note(errors.New("NO_DEFAULT_POOLS=true and CALICO_IPV4POOL_CIDR or CALICO_IPV6POOL_CIDR exclude each other: set one of them"))
	}
	for _, name := range []string{"VXLAN_VNI", "CALICO_K8S_NODE_REF"} {
		if getenv(name) != "" {
			s.ignored = append(s.ignored, name)
		}
	}
	return s, errors.Join(r.faults...)
}

// readHost reads the environment of this host.
func readHost(cfg Config) (settings, error) {
	_, ipv6 := os.Stat("/proc/sys/net/ipv6")
	s, err := readSettings(cfg.Getenv, cfg.Store.Endpoints, ipv6 == nil)
	s.force = s.force || cfg.Force
	return s, err
}

// hostsOf are the names and addresses in URLs.
func hostsOf(urls []string) []string {
	var out []string
	for _, text := range urls {
		if u, err := url.Parse(text); err == nil && u.Hostname() != "" {
			out = append(out, u.Hostname())
		}
	}
	return out
}

// Backend is the kind of BGP that an environment asks for: gobgp, bird (the same) or none.
func Backend(getenv func(string) string) (string, error) {
	r := &reader{getenv: getenv}
	return r.backend(), errors.Join(r.faults...)
}

func (r *reader) backend() string {
	return r.oneOf("CALICO_NETWORKING_BACKEND", backendGoBGP, backendBIRD, backendNone)
}

// PluginVariable says who serves Docker's networks on a host: the container calico-node,
// a service of the host, or nobody.
const (
	PluginVariable    = "CALICO_LIBNETWORK_ENABLED"
	PluginInContainer = "true"
	PluginOnHost      = "host"
)

// ServesDocker says whether the plugin must run on a host whose [PluginVariable] has a value.
func ServesDocker(value string) bool { return value == PluginInContainer || value == PluginOnHost }

// reporting are the programs of the host that report while they live, sorted by name.
func (s settings) reporting() []string {
	if s.supervisor == "" {
		return s.programs
	}
	return slices.Sorted(slices.Values(append(slices.Clone(s.programs), s.supervisor)))
}

// programs are those that must run on a host, sorted by name.
func programs(getenv func(string) string, backend string) []string {
	var out []string
	if getenv("CALICO_DISABLE_FELIX") != "true" {
		out = append(out, "felix")
	}
	if backend != backendNone {
		out = append(out, "bgpd", "confd")
	}
	if ServesDocker(getenv(PluginVariable)) {
		out = append(out, "libnetwork")
	}
	slices.Sort(out)
	return out
}

// reader turns variables into values and collects what is wrong.
type reader struct {
	getenv func(string) string
	faults []error
}

func (r *reader) note(err error) {
	if err != nil {
		r.faults = append(r.faults, err)
	}
}

// oneOf is a variable that has one of some values, in lower case; the first is the default.
func (r *reader) oneOf(name string, values ...string) string {
	text := r.getenv(name)
	value := strings.ToLower(text)
	if name == "CALICO_STARTUP_LOGLEVEL" && value == "warn" {
		value = "warning"
	}
	if value == "" {
		return values[0]
	}
	if !slices.Contains(values, value) {
		r.note(fmt.Errorf("%s=%s: use %s", name, text, strings.Join(values[:len(values)-1], ", ")+" or "+values[len(values)-1]))
	}
	return value
}

// flag is whether a variable is "true". What only looks like that has no effect, as for the
// original, and is refused.
func (r *reader) flag(name string) bool {
	text := r.getenv(name)
	if !isFlag(text) {
		r.note(fmt.Errorf("%s=%s: use true or false", name, text))
	}
	return text == "true"
}

// isFlag is whether a text is true, or one of those that say no.
func isFlag(text string) bool {
	yes, err := strconv.ParseBool(text)
	return text == "" || text == "true" || err == nil && !yes
}

// interval is a time, such as 60s, or a number of seconds.
func (r *reader) interval(name string, otherwise time.Duration) time.Duration {
	text := r.getenv(name)
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if seconds, bad := strconv.Atoi(text); bad == nil {
		d, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || d < 0 || d > 0 && d < time.Second {
		r.note(fmt.Errorf("%s=%s is not a time of a second or more: use one such as 60s, or 0 for never", name, text))
	}
	return d
}

func (r *reader) address(name string, family int) string {
	text := r.getenv(name)
	if text == "" || text == autodetect || text == noAddress {
		return text
	}
	p, _, err := parseAddress(text)
	if err != nil || (family == 4) != p.Addr().Is4() {
		r.note(fmt.Errorf("%s=%s is not an IPv%d address: give an address, autodetect, or none", name, text, family))
		return text
	}
	if a := p.Addr(); strings.Contains(text, "%") || !a.IsGlobalUnicast() || ofNetwork(p) {
		r.note(fmt.Errorf("%s=%s is no address by which other hosts reach this one: give an address of one of its interfaces, autodetect, or none", name, text))
	}
	return text
}

// ofNetwork says whether an address with its network is the network's own, or that of all its
// hosts.
func ofNetwork(p netip.Prefix) bool {
	if !p.Addr().Is4() || p.Bits() >= p.Addr().BitLen()-1 {
		return false
	}
	a := binary.BigEndian.Uint32(p.Addr().AsSlice())
	hosts := uint32(1)<<(32-p.Bits()) - 1
	return a&hosts == 0 || a&hosts == hosts
}

func (r *reader) method(name string, etcd []string) address.Method {
	text := r.getenv(name)
	if text == "" {
		return address.Default(etcd)
	}
	m, err := address.Parse(text)
	r.note(err)
	return m
}

func prefixed(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// parseAddress reads an address with or without the length of its subnet.
func parseAddress(text string) (netip.Prefix, bool, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), false, nil
	}
	p, err := netip.ParsePrefix(text)
	return p, true, err
}

// pool reads how the default pool of a family is to be.
func (r *reader) pool(family int, cidr netip.Prefix, nat bool) poolSettings {
	p := poolSettings{pool: model.IPPool{CIDR: cidr, IPAM: true}}
	get := func(rest string) (name, text string) {
		name = fmt.Sprintf("CALICO_IPV%dPOOL_%s", family, rest)
		if text = r.getenv(name); text != "" {
			p.given = append(p.given, name+"="+text)
		}
		return name, text
	}
	faults := len(r.faults)
	if name, text := get("CIDR"); text != "" {
		given, err := netip.ParsePrefix(text)
		if err != nil || (family == 4) != given.Addr().Is4() || given != given.Masked() {
			r.note(fmt.Errorf("%s=%s is not an IPv%d network: expected one such as %s", name, text, family, cidr))
		}
		p.pool.CIDR, p.named = given, true
	}
	if name, text := get("BLOCK_SIZE"); text != "" {
		size, err := strconv.Atoi(text)
		if err != nil || size <= 0 {
			r.note(fmt.Errorf("%s=%s is not the length of a network", name, text))
		}
		p.pool.BlockSize = size
	}
	_, p.pool.NodeSelector = get("NODE_SELECTOR")
	p.pool.DisableBGPExport = r.boolean(get, "DISABLE_BGP_EXPORT", false)
	p.pool.Masquerade = r.boolean(get, "NAT_OUTGOING", nat)
	origin := "set"
	if r.getenv(fmt.Sprintf("CALICO_IPV%dPOOL_NAT_OUTGOING", family)) == "" {
		origin = "defaulted"
	}
	p.natNote = fmt.Sprintf("CALICO_IPV%dPOOL_NAT_OUTGOING is %t (%s) through environment variable", family, p.pool.Masquerade, origin)
	r.tunnels(&p, get)
	if len(r.faults) == faults {
		for _, f := range model.Faults(model.Validate(model.IPPoolKey{CIDR: p.pool.CIDR}, &p.pool)) {
			r.note(fmt.Errorf("the default IPv%d pool (%s): %s: %s", family, strings.Join(p.given, ", "), f.Field, f.Reason))
		}
	}
	return p
}

func (r *reader) boolean(get func(string) (string, string), rest string, otherwise bool) bool {
	name, text := get(rest)
	if text == "" {
		return otherwise
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		r.note(fmt.Errorf("%s=%s is neither true nor false", name, text))
	}
	return value
}

// tunnels reads what asks for tunnels, of which there are none yet.
func (r *reader) tunnels(p *poolSettings, get func(string) (string, string)) {
	switch name, text := get("IPIP"); strings.ToLower(text) {
	case "", "off", "never":
	case model.IPIPAlways, model.IPIPCrossSubnet, "crosssubnet":
		p.ipipMode = strings.ToLower(text)
		if p.pool.CIDR.Addr().Is6() {
			r.note(fmt.Errorf("%s=%s: IP-in-IP is for IPv4 only; leave it out", name, text))
		}
	default:
		r.note(fmt.Errorf("%s=%s: use always, cross-subnet or off", name, text))
	}
	if name, text := get("VXLAN"); text != "" && !strings.EqualFold(text, "never") && !strings.EqualFold(text, "off") {
		r.note(fmt.Errorf("%s=%s: VXLAN is not served: pools are routed directly; leave it out, or say Never", name, text))
	}
}
