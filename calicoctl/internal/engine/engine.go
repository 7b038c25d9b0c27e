// Package engine asks the Docker engine of this host what its containers use, and who it
// is. It is the edge to Docker's API, of which it needs four calls, and to the plugin that
// knows which engine it serves.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// DefaultHost is where an engine listens unless DOCKER_HOST says otherwise.
const DefaultHost = "unix:///var/run/docker.sock"

// timeout bounds all questions together.
const timeout = 10 * time.Second

// View is an engine with what its containers use.
type View struct {
	// ID is the engine's own, and Networks are those of its networks. Either tells it from
	// any other engine.
	ID       string
	Networks []string
	// Endpoints and Addresses hold the containers.
	Endpoints map[string]Container
	Addresses map[netip.Addr]Container
}

// Container is one that has an endpoint or an address.
type Container struct {
	Name string
	// Running says that it has processes, or will have them soon again.
	Running bool
}

// Local reports whether an engine's address is on this host.
func Local(host string) bool { return strings.HasPrefix(host, "unix://") }

type container struct {
	ID              string `json:"Id"`
	Names           []string
	State           string
	NetworkSettings struct {
		Networks map[string]struct {
			EndpointID        string
			IPAddress         string
			GlobalIPv6Address string
		}
	}
}

// Ask asks the engine at host, such as unix:///var/run/docker.sock or tcp://1.2.3.4:2375.
func Ask(ctx context.Context, host string) (*View, error) {
	e, done, err := connect(host)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var info struct{ ID string }
	var networks []struct {
		ID string `json:"Id"`
	}
	var containers []container
	for _, question := range []struct {
		path string
		into any
	}{{"/info", &info}, {"/networks", &networks}, {"/containers/json?all=1", &containers}} {
		if err := e.get(ctx, question.path, question.into); err != nil {
			return nil, err
		}
	}
	v := viewOf(containers)
	v.ID = info.ID
	for _, n := range networks {
		v.Networks = append(v.Networks, n.ID)
	}
	return v, nil
}

// connect is a client of the engine at host, until done is called.
func connect(host string) (c *client, done func(), err error) {
	network, addr, ok := strings.Cut(host, "://")
	if !ok || network != "unix" && network != "tcp" {
		return nil, nil, fmt.Errorf("engine address %q: expected unix:///path or tcp://host:port", host)
	}
	dialer := &net.Dialer{}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, addr)
		},
	}
	return &client{host, &http.Client{Transport: transport}}, transport.CloseIdleConnections, nil
}

// client asks one engine.
type client struct {
	host string
	http *http.Client
}

// get decodes the answer to one question. Without a version in its path, a request is
// answered in the engine's own.
func (c *client) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker.engine"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("Docker's engine at %s does not answer: %w", c.host, cause(err)) //nolint:staticcheck // ST1005: a name
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return fmt.Errorf("Docker's engine at %s answers %s: %s", c.host, resp.Status, strings.TrimSpace(string(text))) //nolint:staticcheck // ST1005: a name
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("answer of Docker's engine at %s: %w", c.host, err)
	}
	return nil
}

// cause is an error without the invented URL of the request.
func cause(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

func viewOf(list []container) *View {
	v := &View{Endpoints: map[string]Container{}, Addresses: map[netip.Addr]Container{}}
	for _, c := range list {
		this := Container{Name: c.ID, Running: c.runs()}
		if len(c.Names) > 0 {
			this.Name = strings.TrimPrefix(c.Names[0], "/")
		}
		for _, n := range c.NetworkSettings.Networks {
			if n.EndpointID != "" {
				v.Endpoints[n.EndpointID] = this
			}
			for _, text := range []string{n.IPAddress, n.GlobalIPv6Address} {
				if a, err := netip.ParseAddr(text); err == nil && !v.Addresses[a].Running {
					v.Addresses[a] = this
				}
			}
		}
	}
	return v
}

// runs takes a state that this program does not know for one of a container that runs.
func (c container) runs() bool {
	return c.State != "created" && c.State != "exited" && c.State != "dead"
}
