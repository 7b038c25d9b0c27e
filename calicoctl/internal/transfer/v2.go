package transfer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// V2 says how to reach an etcd that serves its v2 API.
type V2 struct {
	URL                           string
	CACertFile, CertFile, KeyFile string
	Username, Password            string
}

// v2Node is a key of the v2 API.
type v2Node struct {
	Key        string   `json:"key"`
	Value      string   `json:"value"`
	Dir        bool     `json:"dir"`
	Expiration string   `json:"expiration"`
	Nodes      []v2Node `json:"nodes"`
}

type v2Answer struct {
	Node      *v2Node `json:"node"`
	ErrorCode int     `json:"errorCode"`
	Message   string  `json:"message"`
	Cause     string  `json:"cause"`
}

const (
	v2Root    = "/v2/keys/calico"
	v2Timeout = 60 * time.Second
	// v2NotFound is etcd's EcodeKeyNotFound.
	v2NotFound = 100
)

// ReadV2 reads the tree /calico over the v2 API.
func ReadV2(ctx context.Context, from V2) (Dump, error) {
	base, err := url.Parse(from.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return Dump{}, fmt.Errorf("%q is not the URL of an etcd, such as http://192.0.2.1:2379", from.URL)
	}
	transport, err := from.transport()
	if err != nil {
		return Dump{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, v2Timeout)
	defer cancel()
	where := strings.TrimSuffix(from.URL, "/") + v2Root + "?recursive=true&quorum=true"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return Dump{}, err
	}
	if from.Username != "" {
		req.SetBasicAuth(from.Username, from.Password)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return Dump{}, fmt.Errorf("read the old datastore: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return Dump{}, fmt.Errorf("read the old datastore: %w", err)
	}
	if resp.StatusCode == http.StatusNotFound && !json.Valid(data) {
		return Dump{}, fmt.Errorf("the etcd at %s does not serve the v2 API: start it with --enable-v2", from.URL)
	}
	return ReadV2File(from.URL, data)
}

func (v V2) transport() (*http.Transport, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if v.CACertFile != "" {
		pem, err := os.ReadFile(v.CACertFile)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", v.CACertFile)
		}
	}
	if v.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(v.CertFile, v.KeyFile)
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return &http.Transport{TLSClientConfig: cfg, Proxy: http.ProxyFromEnvironment}, nil
}

// ReadV2File reads an answer of the v2 API, as in
// "curl http://…/v2/keys/calico?recursive=true". Keys that expire are left out.
func ReadV2File(name string, data []byte) (Dump, error) {
	var a v2Answer
	if err := json.Unmarshal(data, &a); err != nil {
		return Dump{}, fmt.Errorf("%s: not an answer of etcd's v2 API: %w", name, err)
	}
	switch {
	case a.ErrorCode == v2NotFound:
		return Dump{}, fmt.Errorf("%s holds no /calico", name)
	case a.ErrorCode != 0:
		return Dump{}, fmt.Errorf("%s: etcd says: %s (%s)", name, a.Message, a.Cause)
	case a.Node == nil:
		return Dump{}, fmt.Errorf("%s: not an answer of etcd's v2 API, which has a node with nodes", name)
	}
	d := Dump{Source: name, Values: map[string][]byte{}}
	d.addV2(*a.Node)
	if len(d.Values) == 0 {
		return d, errors.New(name + " holds nothing of Calico")
	}
	return d, nil
}

func (d *Dump) addV2(n v2Node) {
	switch {
	case n.Expiration != "":
	case n.Dir:
		for _, child := range n.Nodes {
			d.addV2(child)
		}
	default:
		d.Values[n.Key] = []byte(n.Value)
	}
}
