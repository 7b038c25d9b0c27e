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
	name string
	mux  *http.ServeMux
	http http.Server
	log  *slog.Logger
	// Failed is called after each call that failed, if it is set, before the answer.
	Failed func()
	// calls are the connections that were accepted, one for each call.
	calls sync.WaitGroup
	// limit is that of a call.
	limit time.Duration
}

// headerLimit is how long somebody who has connected may take to say what he wants. The
// end of the process waits for him.
const headerLimit = 5 * time.Second

// New returns a server of the named plugin. implements is the kind of driver as Docker
// calls it, such as NetworkDriver.
func New(name, implements string, log *slog.Logger) *Server {
	s := &Server{name: name, mux: http.NewServeMux(), log: log.With("plugin", name), limit: callLimit}
	s.http.Handler = s.mux
	s.http.ReadHeaderTimeout = headerLimit
	s.http.ConnState = s.count
	// Each call has a connection of its own: a call on one that is kept would be lost if it
	// came in the moment in which this process ends.
	s.http.SetKeepAlivesEnabled(false)
	s.mux.HandleFunc("/Plugin.Activate", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", sdk.DefaultContentTypeV1_1)
		fmt.Fprintf(w, "{\"Implements\": [%q]}\n", implements)
	})
	return s
}

// count counts the connections.
func (s *Server) count(_ net.Conn, state http.ConnState) {
	if state == http.StateNew {
		s.calls.Add(1)
	}
	if state == http.StateClosed {
		s.calls.Done()
	}
}

// Empty is the request or the answer of a call that has none.
type Empty struct{}

// failure is how Docker wants to hear of an error; every engine reads this field, for
// both kinds of driver, in an answer with an error status.
type failure struct {
	Err string
}

// callLimit is how long a call may take. Engines wait for an answer for ever, with the
// container locked; what they bound, by 30 seconds, is how long they try to connect.
const callLimit = 25 * time.Second

// errTookTooLong is why a call is given up.
var errTookTooLong = fmt.Errorf("the call took longer than %s: see the log of Calico's plugin, and try again", callLimit)

// Handle makes call answer a method such as NetworkDriver.Join. The call's context ends
// when the engine's connection does, and after [callLimit].
func Handle[Req, Resp any](s *Server, method string, call func(context.Context, Req) (Resp, error)) {
	s.mux.HandleFunc("/"+method, func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		// Not a deadline: what is asked on the way has, where there is none, one that fits it.
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		defer time.AfterFunc(s.limit, func() { cancel(errTookTooLong) }).Stop()
		answer, err := decodeAndCall(ctx, r.Body, call)
		if err != nil && errors.Is(context.Cause(ctx), errTookTooLong) {
			err = fmt.Errorf("%w (%w)", errTookTooLong, err)
		}
		if err != nil {
			s.log.Warn("call failed", logattr.Method, method, logattr.Took, time.Since(start), logattr.Err, err)
			if s.Failed != nil {
				s.Failed()
			}
			sdk.EncodeResponse(w, failure{Err: err.Error()}, true)
			return
		}
		s.log.Debug("call", logattr.Method, method, logattr.Took, time.Since(start))
		sdk.EncodeResponse(w, answer, false)
	})
}

// errNoContents is the answer to what an engine sends when the connection of a call broke:
// the call again, without its contents.
var errNoContents = errors.New("the engine sent this call without its contents, " +
	"as it does when Calico's plugin ended during the call: try again")

// decodeAndCall reads the request and makes the call. Some engines send no body where
// there is nothing to say.
func decodeAndCall[Req, Resp any](ctx context.Context, body io.Reader,
	call func(context.Context, Req) (Resp, error),
) (answer Resp, err error) {
	var req Req
	err = json.NewDecoder(body).Decode(&req)
	_, mayBeEmpty := any(req).(Empty)
	switch {
	case errors.Is(err, io.EOF) && !mayBeEmpty:
		return answer, errNoContents
	case err != nil && !errors.Is(err, io.EOF):
		return answer, fmt.Errorf("request is not what Docker sends: %w", err)
	}
	return call(ctx, req)
}

// Serve answers calls until the listener is closed.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.Serve(l)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("serve plugin %s: %w", s.name, err)
}

// Drain waits until the calls that were accepted have been answered or ctx ends. The
// listener must be closed before. It is not [http.Server.Shutdown], which drops the calls
// that were accepted and not read yet.
func (s *Server) Drain(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		s.calls.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("calls of plugin %s are cut off: %w", s.name, ctx.Err())
	}
}
