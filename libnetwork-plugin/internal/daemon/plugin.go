package daemon

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"calico.internal/libnetwork-plugin/internal/httpapi"
)

// drainLimit is how long calls in progress are given when the process ends. Whoever ends
// it, be it process 1 of calico/node or systemd, waits for at least 8 seconds.
const drainLimit = 7 * time.Second

// plugin is one of the sockets that Docker knows us by.
type plugin struct {
	name   string
	server *httpapi.Server
	socket *httpapi.Socket
}

// newPlugin makes a plugin whose calls register answers.
func newPlugin(name, implements string, register func(*httpapi.Server), log *slog.Logger) *plugin {
	p := &plugin{name: name, server: httpapi.New(name, implements, log)}
	register(p.server)
	return p
}

// listen makes the plugin's socket, to be published later.
func (p *plugin) listen(dir string) (err error) {
	p.socket, err = httpapi.Listen(filepath.Join(dir, p.name+".sock"))
	return err
}

// serve answers calls until ctx ends, and then those that come until left ends; it finishes those
// in progress.
func (p *plugin) serve(ctx, left context.Context) error {
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(p.socket) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
	defer cancel()
	select {
	case <-left.Done():
	case <-limited.Done():
	}
	return errors.Join(p.socket.Close(), <-served, p.server.Drain(limited))
}
