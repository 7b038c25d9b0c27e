// Package httpapi is Docker's plugin protocol: JSON over HTTP on a unix socket
// (edge). It knows how a call is read, answered and counted, and nothing of networks.
package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/docker/go-plugins-helpers/sdk"

	"calico.internal/libcalico/logattr"
)

// Server answers the calls of one plugin.
type Server struct {
	name    string
	handler sdk.Handler
	log     *slog.Logger
	// busy is read-locked by each call in progress.
	busy sync.RWMutex
}

// New returns a server of the named plugin. implements is the kind of driver as Docker
// calls it, such as NetworkDriver.
func New(name, implements string, log *slog.Logger) *Server {
	manifest := fmt.Sprintf(`{"Implements": [%q]}`, implements)
	return &Server{name: name, handler: sdk.NewHandler(manifest), log: log.With("plugin", name)}
}

// Empty is the request or the answer of a call that has none.
type Empty struct{}

// failure is how Docker wants to hear of an error; every engine reads this field, for
// both kinds of driver, in an answer with an error status.
type failure struct {
	Err string
}

// Handle makes call answer a method such as NetworkDriver.Join. The call's context ends
// when the engine gives up, which it does after 30 seconds; it has no deadline of its
// own, as each thing that is asked on the way has one that fits it.
func Handle[Req, Resp any](s *Server, method string, call func(context.Context, Req) (Resp, error)) {
	s.handler.HandleFunc("/"+method, func(w http.ResponseWriter, r *http.Request) {
		s.busy.RLock()
		defer s.busy.RUnlock()
		start := time.Now()
		answer, err := decodeAndCall(r.Context(), r.Body, call)
		if err != nil {
			s.log.Warn("call failed", logattr.Method, method, logattr.Took, time.Since(start), logattr.Err, err)
			sdk.EncodeResponse(w, failure{Err: err.Error()}, true)
			return
		}
		s.log.Debug("call", logattr.Method, method, logattr.Took, time.Since(start))
		sdk.EncodeResponse(w, answer, false)
	})
}

// decodeAndCall reads the request and makes the call. Some engines send no body where
// there is nothing to say.
func decodeAndCall[Req, Resp any](ctx context.Context, body io.Reader,
	call func(context.Context, Req) (Resp, error),
) (answer Resp, err error) {
	var req Req
	if err := json.NewDecoder(body).Decode(&req); err != nil && !errors.Is(err, io.EOF) {
		return answer, fmt.Errorf("request is not what Docker sends: %w", err)
	}
	return call(ctx, req)
}

// Serve answers calls until the listener is closed.
func (s *Server) Serve(l net.Listener) error {
	err := s.handler.Serve(l)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("serve plugin %s: %w", s.name, err)
}

// Drain waits until the calls in progress have been answered or ctx ends; later ones
// wait for ever.
func (s *Server) Drain(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		s.busy.Lock()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
