// Package zone knows the names of containers: which an endpoint has, and what is answered
// to a container that asks for one (pure).
package zone

import (
	"maps"
	"slices"
	"strings"

	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/networks"
)

// shortID is how much of a container's id is a name, as Docker shows it.
const shortID = 12

// maxNames bounds the names of an endpoint; all are written in one transaction.
const maxNames = 32

// Names lists the records of an endpoint's names: its container's name, short id and compose
// service, its hostname and its aliases. What cannot be a record's name has none, nor has an
// endpoint whose network or container is not known.
func Names(key model.WorkloadEndpointKey, ep *model.WorkloadEndpoint) map[model.DockerNameKey]*model.DockerName {
	out := make(map[model.DockerNameKey]*model.DockerName)
	if ep == nil {
		return out
	}
	network, addrs := ep.Annotations[endpoint.Network], endpoint.Addresses(ep)
	if network == "" || len(addrs) == 0 {
		return out
	}
	own := ep.Annotations[endpoint.ContainerName]
	id := ep.Annotations[endpoint.ContainerID]
	all := []string{own, id[:min(len(id), shortID)], ep.Annotations[endpoint.ComposeService]}
	all = append(all, strings.Split(ep.Annotations[endpoint.Aliases], ",")...)
	for _, name := range all[:min(len(all), maxNames)] {
		k := model.DockerNameKey{Network: networks.Key(network), Name: strings.ToLower(name), Endpoint: key.Name}
		v := &model.DockerName{Node: key.Node, Addresses: addrs, Own: name == own}
		if _, has := out[k]; !has && name != "" && model.Validate(k, v) == nil {
			out[k] = v
		}
	}
	return out
}

// Gone lists the keys of names that an endpoint had and does not have any more.
func Gone(key model.WorkloadEndpointKey, was, is *model.WorkloadEndpoint) []model.DockerNameKey {
	before := Names(key, was)
	for k := range Names(key, is) {
		delete(before, k)
	}
	return slices.SortedFunc(maps.Keys(before), compare)
}

func compare(a, b model.DockerNameKey) int {
	return strings.Compare(a.Network+"/"+a.Name+"/"+a.Endpoint, b.Network+"/"+b.Name+"/"+b.Endpoint)
}
