package model

import (
	"encoding/json"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

var (
	linkLocalV4 = netip.MustParsePrefix("169.254.0.0/16")
	linkLocalV6 = netip.MustParsePrefix("fe80::/10")
)

// The block sizes that pools may choose, and what they get otherwise.
const (
	DefaultBlockSizeV4 = 26
	DefaultBlockSizeV6 = 122

	minBlockSizeV4, maxBlockSizeV4 = 20, 32
	minBlockSizeV6, maxBlockSizeV6 = 116, 128
)

func checkFelixConfig(f *faults, k FelixConfigKey, _ *Setting) {
	f.node(k.Node)
	f.name("metadata.name", k.Name)
}

func checkBGPConfig(f *faults, k BGPConfigKey, s *Setting) {
	f.node(k.Node)
	f.name("metadata.name", k.Name)
	if k.Node != "" && isNodePart(k.Name) {
		f.add("metadata.name", k.Name, "belongs to the node "+k.Node+" itself")
		return
	}
	switch k.Name {
	case "as_num":
		as, err := ParseASNumber(rawText([]byte(s.Value)))
		f.unless(err == nil && !as.Reserved(), "value", s.Value, "not an AS number that somebody can have (1 to 4294967294, and not 23456)")
	case "node_mesh":
		var mesh struct {
			Enabled *bool `json:"enabled"`
		}
		err := json.Unmarshal([]byte(s.Value), &mesh)
		f.unless(err == nil && mesh.Enabled != nil, "value", s.Value, `must be {"enabled":true} or {"enabled":false}`)
	case "loglevel":
		switch s.Value {
		case "none", "debug", "info":
		default:
			f.add("value", s.Value, "must be none, debug or info")
		}
	}
}

// node checks the node of a key that may be global.
func (f *faults) node(node string) {
	if node != "" {
		f.name("metadata.node", node)
	}
}

func checkTier(f *faults, k TierKey, t *Tier) {
	f.meta(t.Meta)
	f.name("metadata.name", k.Name)
	f.order(t.Order)
	switch t.DefaultAction {
	case "", TierDeny, TierPass:
	default:
		f.add("spec.defaultAction", t.DefaultAction, "must be Deny or Pass")
	}
}

func (f *faults) order(order *float64) {
	if order != nil {
		f.unless(!math.IsNaN(*order) && !math.IsInf(*order, 0), "spec.order", *order, "not a number")
	}
}

func checkProfile(f *faults, k ProfileKey, p *Profile) {
	f.meta(p.Meta)
	f.path("metadata.name", k.Name)
	f.labels(p.Labels)
	for i, tag := range p.Tags {
		f.name(indexed("metadata.tags", i), tag)
	}
	f.rules("spec.ingress", p.InboundRules)
	f.rules("spec.egress", p.OutboundRules)
}

func checkPolicy(f *faults, k PolicyKey, p *Policy) {
	f.meta(p.Meta)
	if k.Tier != "" {
		f.name("metadata.tier", k.Tier)
	}
	f.path("metadata.name", k.Name)
	f.order(p.Order)
	f.selector("spec.selector", p.Selector)
	f.rules("spec.ingress", p.InboundRules)
	f.rules("spec.egress", p.OutboundRules)
	f.policyTypes(p)
	if p.PreDNAT {
		f.unless(!p.DoNotTrack, "spec.preDNAT", true, "excludes doNotTrack")
		f.unless(len(p.OutboundRules) == 0, "spec.egress", len(p.OutboundRules), "a preDNAT policy has no egress rules")
	}
}

func (f *faults) policyTypes(p *Policy) {
	seen := map[string]bool{}
	for i, t := range p.Types {
		field := indexed("spec.types", i)
		switch {
		case t != PolicyTypeIngress && t != PolicyTypeEgress:
			f.add(field, t, "must be ingress or egress")
		case seen[t]:
			f.add(field, t, "stands there twice")
		case t == PolicyTypeEgress && p.PreDNAT:
			f.add(field, t, "a preDNAT policy has no egress")
		}
		seen[t] = true
	}
}

func checkNetworkSet(f *faults, k NetworkSetKey, s *NetworkSet) {
	f.meta(s.Meta)
	f.path("metadata.name", k.Name)
	f.labels(s.Labels)
	for i, p := range s.Nets {
		f.cidr(indexed("spec.nets", i), p)
	}
}

func checkIPReservation(f *faults, k IPReservationKey, r *IPReservation) {
	f.meta(r.Meta)
	f.name("metadata.name", k.Name)
	for i, p := range r.ReservedCIDRs {
		f.cidr(indexed("spec.reservedCIDRs", i), p)
	}
}

func checkIPPool(f *faults, k IPPoolKey, p *IPPool) {
	f.meta(p.Meta)
	if !f.cidr("metadata.cidr", p.CIDR) {
		return
	}
	f.unless(p.CIDR == k.CIDR, "metadata.cidr", p.CIDR, "differs from the pool's key "+k.CIDR.String())
	f.unless(p.CIDR == p.CIDR.Masked(), "metadata.cidr", p.CIDR, "IP pool CIDR is not strictly masked: "+p.CIDR.Masked().String()+" is")
	f.unless(!p.CIDR.Overlaps(linkLocalV4), "metadata.cidr", p.CIDR, "IP pool range overlaps with IPv4 Link Local range 169.254.0.0/16")
	f.unless(!p.CIDR.Overlaps(linkLocalV6), "metadata.cidr", p.CIDR, "IP pool range overlaps with IPv6 Link Local range fe80::/10")
	f.unless(!p.CIDR.Addr().IsMulticast(), "metadata.cidr", p.CIDR, "IP pool range is multicast")
	f.blockSize(p)
	f.encapsulation(p)
	f.selector("spec.nodeSelector", p.NodeSelector)
}

func (f *faults) blockSize(p *IPPool) {
	standard, low, high := DefaultBlockSizeV4, minBlockSizeV4, maxBlockSizeV4
	if p.CIDR.Addr().Is6() {
		standard, low, high = DefaultBlockSizeV6, minBlockSizeV6, maxBlockSizeV6
	}
	size := p.BlockSize
	if size == 0 {
		size = standard
	}
	if size < low || size > high {
		f.add("spec.blockSize", size, "must be "+strconv.Itoa(low)+" to "+strconv.Itoa(high))
		return
	}
	f.unless(p.Disabled || p.CIDR.Bits() <= size, "metadata.cidr", p.CIDR,
		"IP pool size is too small (min /"+strconv.Itoa(size)+") for use with Calico IPAM")
}

func (f *faults) encapsulation(p *IPPool) {
	switch p.IPIPMode {
	case IPIPOff, IPIPAlways, IPIPCrossSubnet:
	default:
		f.add("spec.ipip.mode", p.IPIPMode, "must be always or cross-subnet")
	}
	switch p.VXLANMode {
	case "", "always", "cross-subnet":
	default:
		f.add("spec.vxlanMode", p.VXLANMode, "must be always or cross-subnet")
	}
	ipip := p.IPIPDevice != "" || p.IPIPMode != IPIPOff
	f.unless(p.IPIPDevice == "" || isInterface(p.IPIPDevice), "spec.ipip", p.IPIPDevice, interfaceRule)
	f.unless(!ipip || p.CIDR.Addr().Is4(), "spec.ipip", p.CIDR, "IPIP is not supported on an IPv6 IP pool")
	f.unless(!ipip || p.VXLANMode == "", "spec.vxlanMode", p.VXLANMode, "a pool has IPIP or VXLAN, not both")
}

func checkNode(f *faults, k NodeKey, n *Node) {
	f.meta(n.Meta)
	f.name("metadata.name", k.Name)
	f.labels(n.Labels)
	f.identity(n.Host)
	for _, program := range n.Programs {
		f.name("programs", program)
	}
	f.nodeAddress("4", n.IPv4, n.IPv4Net, 4)
	f.nodeAddress("6", n.IPv6, n.IPv6Net, 6)
	if n.ASNumber != nil {
		f.unless(!n.ASNumber.Reserved(), "spec.bgp.asNumber", *n.ASNumber, "is reserved (RFC 7607, 6793, 7300)")
	}
	if id := n.RouteReflectorClusterID; id != "" {
		a, err := netip.ParseAddr(id)
		f.unless(err == nil && a.Is4(), "spec.bgp.routeReflectorClusterID", id, "must be a dotted quad such as 244.0.0.1")
	}
}

// identity checks what programs compare and print.
func (f *faults) identity(i Identity) {
	ok := func(text string) bool { return len(text) <= maxIdentity && strings.Trim(text, identityLetters) == "" }
	const rule = "must be at most 64 letters, digits and dashes"
	f.unless(ok(i.ID), "host.id", i.ID, rule)
	f.unless(ok(i.Boot), "host.boot", i.Boot, rule)
}

const (
	maxIdentity     = 64
	identityLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
)

func (f *faults) nodeAddress(suffix string, a netip.Addr, subnet netip.Prefix, family int) {
	field := "spec.bgp.ipv" + suffix + "Address"
	if a.IsValid() && !f.addr(field, a, family) {
		return
	}
	if subnet.IsValid() {
		f.unless(a.IsValid() && subnet.Contains(a), field, subnet, "the subnet does not hold the node's address")
	}
}

func checkBGPPeer(f *faults, k BGPPeerKey, p *BGPPeer) {
	f.meta(p.Meta)
	f.node(k.Node)
	if f.addr("metadata.peerIP", p.IP, 0) {
		f.unless(p.IP == k.IP, "metadata.peerIP", p.IP, "differs from the peer's key "+k.IP.String())
	}
	f.unless(!p.ASNumber.Reserved(), "spec.asNumber", p.ASNumber, "must be 1 to 4294967294, and not 23456, which is reserved")
	// RFC 2385 leaves the length open; Linux takes at most 80 bytes.
	f.unless(len(p.Password) <= 80, "spec.password", len(p.Password), "at most 80 bytes (TCP_MD5SIG)")
	f.unless(!strings.ContainsAny(p.Password, "\x00\r\n"), "spec.password", "…", "must be one line")
	for i, name := range p.Filters {
		f.name(indexed("spec.filters", i), name)
	}
}

func checkHostEndpoint(f *faults, k HostEndpointKey, e *HostEndpoint) {
	f.meta(e.Meta)
	f.name("metadata.node", k.Node)
	f.path("metadata.name", k.Name)
	f.labels(e.Labels)
	f.profiles(e.Profiles)
	f.ports(e.Ports)
	f.unless(e.Interface == "" || e.Interface == "*" || isInterface(e.Interface), "spec.interfaceName", e.Interface, interfaceReason(e.Interface))
	for i, a := range e.ExpectedIPv4Addrs {
		f.addr(indexed("spec.expectedIPs", i), a, 4)
	}
	for i, a := range e.ExpectedIPv6Addrs {
		f.addr(indexed("spec.expectedIPs", len(e.ExpectedIPv4Addrs)+i), a, 6)
	}
	if e.Interface == "" && len(e.ExpectedIPv4Addrs)+len(e.ExpectedIPv6Addrs) == 0 {
		f.add("spec.interfaceName", "", "no interface or expected IPs have been specified")
	}
}

func (f *faults) profiles(profiles []string) {
	for i, name := range profiles {
		f.path(indexed("spec.profiles", i), name)
	}
}

func (f *faults) ports(ports []EndpointPort) {
	for i, p := range ports {
		field := indexed("spec.ports", i)
		f.unless(isPortName(p.Name), field+".name", p.Name, nameRule+", at least one of them a letter")
		f.unless(p.Protocol.HasPorts(), field+".protocol", p.Protocol, "must be tcp, udp or sctp")
		f.unless(p.Port != 0, field+".port", p.Port, "must be 1 to 65535")
	}
}

func checkWorkloadEndpoint(f *faults, k WorkloadEndpointKey, e *WorkloadEndpoint) {
	f.meta(e.Meta)
	f.name("metadata.node", k.Node)
	f.path("metadata.orchestrator", k.Orchestrator)
	f.path("metadata.workload", k.Workload)
	f.path("metadata.name", k.Name)
	f.labels(e.Labels)
	f.profiles(e.Profiles)
	f.ports(e.Ports)
	f.unless(isInterface(e.Interface), "spec.interfaceName", e.Interface, interfaceReason(e.Interface))
	switch e.State {
	case "active", "inactive":
	default:
		f.add("spec.state", e.State, "must be active or inactive")
	}
	if e.MAC != "" {
		f.unless(isMAC(e.MAC), "spec.mac", e.MAC, "not a MAC address such as ee:ee:ee:ee:ee:ee")
	}
	f.workloadAddresses(e)
}

func (f *faults) workloadAddresses(e *WorkloadEndpoint) {
	own := map[netip.Addr]bool{}
	nets := func(list []netip.Prefix, family, offset int) {
		for i, p := range list {
			field := indexed("spec.ipNetworks", offset+i)
			if f.cidr(field, p) && f.addr(field, p.Addr(), family) {
				f.unless(p.IsSingleIP(), field, p, "must be a single address (/32 or /128)")
				own[p.Addr()] = true
			}
		}
	}
	nets(e.IPv4Nets, 4, 0)
	nets(e.IPv6Nets, 6, len(e.IPv4Nets))
	nats := func(list []NAT, family, offset int) {
		for i, n := range list {
			field := indexed("spec.ipNATs", offset+i)
			f.addr(field+".externalIP", n.External, family)
			if f.addr(field+".internalIP", n.Internal, family) {
				f.unless(own[n.Internal], field+".internalIP", n.Internal, "is not in ipNetworks")
			}
		}
	}
	nats(e.IPv4NAT, 4, 0)
	nats(e.IPv6NAT, 6, len(e.IPv4NAT))
	if e.IPv4Gateway.IsValid() {
		f.addr("spec.ipv4Gateway", e.IPv4Gateway, 4)
	}
	if e.IPv6Gateway.IsValid() {
		f.addr("spec.ipv6Gateway", e.IPv6Gateway, 6)
	}
}

func checkDockerNetwork(f *faults, k DockerNetworkKey, n *DockerNetwork) {
	f.meta(n.Meta)
	f.name("metadata.name", k.Name)
	for _, node := range sortedKeys(n.IDs) {
		f.name("spec.ids", node)
	}
	for _, node := range sortedKeys(n.Problems) {
		f.name("spec.problems", node)
	}
}

func checkDockerName(f *faults, k DockerNameKey, n *DockerName) {
	f.name("metadata.network", k.Network)
	f.name("metadata.name", k.Name)
	f.name("metadata.endpoint", k.Endpoint)
	f.name("node", n.Node)
}

func checkLock(f *faults, _ LockKey, l *Lock) {
	f.unless(l.By != "", "by", l.By, "is missing")
}

func checkHistory(f *faults, k HistoryKey, h *History) {
	f.name("metadata.node", k.Node)
	if h.Count < 0 {
		f.add("count", h.Count, "must not be negative")
	}
}

func checkLiveness(f *faults, k LivenessKey, l *Liveness) {
	f.identity(l.Host)
	f.name("metadata.node", k.Node)
	f.name("metadata.name", k.Program)
}

func checkEndpointStatus(f *faults, k EndpointStatusKey, s *EndpointStatus) {
	f.name("metadata.node", k.Node)
	switch s.Status {
	case EndpointUp, EndpointDown, EndpointError:
	default:
		f.add("status", s.Status, "must be up, down or error")
	}
}
