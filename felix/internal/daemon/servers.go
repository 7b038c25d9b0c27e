package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"calico.internal/libcalico/logattr"
)

// servers runs the HTTP servers for health and metrics as the configuration asks for.
type servers struct {
	d       *Daemon
	health  server
	metrics server
}

// server is one HTTP server; addr is empty when it does not run.
type server struct {
	addr string
	http *http.Server
}

func (s *servers) run(ctx context.Context) error {
	defer s.health.stop()
	defer s.metrics.stop()
	for {
		cfg, changed := s.d.live.get()
		s.serve(&s.health, cfg.HealthEnabled, cfg.HealthHost, cfg.HealthPort, s.healthHandler())
		s.serve(&s.metrics, cfg.PrometheusMetricsEnabled, cfg.PrometheusMetricsHost, cfg.PrometheusMetricsPort, s.metricsHandler())
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// serve starts, moves or stops a server. An address that cannot be had is logged and
// tried again at the next change of the configuration.
func (s *servers) serve(one *server, enabled bool, host string, port int, handler http.Handler) {
	addr := ""
	if enabled {
		addr = net.JoinHostPort(host, strconv.Itoa(port))
	}
	if addr == one.addr {
		return
	}
	one.stop()
	if addr == "" {
		return
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		s.d.log.Error("HTTP server not started", logattr.Addr, addr, logattr.Err, err)
		return
	}
	one.addr = addr
	one.http = &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	go func(srv *http.Server) {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.d.log.Error("HTTP server ended", logattr.Addr, addr, logattr.Err, err)
		}
	}(one.http)
}

func (s *server) stop() {
	if s.http != nil {
		_ = s.http.Close()
	}
	*s = server{}
}

func (s *servers) healthHandler() http.Handler {
	mux := http.NewServeMux()
	answer := func(ok func() bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if ok() {
				w.WriteHeader(http.StatusOK)
				return
			}
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}
	mux.HandleFunc("GET /liveness", answer(s.d.beat.alive))
	mux.HandleFunc("GET /readiness", answer(func() bool {
		st, _ := s.d.board.State()
		return st.Ready()
	}))
	return mux
}

func (s *servers) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.d.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}
