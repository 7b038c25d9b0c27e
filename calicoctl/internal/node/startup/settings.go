// Package startup is what the container calico-node does first: it finds out who this
// host is, checks that against the store, and writes the host's node resource and
// whatever the cluster lacks of defaults, all in one transaction. settings.go and
// plan.go are pure.
package startup

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"calico.internal/calicoctl/internal/node/address"
	"calico.internal/libcalico/model"
)

// The pools of a cluster that says nothing else.
var (
	defaultPool4 = netip.MustParsePrefix("192.168.0.0/16")
	defaultPool6 = netip.MustParsePrefix("fd80:24e2:f998:72d6::/64")
)

// settings is what the environment asks for.
type settings struct {
	nodeName string
	// ip4 and ip6 are "", "autodetect" or an address with or without its subnet.
	ip4, ip6         string
	method4, method6 address.Method
	as               *model.ASNumber
	backend          string
	checkConflicts   bool
	waitForStore     bool
	noPools          bool
	pool4, pool6     poolSettings
	clusterType      string
	ipv6             bool
}

// poolSettings is how the default pool of a family is to be.
type poolSettings struct {
	cidr netip.Prefix
	// given says that the environment named the pool.
	given    bool
	ipipMode string
	nat      bool
	// natNote is the line that says where nat came from.
	natNote string
}

// readSettings reads the environment and returns every fault found in it.
func readSettings(getenv func(string) string, nodeName string, ipv6Kernel bool) (settings, error) {
	var faults []error
	note := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	s := settings{
		nodeName: nodeName, ip4: getenv("IP"), ip6: getenv("IP6"),
		backend:        orDefault(getenv("CALICO_NETWORKING_BACKEND"), "gobgp"),
		checkConflicts: getenv("DISABLE_NODE_IP_CHECK") != "true",
		waitForStore:   getenv("WAIT_FOR_DATASTORE") == "true",
		noPools:        getenv("NO_DEFAULT_POOLS") == "true",
		clusterType:    getenv("CLUSTER_TYPE"),
		ipv6:           ipv6Kernel && getenv("FELIX_IPV6SUPPORT") != "false",
	}
	var err error
	s.method4, err = address.Parse(getenv("IP_AUTODETECTION_METHOD"))
	note(err)
	s.method6, err = address.Parse(getenv("IP6_AUTODETECTION_METHOD"))
	note(err)
	note(checkAddress("IP", s.ip4, 4))
	note(checkAddress("IP6", s.ip6, 6))
	if text := getenv("AS"); text != "" {
		as, err := model.ParseASNumber(text)
		note(prefixed(err, "AS=%s", text))
		s.as = &as
	}
	s.pool4, err = readPool(getenv, 4, defaultPool4, true)
	note(err)
	s.pool6, err = readPool(getenv, 6, defaultPool6, false)
	note(err)
	if s.noPools && (s.pool4.given || s.pool6.given) {
		note(errors.New("NO_DEFAULT_POOLS=true and CALICO_IPV4POOL_CIDR or CALICO_IPV6POOL_CIDR exclude each other: set one of them"))
	}
	return s, errors.Join(faults...)
}

func prefixed(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

func orDefault(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// parseAddress reads an address with or without the length of its subnet.
func parseAddress(text string) (netip.Prefix, bool, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), false, nil
	}
	p, err := netip.ParsePrefix(text)
	return p, true, err
}

func checkAddress(name, text string, family int) error {
	if text == "" || text == "autodetect" {
		return nil
	}
	p, _, err := parseAddress(text)
	if err != nil || (family == 4) != p.Addr().Is4() {
		return fmt.Errorf("%s=%s is not an IPv%d address: give an address, or autodetect", name, text, family)
	}
	return nil
}

func readPool(getenv func(string) string, family int, cidr netip.Prefix, nat bool) (poolSettings, error) {
	name := func(rest string) string { return fmt.Sprintf("CALICO_IPV%dPOOL_%s", family, rest) }
	p := poolSettings{cidr: cidr, nat: nat}
	if text := getenv(name("CIDR")); text != "" {
		given, err := netip.ParsePrefix(text)
		if err != nil || (family == 4) != given.Addr().Is4() || given != given.Masked() {
			return p, fmt.Errorf("%s=%s is not an IPv%d network: expected one such as %s", name("CIDR"), text, family, cidr)
		}
		p.cidr, p.given = given, true
	}
	text, origin := getenv(name("NAT_OUTGOING")), "set"
	if text == "" {
		text, origin = strconv.FormatBool(nat), "defaulted"
	}
	var err error
	if p.nat, err = strconv.ParseBool(text); err != nil {
		return p, fmt.Errorf("%s=%s is neither true nor false", name("NAT_OUTGOING"), text)
	}
	p.natNote = fmt.Sprintf("%s is %t (%s) through environment variable", name("NAT_OUTGOING"), p.nat, origin)
	if family == 6 {
		return p, nil
	}
	switch mode := strings.ToLower(getenv(name("IPIP"))); mode {
	case "", "off", "never":
	case model.IPIPAlways, model.IPIPCrossSubnet:
		p.ipipMode = mode
	default:
		return p, fmt.Errorf("%s=%s: use always, cross-subnet or off", name("IPIP"), mode)
	}
	return p, nil
}
