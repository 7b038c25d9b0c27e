package manifest

import (
	"encoding"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"calico.internal/calicoctl/internal/manifest/tree"
	v3 "calico.internal/calicoctl/internal/manifest/v3"
	"calico.internal/libcalico/model"
)

// What becomes of a field that manifests can set: a program acts on it, or it says
// nothing about traffic by its nature, or it is refused until something acts on it.
// What is refused always, kept by the server, or marked as inert, says so by its type.
const (
	felix    = "acts: felix"
	bgpd     = "acts: bgpd"
	ipam     = "acts: IPAM"
	ctl      = "acts: calicoctl itself"
	inert    = "inert: says nothing about traffic, is stored and shown"
	unserved = "refused, unless it is stored already" // by UnservedBy
	only     = "refused, but for the one value that is true here"
)

// fields says for every field of every kind what becomes of it. Rules, the metadata of
// v3 and what all documents have stand here once.
var fields = map[string]string{
	"* kind": ctl, "* apiVersion": ctl,

	"v3 metadata.name": ctl, "v3 metadata.namespace": ctl, "v3 metadata.resourceVersion": ctl,
	"v3 metadata.uid": inert, "v3 metadata.creationTimestamp": inert, "v3 metadata.annotations": inert,
	"v3 metadata.labels": "acts: felix and IPAM where the kind has labels that selectors see, else " + inert,

	"rule action": felix, "rule ipVersion": felix, "rule protocol": felix, "rule notProtocol": felix,
	"rule icmp.type": felix, "rule icmp.code": felix, "rule notICMP.type": felix, "rule notICMP.code": felix,
	"rule source.tag": felix, "rule source.notTag": felix, "rule source.net": felix, "rule source.notNet": felix,
	"rule source.nets[]": felix, "rule source.notNets[]": felix, "rule source.selector": felix, "rule source.notSelector": felix,
	"rule source.ports[]": felix, "rule source.notPorts[]": felix,
	"rule destination.tag": felix, "rule destination.notTag": felix, "rule destination.net": felix, "rule destination.notNet": felix,
	"rule destination.nets[]": felix, "rule destination.notNets[]": felix,
	"rule destination.selector": felix, "rule destination.notSelector": felix,
	"rule destination.ports[]": felix, "rule destination.notPorts[]": felix,
	"rule metadata.annotations": inert,

	"bgpPeer metadata.scope": ctl, "bgpPeer metadata.node": bgpd, "bgpPeer metadata.peerIP": bgpd, "bgpPeer spec.asNumber": bgpd,
	"hostEndpoint metadata.name": ctl, "hostEndpoint metadata.node": felix, "hostEndpoint metadata.labels": felix,
	"hostEndpoint spec.interfaceName": felix, "hostEndpoint spec.expectedIPs[]": felix, "hostEndpoint spec.profiles[]": felix,
	"ipPool metadata.cidr": ipam, "ipPool spec.ipip.enabled": unserved, "ipPool spec.ipip.mode": unserved,
	"ipPool spec.nat-outgoing": felix, "ipPool spec.disabled": ipam,
	"node metadata.name": ctl, "node spec.bgp.asNumber": bgpd, "node spec.bgp.ipv4Address": bgpd, "node spec.bgp.ipv6Address": bgpd,
	"policy metadata.name": felix, "policy metadata.annotations": inert,
	"policy spec.order": felix, "policy spec.selector": felix, "policy spec.doNotTrack": felix, "policy spec.preDNAT": felix, "policy spec.types[]": felix,
	"profile metadata.name": felix, "profile metadata.tags[]": felix, "profile metadata.labels": felix,
	"workloadEndpoint metadata.name": ctl, "workloadEndpoint metadata.workload": ctl, "workloadEndpoint metadata.orchestrator": ctl,
	"workloadEndpoint metadata.node": felix, "workloadEndpoint metadata.activeInstanceID": inert, "workloadEndpoint metadata.labels": felix,
	"workloadEndpoint spec.ipNetworks[]": felix, "workloadEndpoint spec.ipNATs[].internalIP": felix, "workloadEndpoint spec.ipNATs[].externalIP": felix,
	"workloadEndpoint spec.ipv4Gateway": felix, "workloadEndpoint spec.ipv6Gateway": inert,
	"workloadEndpoint spec.profiles[]": felix, "workloadEndpoint spec.interfaceName": felix, "workloadEndpoint spec.mac": felix,

	"BGPConfiguration spec.logSeverityScreen": bgpd, "BGPConfiguration spec.nodeToNodeMeshEnabled": bgpd, "BGPConfiguration spec.asNumber": bgpd,
	"BGPFilter spec.rules[].cidr": unserved, "BGPFilter spec.rules[].matchOperator": unserved,
	"BGPFilter spec.rules[].prefixLength.min": unserved, "BGPFilter spec.rules[].prefixLength.max": unserved,
	"BGPFilter spec.rules[].source": unserved, "BGPFilter spec.rules[].interface": unserved, "BGPFilter spec.rules[].action": unserved,
	"BGPPeer spec.node": bgpd, "BGPPeer spec.nodeSelector": only, "BGPPeer spec.peerIP": bgpd, "BGPPeer spec.asNumber": bgpd,
	"BGPPeer spec.password": bgpd, "BGPPeer spec.filters[]": unserved,
	"HostEndpoint spec.node": felix, "HostEndpoint spec.interfaceName": felix, "HostEndpoint spec.expectedIPs[]": felix, "HostEndpoint spec.profiles[]": felix,
	"HostEndpoint spec.ports[].name": felix, "HostEndpoint spec.ports[].protocol": felix, "HostEndpoint spec.ports[].port": felix,
	"GlobalNetworkPolicy spec.tier": felix, "GlobalNetworkPolicy spec.order": felix, "GlobalNetworkPolicy spec.selector": felix, "GlobalNetworkPolicy spec.types[]": felix,
	"GlobalNetworkPolicy spec.doNotTrack": felix, "GlobalNetworkPolicy spec.preDNAT": felix, "GlobalNetworkPolicy spec.applyOnForward": felix,
	"NetworkPolicy spec.tier": felix, "NetworkPolicy spec.order": felix, "NetworkPolicy spec.selector": felix, "NetworkPolicy spec.types[]": felix,
	"GlobalNetworkSet spec.nets[]": felix, "NetworkSet spec.nets[]": felix,
	"IPAMConfiguration spec.strictAffinity": ipam, "IPAMConfiguration spec.autoAllocateBlocks": ipam, "IPAMConfiguration spec.maxBlocksPerHost": ipam,
	"IPPool spec.cidr": ipam, "IPPool spec.ipipMode": unserved, "IPPool spec.vxlanMode": unserved, "IPPool spec.natOutgoing": felix,
	"IPPool spec.disabled": ipam, "IPPool spec.disableBGPExport": bgpd, "IPPool spec.blockSize": ipam, "IPPool spec.nodeSelector": ipam,
	"IPPool spec.allowedUses[]": only, "IPPool spec.assignmentMode": ipam,
	"IPReservation spec.reservedCIDRs[]": ipam,
	"Node spec.bgp.asNumber":             bgpd, "Node spec.bgp.ipv4Address": bgpd, "Node spec.bgp.ipv6Address": bgpd,
	"Node spec.bgp.routeReflectorClusterID": unserved,
	"Profile spec.labelsToApply":            felix,
	"Tier spec.order":                       felix, "Tier spec.defaultAction": felix,
	"WorkloadEndpoint spec.orchestrator": ctl, "WorkloadEndpoint spec.workload": ctl, "WorkloadEndpoint spec.endpoint": ctl,
	"WorkloadEndpoint spec.node": felix, "WorkloadEndpoint spec.containerID": inert,
	"WorkloadEndpoint spec.ipNetworks[]": felix, "WorkloadEndpoint spec.ipNATs[].internalIP": felix, "WorkloadEndpoint spec.ipNATs[].externalIP": felix,
	"WorkloadEndpoint spec.ipv4Gateway": felix, "WorkloadEndpoint spec.ipv6Gateway": inert,
	"WorkloadEndpoint spec.profiles[]": felix, "WorkloadEndpoint spec.interfaceName": felix, "WorkloadEndpoint spec.mac": felix,
	"WorkloadEndpoint spec.ports[].name": felix, "WorkloadEndpoint spec.ports[].protocol": felix, "WorkloadEndpoint spec.ports[].port": felix,

	"FelixConfiguration spec.ipipEnabled":                          unserved,
	"FelixConfiguration spec.interfacePrefix":                      felix,
	"FelixConfiguration spec.ipv6Support":                          felix,
	"FelixConfiguration spec.defaultEndpointToHostAction":          felix,
	"FelixConfiguration spec.chainInsertMode":                      felix,
	"FelixConfiguration spec.iptablesFilterAllowAction":            felix,
	"FelixConfiguration spec.iptablesMangleAllowAction":            felix,
	"FelixConfiguration spec.iptablesFilterDenyAction":             felix,
	"FelixConfiguration spec.iptablesMarkMask":                     felix,
	"FelixConfiguration spec.disableConntrackInvalidCheck":         felix,
	"FelixConfiguration spec.iptablesRefreshInterval":              felix,
	"FelixConfiguration spec.ipsetsRefreshInterval":                felix,
	"FelixConfiguration spec.routeRefreshInterval":                 felix,
	"FelixConfiguration spec.maxIpsetSize":                         felix,
	"FelixConfiguration spec.deviceRouteProtocol":                  felix,
	"FelixConfiguration spec.removeExternalRoutes":                 felix,
	"FelixConfiguration spec.workloadDNSEnabled":                   felix,
	"FelixConfiguration spec.workloadsReachControlPlane":           felix,
	"FelixConfiguration spec.failsafeInboundHostPorts[].protocol":  felix,
	"FelixConfiguration spec.failsafeInboundHostPorts[].port":      felix,
	"FelixConfiguration spec.failsafeInboundHostPorts[].net":       felix,
	"FelixConfiguration spec.failsafeOutboundHostPorts[].protocol": felix,
	"FelixConfiguration spec.failsafeOutboundHostPorts[].port":     felix,
	"FelixConfiguration spec.failsafeOutboundHostPorts[].net":      felix,
	"FelixConfiguration spec.logPrefix":                            felix,
	"FelixConfiguration spec.logSeverityScreen":                    felix,
	"FelixConfiguration spec.reportingInterval":                    felix,
	"FelixConfiguration spec.reportingTTL":                         felix,
	"FelixConfiguration spec.endpointReportingEnabled":             felix,
	"FelixConfiguration spec.endpointReportingDelay":               felix,
	"FelixConfiguration spec.healthEnabled":                        felix,
	"FelixConfiguration spec.healthHost":                           felix,
	"FelixConfiguration spec.healthPort":                           felix,
	"FelixConfiguration spec.prometheusMetricsEnabled":             felix,
	"FelixConfiguration spec.prometheusMetricsHost":                felix,
	"FelixConfiguration spec.prometheusMetricsPort":                felix,
}

// TestEveryFieldHasAnEffectOrIsRefused goes over all fields of all kinds: a field that
// somebody adds must say here what becomes of it.
func TestEveryFieldHasAnEffectOrIsRefused(t *testing.T) {
	met := map[string]bool{}
	for _, k := range NewRegistry().Kinds() {
		if k.ReadOnly != "" {
			continue // nothing of it can be set
		}
		for _, path := range fieldsOf(k.Document, "") {
			name := fieldName(k.APIVersion, k.Name, path)
			met[name] = true
			if fields[name] == "" {
				t.Errorf("%s %s %s: nothing says what acts on it (as %q)", k.APIVersion, k.Name, path, name)
			}
		}
	}
	for name := range maps.Keys(fields) {
		if !met[name] {
			t.Errorf("%q: there is no such field", name)
		}
	}
}

var (
	inRule   = regexp.MustCompile(`^spec\.(ingress|egress)\[\]\.`)
	inFilter = regexp.MustCompile(`^spec\.(export|import)V[46]\[\]\.`)
)

func fieldName(apiVersion, kind, path string) string {
	switch {
	case path == "kind", path == "apiVersion":
		return "* " + path
	case inRule.MatchString(path):
		return "rule " + inRule.ReplaceAllString(path, "")
	case kind == "BGPFilter" && inFilter.MatchString(path):
		return kind + " spec.rules[]." + inFilter.ReplaceAllString(path, "")
	case apiVersion == v3.APIVersion && (path == "status" || strings.HasPrefix(path, "metadata.")):
		return "v3 " + path
	}
	return kind + " " + path
}

// fieldsOf lists the paths of the values that can be set in a document of a type.
func fieldsOf(t reflect.Type, path string) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if marked(t) == "" && reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return []string{path}
	}
	var out []string
	switch {
	case marked(t) != "":
	case t.Kind() == reflect.Struct:
		for _, f := range reflect.VisibleFields(t) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
				out = append(out, fieldsOf(f.Type, strings.TrimPrefix(path+"."+name, "."))...)
			}
		}
	case t.Kind() == reflect.Slice:
		out = fieldsOf(t.Elem(), path+"[]")
	default:
		out = []string{path}
	}
	return out
}

// marked is what a type says of its field.
func marked(t reflect.Type) string {
	var marks []string
	for mark, of := range map[string]reflect.Type{
		"refused": reflect.TypeFor[tree.Refuser](), "kept by the server": reflect.TypeFor[tree.Dropper](), "inert": reflect.TypeFor[tree.Idler](),
	} {
		if t.Implements(of) {
			marks = append(marks, mark)
		}
	}
	slices.Sort(marks)
	return strings.Join(marks, " and ")
}

// marks says for every field that is not in the table what its type says. It stands here,
// so that a change of a type is a change of this list too.
var marks = map[string]string{
	"v3 status": "kept by the server",

	"v3 metadata.generateName": "refused",
	"v3 metadata.generation":   "kept by the server", "v3 metadata.ownerReferences": "kept by the server",
	"v3 metadata.finalizers": "kept by the server", "v3 metadata.managedFields": "kept by the server",
	"v3 metadata.selfLink": "kept by the server", "v3 metadata.deletionTimestamp": "kept by the server",
	"v3 metadata.deletionGracePeriodSeconds": "kept by the server",

	// What restricts or forbids, and would be missing if it were stored only.
	"rule http": "refused", "rule source.namespaceSelector": "refused", "rule destination.namespaceSelector": "refused",
	"rule source.serviceAccounts": "refused", "rule destination.serviceAccounts": "refused",
	"rule source.services": "refused", "rule destination.services": "refused",
	"GlobalNetworkPolicy spec.serviceAccountSelector": "refused", "NetworkPolicy spec.serviceAccountSelector": "refused",
	"GlobalNetworkPolicy spec.namespaceSelector": "refused", "IPPool spec.namespaceSelector": "refused",
	"BGPFilter spec.rules[].operations": "refused",
	"BGPPeer spec.peerSelector":         "refused", "BGPPeer spec.localASNumber": "refused", "BGPPeer spec.keepOriginalNextHop": "refused",
	"BGPPeer spec.nextHopMode": "refused", "BGPPeer spec.sourceAddress": "refused", "BGPPeer spec.maxRestartTime": "refused",
	"BGPPeer spec.keepaliveTime": "refused", "BGPPeer spec.numAllowedLocalASNumbers": "refused", "BGPPeer spec.ttlSecurity": "refused",
	"BGPPeer spec.reachableBy": "refused", "BGPPeer spec.localWorkloadSelector": "refused", "BGPPeer spec.reversePeering": "refused",
	"BGPConfiguration spec.listenPort": "refused", "BGPConfiguration spec.bindMode": "refused", "BGPConfiguration spec.communities": "refused",
	"BGPConfiguration spec.prefixAdvertisements": "refused", "BGPConfiguration spec.nodeMeshMaxRestartTime": "refused",
	"BGPConfiguration spec.ignoredInterfaces": "refused", "BGPConfiguration spec.ipv4NormalRoutePriority": "refused",
	"BGPConfiguration spec.ipv6NormalRoutePriority": "refused", "BGPConfiguration spec.programClusterRoutes": "refused",
	"BGPConfiguration spec.nodeMeshPassword": "refused", "BGPConfiguration spec.serviceClusterIPs": "refused",
	"BGPConfiguration spec.serviceExternalIPs": "refused", "BGPConfiguration spec.serviceLoadBalancerIPs": "refused",
	"BGPConfiguration spec.localWorkloadPeeringIPV4": "refused", "BGPConfiguration spec.localWorkloadPeeringIPV6": "refused",
	"FelixConfiguration spec.iptablesBackend": "refused", "FelixConfiguration spec.ipipMTU": "refused", "FelixConfiguration spec.bpfEnabled": "refused",
	"FelixConfiguration spec.vxlanEnabled": "refused", "FelixConfiguration spec.wireguardEnabled": "refused",
	"FelixConfiguration spec.natPortRange": "refused", "FelixConfiguration spec.floatingIPs": "refused",
	"IPAMConfiguration spec.ipCooldownSeconds": "refused", "IPAMConfiguration spec.kubeVirtVMAddressPersistence": "refused",
	"WorkloadEndpoint spec.pod": "refused", "WorkloadEndpoint spec.serviceAccountName": "refused",
	"WorkloadEndpoint spec.allowSpoofedSourcePrefixes": "refused", "WorkloadEndpoint spec.qosControls": "refused",

	"GlobalNetworkPolicy spec.performanceHints": "inert", "NetworkPolicy spec.performanceHints": "inert",
	"Node spec.orchRefs": "inert", "Node spec.addresses": "inert", "Node spec.interfaces": "inert", "Node spec.wireguard": "inert",
	"Node spec.ipv4VXLANTunnelAddr": "inert", "Node spec.ipv6VXLANTunnelAddr": "inert",
	"Node spec.vxlanTunnelMACAddr": "inert", "Node spec.vxlanTunnelMACAddrV6": "inert", "Node spec.bgp.ipv4IPIPTunnelAddr": "inert",
	"FelixConfiguration spec.logFilePath": "inert", "FelixConfiguration spec.logSeverityFile": "inert", "FelixConfiguration spec.logSeveritySys": "inert",
	"FelixConfiguration spec.iptablesPostWriteCheckInterval": "inert", "FelixConfiguration spec.iptablesLockFilePath": "inert",
	"FelixConfiguration spec.iptablesLockProbeInterval": "inert", "FelixConfiguration spec.iptablesLockTimeout": "inert",
	"FelixConfiguration spec.netlinkTimeout": "inert", "FelixConfiguration spec.usageReportingEnabled": "inert",
	"FelixConfiguration spec.usageReportingInitialDelay": "inert", "FelixConfiguration spec.usageReportingInterval": "inert",
	"FelixConfiguration spec.debugMemoryProfilePath": "inert", "FelixConfiguration spec.debugDisableLogDropping": "inert",
	"FelixConfiguration spec.prometheusGoMetricsEnabled": "inert", "FelixConfiguration spec.prometheusProcessMetricsEnabled": "inert",
	"FelixConfiguration spec.prometheusWireGuardMetricsEnabled": "inert",
}

// TestMarkedFields goes over all fields whose type says what becomes of them.
func TestMarkedFields(t *testing.T) {
	met := map[string]bool{}
	for _, k := range NewRegistry().Kinds() {
		if k.ReadOnly != "" {
			continue
		}
		for path, mark := range markedFieldsOf(k.Document, "") {
			name := fieldName(k.APIVersion, k.Name, path)
			met[name] = true
			switch {
			case marks[name] != mark:
				t.Errorf("%s %s %s is %s (as %q)", k.APIVersion, k.Name, path, mark, name)
			case fields[name] != "":
				t.Errorf("%s: %s, and %s", name, mark, fields[name])
			}
		}
	}
	for name := range maps.Keys(marks) {
		if !met[name] {
			t.Errorf("%q: there is no such field", name)
		}
	}
}

func markedFieldsOf(t reflect.Type, path string) map[string]string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	out := map[string]string{}
	if mark := marked(t); mark != "" {
		out[path] = mark
		return out
	}
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return out
	}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		at := strings.TrimPrefix(path+"."+name, ".")
		if f.Type.Kind() == reflect.Slice {
			at += "[]"
		}
		maps.Copy(out, markedFieldsOf(f.Type, at))
	}
	return out
}

// TestUnserved makes sure that each field that is listed as refused is.
func TestUnserved(t *testing.T) {
	docs := map[string]string{
		"ipPool spec.ipip.enabled":                "{apiVersion: v1, kind: ipPool, metadata: {cidr: 10.0.0.0/16}, spec: {ipip: {enabled: true}}}",
		"ipPool spec.ipip.mode":                   "{apiVersion: v1, kind: ipPool, metadata: {cidr: 10.0.0.0/16}, spec: {ipip: {enabled: true, mode: cross-subnet}}}",
		"IPPool spec.ipipMode":                    "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: p}, spec: {cidr: 10.0.0.0/16, ipipMode: CrossSubnet}}",
		"IPPool spec.vxlanMode":                   "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: p}, spec: {cidr: 10.0.0.0/16, vxlanMode: Always}}",
		"BGPPeer spec.filters[]":                  "{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: p}, spec: {peerIP: 192.0.2.1, asNumber: 1, filters: [f]}}",
		"Node spec.bgp.routeReflectorClusterID":   "{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n}, spec: {bgp: {ipv4Address: 192.0.2.1, routeReflectorClusterID: 244.0.0.1}}}",
		"FelixConfiguration spec.ipipEnabled":     "{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, spec: {ipipEnabled: true}}",
		"BGPFilter spec.rules[].action":           filterWith("importV6: [{action: Accept}]"),
		"BGPFilter spec.rules[].cidr":             filterWith("exportV4: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: In}]"),
		"BGPFilter spec.rules[].matchOperator":    filterWith("exportV6: [{action: Accept, cidr: 'fd00::/8', matchOperator: Equal}]"),
		"BGPFilter spec.rules[].prefixLength.min": filterWith("importV4: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {min: 16}}]"),
		"BGPFilter spec.rules[].prefixLength.max": filterWith("importV4: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {max: 16}}]"),
		"BGPFilter spec.rules[].source":           filterWith("importV4: [{action: Accept, source: RemotePeers}]"),
		"BGPFilter spec.rules[].interface":        filterWith("importV4: [{action: Accept, interface: eth0}]"),
	}
	for name, verdict := range fields {
		if verdict == unserved && docs[name] == "" {
			t.Errorf("%s has no document here", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(docs)) {
		set := NewSet(NewRegistry(), false)
		set.Read(name, []byte(docs[name]))
		if len(set.Faults) > 0 || len(set.Objects) != 1 {
			t.Errorf("%s: %v", name, set.Faults)
			continue
		}
		if len(UnservedBy(set.Objects[0].Value)) == 0 {
			t.Errorf("%s is taken as if something acted on it", name)
		}
	}
	for _, v := range []model.Resource{nil, &model.IPPool{IPIPMode: "always"}, &model.BGPPeer{}, &model.BGPFilter{}, &model.Node{}} {
		if got := UnservedBy(v); len(got) > 0 {
			t.Errorf("%#v: %v", v, got)
		}
	}
}

func filterWith(rules string) string {
	return "{apiVersion: projectcalico.org/v3, kind: BGPFilter, metadata: {name: f}, spec: {" + rules + "}}"
}
