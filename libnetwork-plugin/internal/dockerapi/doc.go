// Package dockerapi is the plugin's window on Docker's engine: the few questions
// that it asks, over the engine's unix socket (edge).
//
// The client is small and its own for two reasons. It must read the answers of
// engines from 20.10 (API 1.41) on, whose shapes today's client types refuse: an
// IPv6 gateway is printed there with its prefix length ("::/0"), and ClusterStore is
// no longer among the types. And it decodes only the fields that are used, so that
// nothing an engine adds or drops elsewhere can fail a container's start.
//
// Three rules keep it from hanging the engine, which calls the plugin while it holds
// locks of its own and, when it starts, before it serves this API at all:
//
//   - every call has a deadline, the caller's or a short one of its own;
//   - between a container's CreateEndpoint and the end of its Join nobody may ask for
//     /containers/<id>/json: the engine answers it only when Join has ended.
//     [Client.EndpointContainer] finds name and labels without it;
//   - [Client.Connected] tells whether the event stream stands, that is whether the
//     engine serves its API, so that callers need not find out by waiting.
package dockerapi
