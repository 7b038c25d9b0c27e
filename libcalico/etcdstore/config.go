package etcdstore

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"calico.internal/libcalico/version"
)

// DefaultEndpoint is where etcd is looked for when nothing else is said.
const DefaultEndpoint = "http://127.0.0.1:2379"

// Config says how to reach etcd.
type Config struct {
	// Endpoints are the URLs of the cluster's members, all http or all https.
	Endpoints []string
	// CACertFile verifies the servers; empty means the system's certificates.
	CACertFile string
	// CertFile and KeyFile are the client's own certificate.
	CertFile, KeyFile string
	// Username and Password log in, when etcd has authentication switched on.
	Username, Password string
	// DialTimeout limits one attempt to connect and an operation without a deadline;
	// 0 means 5 s.
	DialTimeout time.Duration
	// Version is that of the program, which decides whether it may write; empty means the
	// one that the linker has set.
	Version string
	// Log gets every request at debug level, without values; nil means none does.
	Log *slog.Logger
}

// ConfigFromEnv reads ETCD_ENDPOINTS (or ETCD_SCHEME and ETCD_AUTHORITY),
// ETCD_CA_CERT_FILE, ETCD_CERT_FILE, ETCD_KEY_FILE, ETCD_USERNAME and ETCD_PASSWORD.
func ConfigFromEnv(getenv func(string) string) (Config, error) {
	cfg := Config{
		CACertFile: getenv("ETCD_CA_CERT_FILE"),
		CertFile:   getenv("ETCD_CERT_FILE"),
		KeyFile:    getenv("ETCD_KEY_FILE"),
		Username:   getenv("ETCD_USERNAME"),
		Password:   getenv("ETCD_PASSWORD"),
	}
	cfg.Endpoints = SplitEndpoints(getenv("ETCD_ENDPOINTS"))
	if authority := strings.TrimSpace(getenv("ETCD_AUTHORITY")); len(cfg.Endpoints) == 0 && authority != "" {
		scheme := strings.TrimSpace(getenv("ETCD_SCHEME"))
		if scheme == "" {
			scheme = "http"
		}
		cfg.Endpoints = []string{scheme + "://" + authority}
	}
	return cfg, cfg.Check()
}

// SplitEndpoints reads a comma-separated list of URLs.
func SplitEndpoints(list string) []string {
	var endpoints []string
	for endpoint := range strings.SplitSeq(list, ",") {
		if endpoint = strings.TrimSpace(endpoint); endpoint != "" {
			endpoints = append(endpoints, strings.TrimSuffix(endpoint, "/"))
		}
	}
	return endpoints
}

// Check says whether the configuration makes sense, without reading any file.
func (c Config) Check() error {
	var faults []error
	secure := 0
	for _, endpoint := range c.Endpoints {
		u, err := url.Parse(endpoint)
		switch {
		case err != nil || u.Host == "" || u.Hostname() == "" || (u.Path != "" && u.Path != "/"):
			faults = append(faults, fmt.Errorf("etcd endpoint %q: write it as http://host:port or https://host:port (ETCD_ENDPOINTS)", endpoint))
		case u.Scheme == "https":
			secure++
		case u.Scheme != "http":
			faults = append(faults, fmt.Errorf("etcd endpoint %q: the scheme must be http or https (ETCD_ENDPOINTS)", endpoint))
		}
	}
	if secure > 0 && secure < len(c.Endpoints) && len(faults) == 0 {
		faults = append(faults, errors.New("etcd endpoints: either all of them must be https or none (ETCD_ENDPOINTS)"))
	}
	if secure == 0 && len(faults) == 0 && (c.CACertFile != "" || c.CertFile != "" || c.KeyFile != "") {
		faults = append(faults, errors.New("etcd certificates are configured, but the endpoints are not https (ETCD_ENDPOINTS)"))
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		faults = append(faults, errors.New("etcd client certificate and key go together (ETCD_CERT_FILE, ETCD_KEY_FILE)"))
	}
	if c.Username == "" && c.Password != "" {
		faults = append(faults, errors.New("etcd password without a user (ETCD_USERNAME)"))
	}
	return errors.Join(faults...)
}

func (c Config) withDefaults() Config {
	if len(c.Endpoints) == 0 {
		c.Endpoints = []string{DefaultEndpoint}
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 5 * time.Second
	}
	if c.Version == "" {
		c.Version = version.Version
	}
	return c
}

// secure says whether the endpoints are https.
func (c Config) secure() bool {
	return len(c.Endpoints) > 0 && strings.HasPrefix(c.Endpoints[0], "https://")
}
