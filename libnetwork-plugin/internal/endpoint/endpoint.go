// Package endpoint says what Docker's view of a container's interface becomes in the
// store: names, profile, labels, annotations and gateways (pure).
package endpoint

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/veth"
)

// What the keys of Docker's endpoints have in common.
const (
	Orchestrator = "libnetwork"
	Workload     = "libnetwork"
)

// DefaultMAC is the hardware address of a container's interface unless the user chose
// one. All containers can share it: none is in another's broadcast domain.
const DefaultMAC = "ee:ee:ee:ee:ee:ee"

// LabelPrefix begins the container labels and driver options that become labels of the
// endpoint.
const LabelPrefix = "org.projectcalico.label."

// The annotations that tell an operator what an endpoint is in Docker's eyes.
const (
	annotationPrefix = "org.projectcalico.docker."

	Network        = annotationPrefix + "network"
	NetworkID      = annotationPrefix + "network-id"
	ContainerID    = annotationPrefix + "container-id"
	ContainerName  = annotationPrefix + "container-name"
	ComposeProject = annotationPrefix + "compose-project"
	ComposeService = annotationPrefix + "compose-service"
	Sandbox        = annotationPrefix + "sandbox"
	// Aliases are the names besides the container's own, joined by commas.
	Aliases = annotationPrefix + "aliases"
)

// The labels by which compose marks its containers.
const (
	composeProject = "com.docker.compose.project"
	composeService = "com.docker.compose.service"
)

// Key is the key of Docker's endpoint id on a node.
func Key(node, id string) model.WorkloadEndpointKey {
	return model.WorkloadEndpointKey{Node: node, Orchestrator: Orchestrator, Workload: Workload, Name: id}
}

// New is the endpoint with an id and addresses, before anything else is known of it.
// Without a profile nothing may reach it or leave it.
func New(id, mac string, v4, v6 netip.Addr) *model.WorkloadEndpoint {
	ep := &model.WorkloadEndpoint{
		State:     "active",
		Interface: veth.HostName(id),
		MAC:       mac,
		Profiles:  []string{},
		IPv4Nets:  []netip.Prefix{},
		IPv6Nets:  []netip.Prefix{},
	}
	if v4.IsValid() {
		ep.IPv4Nets = append(ep.IPv4Nets, netip.PrefixFrom(v4, v4.BitLen()))
	}
	if v6.IsValid() {
		ep.IPv6Nets = append(ep.IPv6Nets, netip.PrefixFrom(v6, v6.BitLen()))
	}
	return ep
}

// Clone returns a copy that shares nothing which the functions of this package change.
func Clone(ep *model.WorkloadEndpoint) *model.WorkloadEndpoint {
	c := *ep
	c.Profiles = slices.Clone(ep.Profiles)
	c.Labels = maps.Clone(ep.Labels)
	c.Annotations = maps.Clone(ep.Annotations)
	return &c
}

// Equal reports whether two endpoints are the same.
func Equal(a, b *model.WorkloadEndpoint) bool { return reflect.DeepEqual(a, b) }

// Addresses lists all addresses of an endpoint.
func Addresses(ep *model.WorkloadEndpoint) []netip.Addr {
	var addrs []netip.Addr
	for _, p := range ep.IPv4Nets {
		addrs = append(addrs, p.Addr())
	}
	for _, p := range ep.IPv6Nets {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

// DefaultProfile is the profile of a network: its containers may reach everything, and
// are reached by one another.
func DefaultProfile(network string) *model.Profile {
	return &model.Profile{
		Tags:          []string{network},
		Labels:        map[string]string{},
		InboundRules:  []model.Rule{{Action: model.ActionAllow, Source: model.Match{Tag: network}}},
		OutboundRules: []model.Rule{{Action: model.ActionAllow}},
	}
}

// IsDefaultProfile reports whether a profile of a network is as it was made.
func IsDefaultProfile(p *model.Profile, network string) bool {
	d := DefaultProfile(network)
	return slices.Equal(p.Tags, d.Tags) && len(p.Labels) == 0 &&
		reflect.DeepEqual(p.InboundRules, d.InboundRules) && reflect.DeepEqual(p.OutboundRules, d.OutboundRules)
}

// Labels picks the endpoint labels out of a container's labels or driver options.
func Labels(from map[string]string) map[string]string {
	labels := make(map[string]string)
	for k, v := range from {
		if name, ok := strings.CutPrefix(k, LabelPrefix); ok && name != "" {
			labels[name] = v
		}
	}
	return labels
}

// AddLabels gives an endpoint labels; those it has already are replaced.
func AddLabels(ep *model.WorkloadEndpoint, labels map[string]string) {
	if len(labels) == 0 {
		return
	}
	if ep.Labels == nil {
		ep.Labels = make(map[string]string)
	}
	maps.Copy(ep.Labels, labels)
}

// DefaultLabels gives an endpoint those of the labels that it does not have yet.
func DefaultLabels(ep *model.WorkloadEndpoint, labels map[string]string) {
	labels = maps.Clone(labels)
	maps.DeleteFunc(labels, func(name, _ string) bool { _, has := ep.Labels[name]; return has })
	AddLabels(ep, labels)
}

// Annotate sets an annotation, or removes it if value is empty.
func Annotate(ep *model.WorkloadEndpoint, name, value string) {
	if value == "" {
		delete(ep.Annotations, name)
		return
	}
	if ep.Annotations == nil {
		ep.Annotations = make(map[string]string)
	}
	ep.Annotations[name] = value
}

// AnnotateContainer notes the container that an endpoint belongs to. Annotations and
// not labels: selectors must not see what no user put there for them.
func AnnotateContainer(ep *model.WorkloadEndpoint, id, name string, labels map[string]string) {
	Annotate(ep, ContainerID, id)
	Annotate(ep, ContainerName, name)
	Annotate(ep, ComposeProject, labels[composeProject])
	Annotate(ep, ComposeService, labels[composeService])
}

// AnnotateAliases notes the names that an endpoint has besides its container's. Names with a
// comma, which no resolver can ask for, are left out.
func AnnotateAliases(ep *model.WorkloadEndpoint, names []string) {
	var list []string
	for _, name := range names {
		if name != "" && !strings.Contains(name, ",") && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	Annotate(ep, Aliases, strings.Join(list, ","))
}

// UseProfile makes the endpoint one of a network's profile.
func UseProfile(ep *model.WorkloadEndpoint, network string) { ep.Profiles = []string{network} }
