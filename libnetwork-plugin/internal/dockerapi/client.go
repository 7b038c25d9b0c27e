package dockerapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// DefaultHost is where an engine listens unless told otherwise.
const DefaultHost = "unix:///var/run/docker.sock"

// newestAPI is the newest API version whose answers this package knows; an older
// engine is asked in its own version.
const newestAPI = "1.56"

// callLimit bounds a call whose context has no deadline of its own.
const callLimit = 10 * time.Second

// The errors that a caller may want to tell apart.
var (
	// ErrUnavailable says that the engine did not answer.
	ErrUnavailable = errors.New("the Docker engine does not answer")
	// ErrNotFound says that the engine does not know the object.
	ErrNotFound = errors.New("not known to the Docker engine")
	// ErrConflict says that the engine has another object of that name.
	ErrConflict = errors.New("there is another one of that name")
	// ErrInUse says that the engine does not remove what containers use.
	ErrInUse = errors.New("in use by containers")
)

// Client asks one engine. It is safe for concurrent use.
type Client struct {
	host      string
	http      *http.Client
	version   atomic.Pointer[string]
	connected atomic.Bool
}

// New returns a client of the engine at host, such as unix:///var/run/docker.sock or
// tcp://127.0.0.1:2375. It does not connect.
func New(host string) (*Client, error) {
	network, addr, ok := strings.Cut(host, "://")
	if !ok || addr == "" || (network != "unix" && network != "tcp") {
		return nil, fmt.Errorf("engine address %q: want unix:///path or tcp://host:port (DOCKER_HOST)", host)
	}
	dialer := &net.Dialer{Timeout: callLimit}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, addr)
		},
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
	}
	return &Client{host: host, http: &http.Client{Transport: transport}}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Host is the address that the client was made with.
func (c *Client) Host() string { return c.host }

// Connected reports whether the event stream of [Client.Watch] stands, which is the
// sign that the engine serves its API.
func (c *Client) Connected() bool { return c.connected.Load() }

// Info asks the engine about itself.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var info Info
	err := c.get(ctx, "/info", nil, &info)
	return info, err
}

// Network looks a network up by id or name.
func (c *Client) Network(ctx context.Context, id string) (Network, error) {
	var n Network
	err := c.get(ctx, "/networks/"+url.PathEscape(id), nil, &n)
	return n, err
}

// Networks lists all networks, without their endpoints.
func (c *Client) Networks(ctx context.Context) ([]Network, error) {
	var list []Network
	err := c.get(ctx, "/networks", nil, &list)
	return list, err
}

// CreateNetwork makes a network and returns its id. The engine calls its driver meanwhile.
func (c *Client) CreateNetwork(ctx context.Context, n NewNetwork) (id string, err error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	resp, err := c.do(ctx, http.MethodPost, "/networks/create", nil, n)
	if err != nil {
		return "", err
	}
	var made struct {
		ID string `json:"Id"`
	}
	return made.ID, c.decode(ctx, resp, &made)
}

// RemoveNetwork removes a network. [ErrInUse] says that it has endpoints, [ErrNotFound]
// that it is not there.
func (c *Client) RemoveNetwork(ctx context.Context, id string) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	resp, err := c.do(ctx, http.MethodDelete, "/networks/"+url.PathEscape(id), nil, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Containers lists all containers, running or not.
func (c *Client) Containers(ctx context.Context) ([]Container, error) {
	var list []Container
	err := c.get(ctx, "/containers/json", url.Values{"all": {"1"}}, &list)
	return list, err
}

// ContainerNamed finds a container by its exact name.
func (c *Client) ContainerNamed(ctx context.Context, name string) (Container, error) {
	filter, err := json.Marshal(map[string][]string{"name": {"^/" + regexp.QuoteMeta(name) + "$"}})
	if err != nil {
		return Container{}, err
	}
	query := url.Values{"all": {"1"}, "filters": {string(filter)}}
	var list []Container
	if err := c.get(ctx, "/containers/json", query, &list); err != nil {
		return Container{}, err
	}
	if len(list) == 0 {
		return Container{}, fmt.Errorf("container %s: %w", name, ErrNotFound)
	}
	return list[0], nil
}

// EndpointContainer finds the container that an endpoint belongs to, also while the
// container's start waits in Join.
func (c *Client) EndpointContainer(ctx context.Context, networkID, endpointID string) (Container, error) {
	n, err := c.Network(ctx, networkID)
	if err != nil {
		return Container{}, err
	}
	if e, ok := n.Containers["ep-"+endpointID]; ok {
		return c.ContainerNamed(ctx, e.Name)
	}
	for _, e := range n.Containers {
		if e.EndpointID == endpointID {
			return c.ContainerNamed(ctx, e.Name)
		}
	}
	return Container{}, fmt.Errorf("endpoint %s of network %s: %w", endpointID, n.Name, ErrNotFound)
}

// Inspect asks for the details of one container.
func (c *Client) Inspect(ctx context.Context, id string) (Details, error) {
	var d Details
	err := c.get(ctx, "/containers/"+url.PathEscape(id)+"/json", nil, &d)
	return d, err
}

// Start starts a container. Starting one that runs is not an error.
func (c *Client) Start(ctx context.Context, id string) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	resp, err := c.do(ctx, http.MethodPost, "/containers/"+url.PathEscape(id)+"/start", nil, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// get asks for path and decodes the answer into out.
func (c *Client) get(ctx context.Context, path string, query url.Values, out any) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	return c.decode(ctx, resp, out)
}

// decode reads an answer to its end and closes it.
func (c *Client) decode(ctx context.Context, resp *http.Response, out any) error {
	defer resp.Body.Close() //nolint:errcheck // nothing is buffered
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		path := resp.Request.URL.Path
		if ctx.Err() != nil {
			return c.unavailable(path, err)
		}
		return fmt.Errorf("answer of Docker's engine to %s: %w", path, err)
	}
	return nil
}

// do sends one request in the negotiated version, with a body unless it is nil, and turns
// an answer that is not a success into an error.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	version, err := c.negotiate(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, method, "/v"+version+path, query, body)
	if err != nil {
		c.version.Store(nil)
		return nil, c.unavailable(path, err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close() //nolint:errcheck // nothing is buffered
	if resp.StatusCode == http.StatusBadRequest {
		c.version.Store(nil) // Another engine may have taken the socket over.
	}
	return nil, answerError(method, path, resp)
}

// negotiate finds the version to speak: the engine's newest, or ours if that is
// older. The answer is kept until a call fails.
func (c *Client) negotiate(ctx context.Context) (string, error) {
	if v := c.version.Load(); v != nil {
		return *v, nil
	}
	resp, err := c.send(ctx, http.MethodGet, "/_ping", nil, nil)
	if err != nil {
		return "", c.unavailable("/_ping", err)
	}
	defer resp.Body.Close() //nolint:errcheck // nothing is buffered
	if resp.StatusCode >= 400 {
		return "", answerError(http.MethodGet, "/_ping", resp)
	}
	version := older(resp.Header.Get("Api-Version"), newestAPI)
	c.version.Store(&version)
	return version, nil
}

// send makes one HTTP request; it decides nothing.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "docker.engine", Path: path, RawQuery: query.Encode()}
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), content)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return c.http.Do(req)
}

// unavailable words the failure to get an answer.
func (c *Client) unavailable(path string, err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err // The URL in it has an invented host.
	}
	return fmt.Errorf("%w at %s (%s): %w", ErrUnavailable, c.host, path, err)
}

// answerError turns an answer with an error status into an error. Engines answer 403 for a
// network that has endpoints; from 24 on also for what they never remove, such as "bridge".
func answerError(method, path string, resp *http.Response) error {
	var body struct{ Message string }
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if json.Unmarshal(text, &body) != nil || body.Message == "" {
		body.Message = strings.TrimSpace(string(text))
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s: %w: %s", path, ErrNotFound, body.Message)
	case resp.StatusCode == http.StatusConflict && method == http.MethodPost:
		return fmt.Errorf("%s: %w: %s", path, ErrConflict, body.Message)
	case resp.StatusCode == http.StatusForbidden && method == http.MethodDelete,
		resp.StatusCode == http.StatusConflict && method == http.MethodDelete:
		return fmt.Errorf("%s: %w: %s", path, ErrInUse, body.Message)
	}
	return fmt.Errorf("%s: Docker's engine answers %s: %s", path, resp.Status, body.Message)
}

// limit gives ctx a deadline if it has none.
func limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callLimit)
}

// older returns the older of an engine's version and ours. An engine that names none
// is asked in ours.
func older(engine, ours string) string {
	if engine == "" || !less(engine, ours) {
		return ours
	}
	return engine
}

// less compares versions such as 1.41 part by part.
func less(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, _ := strconv.Atoi(as[i])
		y, _ := strconv.Atoi(bs[i])
		if x != y {
			return x < y
		}
	}
	return len(as) < len(bs)
}
