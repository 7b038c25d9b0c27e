package etcdstore

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc/credentials"
)

// certificates are what connections are secured by. Their files are read again for each
// new connection, so that renewed ones are used without a restart, the CA's included. What
// cannot be read at that moment, because it is just being written, stays as it was.
type certificates struct {
	cfg Config

	mu    sync.Mutex
	roots *x509.CertPool // nil means those of the system
	own   *tls.Certificate
}

// newCertificates reads the files for the first time, when all must be right. It is nil for
// plain http.
func newCertificates(cfg Config) (*certificates, error) {
	if !cfg.secure() {
		return nil, nil
	}
	c := &certificates{cfg: cfg}
	if _, err := c.read(); err != nil {
		return nil, err
	}
	return c, nil
}

// read gives the configuration for one handshake. The error says which files keep their
// earlier content in it; it is never less strict.
func (c *certificates) read() (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var faults []error
	if c.cfg.CACertFile != "" {
		roots, err := readRoots(c.cfg.CACertFile)
		if err == nil {
			c.roots = roots
		}
		faults = append(faults, err)
	}
	if c.cfg.CertFile != "" {
		own, err := tls.LoadX509KeyPair(c.cfg.CertFile, c.cfg.KeyFile)
		if err == nil {
			c.own = &own
		} else {
			err = fmt.Errorf("etcd client certificate %s and key %s (ETCD_CERT_FILE, ETCD_KEY_FILE): %w", c.cfg.CertFile, c.cfg.KeyFile, err)
		}
		faults = append(faults, err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.roots}
	if own := c.own; own != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	return cfg, errors.Join(faults...)
}

// readRoots reads a file of CA certificates. One that has not been written to its end is
// refused as a whole: what is missing may be the certificate that is needed.
func readRoots(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("etcd CA certificate (ETCD_CA_CERT_FILE): %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("etcd CA certificate (ETCD_CA_CERT_FILE): no certificate in %s", file)
	}
	for block, rest := pem.Decode(text); ; block, rest = pem.Decode(rest) {
		switch {
		case block != nil:
			continue
		case bytes.Contains(rest, []byte("-----BEGIN")):
			return nil, fmt.Errorf("etcd CA certificate (ETCD_CA_CERT_FILE): the last certificate in %s is incomplete", file)
		}
		return roots, nil
	}
}

// handshakes are gRPC's transport credentials that read the certificates each time.
type handshakes struct {
	credentials.TransportCredentials

	files *certificates
	dials *dialer
}

func newHandshakes(files *certificates, dials *dialer) handshakes {
	return handshakes{credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}), files, dials}
}

// ClientHandshake secures a new connection to the server named by authority.
func (h handshakes) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg, stale := h.files.read()
	secured, info, err := credentials.NewTLS(cfg).ClientHandshake(ctx, authority, conn)
	if err != nil && stale != nil {
		err = fmt.Errorf("%w; what was read before was used, because of: %w", err, stale)
	}
	if err != nil {
		h.dials.note(&handshakeError{err})
	}
	return secured, info, err
}

// handshakeError is why a connection could not be secured.
type handshakeError struct{ error }

func (e *handshakeError) Error() string { return tlsHandshake + e.error.Error() }
func (e *handshakeError) Unwrap() error { return e.error }

// Clone makes another that reads the same files.
func (h handshakes) Clone() credentials.TransportCredentials {
	return handshakes{h.TransportCredentials.Clone(), h.files, h.dials}
}
