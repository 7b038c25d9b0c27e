// Package engine asks the Docker engine of this host what its containers use. It is the
// edge to Docker's API, of which it needs one call.
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

// timeout bounds the question.
const timeout = 10 * time.Second

// View is what the containers of an engine use.
type View struct {
	// Endpoints and Addresses hold the names of the containers.
	Endpoints map[string]string
	Addresses map[netip.Addr]string
}

// Local reports whether an engine's address is on this host.
func Local(host string) bool { return strings.HasPrefix(host, "unix://") }

type container struct {
	ID              string `json:"Id"`
	Names           []string
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
	network, addr, ok := strings.Cut(host, "://")
	if !ok || network != "unix" && network != "tcp" {
		return nil, fmt.Errorf("engine address %q: expected unix:///path or tcp://host:port", host)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	dialer := &net.Dialer{}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, addr)
		},
	}
	// Without a version in its path, a request is answered in the engine's own.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker.engine/containers/json?all=1", nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("Docker's engine at %s does not answer: %w", host, cause(err)) //nolint:staticcheck // ST1005: a name
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return nil, fmt.Errorf("Docker's engine at %s answers %s: %s", host, resp.Status, strings.TrimSpace(string(text))) //nolint:staticcheck // ST1005: a name
	}
	var list []container
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("answer of Docker's engine at %s: %w", host, err)
	}
	return viewOf(list), nil
}

// cause is an error without the invented URL of the request.
func cause(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

func viewOf(list []container) *View {
	v := &View{Endpoints: map[string]string{}, Addresses: map[netip.Addr]string{}}
	for _, c := range list {
		name := c.ID
		if len(c.Names) > 0 {
			name = strings.TrimPrefix(c.Names[0], "/")
		}
		for _, n := range c.NetworkSettings.Networks {
			if n.EndpointID != "" {
				v.Endpoints[n.EndpointID] = name
			}
			for _, text := range []string{n.IPAddress, n.GlobalIPv6Address} {
				if a, err := netip.ParseAddr(text); err == nil {
					v.Addresses[a] = name
				}
			}
		}
	}
	return v
}
