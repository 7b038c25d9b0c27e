// Package enginetest is a stand-in for Docker's engine API in tests: the answers of
// engines 20.10 and 29, as they were recorded, over a unix socket, with the engine's
// known ways of not answering.
package enginetest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Release is an engine whose shapes are known.
type Release struct {
	// Server is the version that the engine calls itself.
	Server string
	// Min and Max are the oldest and newest API that it speaks.
	Min, Max string
}

// The engines whose answers were recorded.
var (
	Docker20 = Release{Server: "20.10.24+dfsg1", Min: "1.12", Max: "1.41"}
	Docker29 = Release{Server: "29.1.3", Min: "1.44", Max: "1.52"}
)

// Network is a network that the engine has.
type Network struct {
	ID, Name, Driver, Scope string
	Subnets                 []string
	Options, Labels         map[string]string
	// IPv6Gateway is how the engine prints an IPv6 gateway; 20.10 adds the length.
	IPv6Gateway          string
	Internal, Attachable bool
}

// Container is a container that the engine has.
type Container struct {
	ID, Name string
	Hostname string
	Labels   map[string]string
	// State is "created", "running" or "exited".
	State, Error, Finished, RestartPolicy string
	// Endpoints are the container's, by network name. While Joining, the network lists
	// them as "ep-…", the container does not, and inspecting it blocks.
	Endpoints map[string]Endpoint
	Joining   bool
	// PowerCut says that it ended by one: engines (20.10) tell of its endpoints until it starts
	// again.
	PowerCut bool
}

// Endpoint is a container's connection to a network.
type Endpoint struct {
	ID, IPv4, IPv6 string
	Aliases        []string
}

// Engine is a running stand-in.
type Engine struct {
	release Release
	path    string

	mu           sync.Mutex
	clusterStore string
	silent       bool
	refusal, id  string
	networks     map[string]Network
	containers   map[string]Container
	calls        []string
	started      []string
	streams      map[chan string]bool
	change       chan struct{}
	server       *http.Server
}

// Start starts an engine on a socket of its own.
func Start(t testing.TB, r Release) *Engine {
	t.Helper()
	e := &Engine{
		release: r, id: ID, path: filepath.Join(t.TempDir(), "docker.sock"),
		networks: map[string]Network{}, containers: map[string]Container{},
		streams: map[chan string]bool{}, change: make(chan struct{}),
	}
	e.Up(t)
	t.Cleanup(func() { e.Down(t) })
	return e
}

// Host is the engine's address.
func (e *Engine) Host() string { return "unix://" + e.path }

// Up makes the engine listen; it must not do so already.
func (e *Engine) Up(t testing.TB) {
	t.Helper()
	l, err := net.Listen("unix", e.path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(e.serve)}
	e.mu.Lock()
	e.server = server
	e.mu.Unlock()
	go func() { _ = server.Serve(l) }()
}

// Down cuts all connections and removes the socket.
func (e *Engine) Down(t testing.TB) {
	t.Helper()
	e.mu.Lock()
	server := e.server
	e.mu.Unlock()
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

// SetSilent makes the engine accept connections and answer nothing, as it does while it
// starts.
func (e *Engine) SetSilent(on bool) { e.update(func() { e.silent = on }) }

// SetClusterStore makes the engine one that was started with --cluster-store.
func (e *Engine) SetClusterStore(url string) { e.update(func() { e.clusterStore = url }) }

// RefuseNetworks makes the engine refuse to make networks, with that text; not if it is empty.
func (e *Engine) RefuseNetworks(text string) { e.update(func() { e.refusal = text }) }

// LoseData makes the engine another one, that has nothing.
func (e *Engine) LoseData(id string) {
	e.update(func() {
		e.id, e.networks, e.containers = id, map[string]Network{}, map[string]Container{}
	})
}

// AddNetwork makes a network and tells those who follow the events.
func (e *Engine) AddNetwork(n Network) {
	e.update(func() { e.networks[n.ID] = n })
	e.emit("create", n)
}

// AddNetworkQuietly makes a network of which no event tells.
func (e *Engine) AddNetworkQuietly(n Network) { e.update(func() { e.networks[n.ID] = n }) }

// RemoveNetwork removes a network and tells those who follow the events.
func (e *Engine) RemoveNetwork(id string) {
	var n Network
	e.update(func() {
		n = e.networks[id]
		delete(e.networks, id)
	})
	e.emit("destroy", n)
}

// SetContainer makes or changes a container.
func (e *Engine) SetContainer(c Container) { e.update(func() { e.containers[c.ID] = c }) }

// RemoveContainer removes a container.
func (e *Engine) RemoveContainer(id string) { e.update(func() { delete(e.containers, id) }) }

// Calls lists the paths that were asked for, without the version.
func (e *Engine) Calls() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.calls)
}

// Started lists the ids of the containers that were started through the API.
func (e *Engine) Started() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.started)
}

// Followers is the number of event streams that are open.
func (e *Engine) Followers() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.streams)
}

// EmitContainer tells those who follow the events that something happened to a container.
func (e *Engine) EmitContainer(action, id string) {
	e.send(fmt.Sprintf(containerEventJSON, action, quote(id)))
}

// EmitConnect tells that a container was connected to a network.
func (e *Engine) EmitConnect(network, container string) {
	e.send(fmt.Sprintf(connectEventJSON, quote(network), quote(container)))
}

// update changes the engine and wakes the answers that wait for a change.
func (e *Engine) update(change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
	close(e.change)
	e.change = make(chan struct{})
}

// emit sends an event to all streams.
func (e *Engine) emit(action string, n Network) {
	e.send(fmt.Sprintf(eventJSON, action, quote(n.ID), quote(n.Name), quote(n.Driver)))
}

// send sends an event's text to all streams.
func (e *Engine) send(text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range e.streams {
		s <- text
	}
}

// waitUntil blocks until ok, which is called with the lock held, or ctx ends.
func (e *Engine) waitUntil(ctx context.Context, ok func() bool) bool {
	for {
		e.mu.Lock()
		done, change := ok(), e.change
		e.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-change:
		}
	}
}

var versioned = regexp.MustCompile(`^/v(\d+\.\d+)(/.*)$`)

// serve answers one request.
func (e *Engine) serve(w http.ResponseWriter, r *http.Request) {
	if !e.waitUntil(r.Context(), func() bool { return !e.silent }) {
		return
	}
	w.Header().Set("Api-Version", e.release.Max)
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/_ping" {
		fmt.Fprint(w, "OK")
		return
	}
	m := versioned.FindStringSubmatch(r.URL.Path)
	if m == nil || before(m[1], e.release.Min) || before(e.release.Max, m[1]) {
		fail(w, http.StatusBadRequest, "client version "+r.URL.Path+" is too new or too old")
		return
	}
	e.mu.Lock()
	e.calls = append(e.calls, m[2])
	e.mu.Unlock()
	e.route(w, r, m[2])
}

// route finds the answer to a path.
func (e *Engine) route(w http.ResponseWriter, r *http.Request, path string) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case path == "/info":
		e.mu.Lock()
		defer e.mu.Unlock()
		fmt.Fprintf(w, infoJSON, quote(e.id), quote(e.release.Server), quote(e.clusterStore))
	case path == "/events":
		e.events(w, r)
	case path == "/networks":
		e.listNetworks(w)
	case path == "/networks/create" && r.Method == http.MethodPost:
		e.createNetwork(w, r)
	case parts[0] == "networks" && len(parts) == 2 && r.Method == http.MethodDelete:
		e.deleteNetwork(w, parts[1])
	case parts[0] == "networks" && len(parts) == 2:
		e.inspectNetwork(w, parts[1])
	case path == "/containers/json":
		e.listContainers(w, r)
	case parts[0] == "containers" && parts[2] == "json":
		e.inspectContainer(w, r, parts[1])
	case parts[0] == "containers" && parts[2] == "start" && r.Method == http.MethodPost:
		e.startContainer(w, parts[1])
	default:
		fail(w, http.StatusNotFound, "page not found")
	}
}

// events streams until the client leaves.
func (e *Engine) events(w http.ResponseWriter, r *http.Request) {
	stream := make(chan string, 16)
	e.update(func() { e.streams[stream] = true })
	defer e.update(func() { delete(e.streams, stream) })
	for {
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case text := <-stream:
			fmt.Fprintln(w, text)
		}
	}
}

func (e *Engine) listNetworks(w http.ResponseWriter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []string
	for _, id := range slices.Sorted(maps.Keys(e.networks)) {
		list = append(list, e.network(e.networks[id], "{}"))
	}
	fmt.Fprintf(w, "[%s]", strings.Join(list, ","))
}

// createNetwork makes what is asked for, with an id of its own.
func (e *Engine) createNetwork(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Name, Driver         string
		Internal, Attachable bool
		Options, Labels      map[string]string
		IPAM                 struct {
			Config []struct{ Subnet string }
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	n := Network{
		ID: strings.ToLower(rand.Text()), Name: asked.Name, Driver: asked.Driver, Scope: "local",
		Options: asked.Options, Labels: asked.Labels, Internal: asked.Internal, Attachable: asked.Attachable,
	}
	for _, c := range asked.IPAM.Config {
		n.Subnets = append(n.Subnets, c.Subnet)
	}
	e.mu.Lock()
	taken := slices.ContainsFunc(slices.Collect(maps.Values(e.networks)), func(o Network) bool { return o.Name == n.Name })
	refusal := e.refusal
	e.mu.Unlock()
	switch {
	case refusal != "":
		fail(w, http.StatusForbidden, refusal)
		return
	case taken:
		fail(w, http.StatusConflict, "network with name "+n.Name+" already exists")
		return
	}
	e.AddNetwork(n)
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"Id":%s,"Warning":""}`, quote(n.ID))
}

// deleteNetwork removes a network that no container has an endpoint of.
func (e *Engine) deleteNetwork(w http.ResponseWriter, id string) {
	e.mu.Lock()
	n, ok := e.networks[id]
	used := false
	for _, c := range e.containers {
		_, has := c.Endpoints[n.Name]
		used = used || has && c.State == "running"
	}
	e.mu.Unlock()
	switch {
	case !ok:
		fail(w, http.StatusNotFound, "network "+id+" not found")
	case used:
		fail(w, http.StatusForbidden, "error while removing network: network "+n.Name+" id "+id+" has active endpoints")
	default:
		e.RemoveNetwork(id)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (e *Engine) inspectNetwork(w http.ResponseWriter, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, ok := e.networks[id]
	if !ok {
		fail(w, http.StatusNotFound, "network "+id+" not found")
		return
	}
	endpoints := map[string]any{}
	for _, c := range e.containers {
		ep, ok := c.Endpoints[n.Name]
		if !ok {
			continue
		}
		key := c.ID
		if c.Joining {
			key = "ep-" + ep.ID
		}
		endpoints[key] = map[string]string{
			"Name": c.Name, "EndpointID": ep.ID, "MacAddress": "ee:ee:ee:ee:ee:ee",
			"IPv4Address": ep.IPv4, "IPv6Address": ep.IPv6,
		}
	}
	text, _ := json.Marshal(endpoints)
	fmt.Fprint(w, e.network(n, string(text)))
}

func (e *Engine) listContainers(w http.ResponseWriter, r *http.Request) {
	name := regexp.MustCompile(filter(r, "name"))
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []string
	for _, id := range slices.Sorted(maps.Keys(e.containers)) {
		if c := e.containers[id]; name.MatchString("/" + c.Name) {
			list = append(list, e.container(c))
		}
	}
	fmt.Fprintf(w, "[%s]", strings.Join(list, ","))
}

// inspectContainer blocks while the container is being joined, as the engine does.
func (e *Engine) inspectContainer(w http.ResponseWriter, r *http.Request, id string) {
	if !e.waitUntil(r.Context(), func() bool { return !e.containers[id].Joining }) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, ok := e.containers[id]
	if !ok {
		fail(w, http.StatusNotFound, "No such container: "+id)
		return
	}
	nets := make(map[string]any)
	for name, ep := range c.Endpoints {
		nets[name] = map[string]any{"EndpointID": ep.ID, "Aliases": ep.Aliases}
	}
	text, _ := json.Marshal(nets)
	fmt.Fprintf(w, inspectJSON, quote(c.ID), quote("/"+c.Name), quote(c.State), quote(c.Error),
		quote(c.Finished), quote(c.RestartPolicy), quote(c.Hostname), object(c.Labels), text)
}

func (e *Engine) startContainer(w http.ResponseWriter, id string) {
	e.update(func() {
		c := e.containers[id]
		c.State, c.Error = "running", ""
		e.containers[id] = c
		e.started = append(e.started, id)
	})
	w.WriteHeader(http.StatusNoContent)
}

// network renders a network as the engine's release does.
func (e *Engine) network(n Network, containers string) string {
	config := []map[string]string{}
	for _, s := range n.Subnets {
		config = append(config, map[string]string{"Subnet": s, "Gateway": "169.254.1.1"})
	}
	if n.IPv6Gateway != "" {
		config = append(config, map[string]string{"Subnet": "::/0", "Gateway": n.IPv6Gateway})
	}
	text, _ := json.Marshal(config)
	format := network20JSON
	if e.release == Docker29 {
		format = network29JSON
	}
	return fmt.Sprintf(format, quote(n.Name), quote(n.ID), quote(n.Scope), quote(n.Driver), text, n.Internal, n.Attachable,
		containers, object(n.Options), object(n.Labels))
}

// container renders an entry of the container list as the engine's release does.
func (e *Engine) container(c Container) string {
	format := attachment20JSON
	if e.release == Docker29 {
		format = attachment29JSON
	}
	var nets []string
	for _, name := range slices.Sorted(maps.Keys(c.Endpoints)) {
		ep := c.Endpoints[name]
		if c.Joining || c.State != "running" && !c.PowerCut {
			ep = Endpoint{}
		}
		v4, _, _ := strings.Cut(ep.IPv4, "/")
		v6, _, _ := strings.Cut(ep.IPv6, "/")
		nets = append(nets, quote(name)+":"+fmt.Sprintf(format, quote(ep.ID), quote(v4), quote(v6)))
	}
	return fmt.Sprintf(containerJSON, quote(c.ID), quote("/"+c.Name), object(c.Labels), quote(c.State),
		strings.Join(nets, ","))
}

// filter reads the value of a filter from a request.
func filter(r *http.Request, name string) string {
	var all map[string][]string
	if json.Unmarshal([]byte(r.URL.Query().Get("filters")), &all) != nil || len(all[name]) == 0 {
		return ""
	}
	return all[name][0]
}

// fail answers with an error as the engine words it.
func fail(w http.ResponseWriter, status int, message string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"message":%s}`, quote(message))
}

// before compares two API versions; both have the same major number.
func before(a, b string) bool {
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}

func quote(s string) string {
	text, _ := json.Marshal(s)
	return string(text)
}

func object(m map[string]string) string {
	if m == nil {
		m = map[string]string{}
	}
	text, _ := json.Marshal(m)
	return string(text)
}

// Eventually waits until ok holds and fails the test if it never does.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}
