package transfer

import (
	"bufio"
	"bytes"
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

const (
	v2Root    = "/v2/keys/calico"
	v2Timeout = 60 * time.Second
	// v2NotFound is etcd's EcodeKeyNotFound.
	v2NotFound = 100
	// v2Refusal is how much is read of an answer that nothing was found.
	v2Refusal = 64 << 10
)

// Fetch writes the answer of the v2 API about the tree /calico.
func (v V2) Fetch(ctx context.Context, w io.Writer) error {
	base, err := url.Parse(v.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return fmt.Errorf("%q is not the URL of an etcd, such as http://192.0.2.1:2379", v.URL)
	}
	transport, err := v.transport()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, v2Timeout)
	defer cancel()
	where := strings.TrimSuffix(v.URL, "/") + v2Root + "?recursive=true&quorum=true"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return err
	}
	if v.Username != "" {
		req.SetBasicAuth(v.Username, v.Password)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("read the old datastore: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	answer := io.Reader(resp.Body)
	if resp.StatusCode == http.StatusNotFound {
		text, err := io.ReadAll(io.LimitReader(resp.Body, v2Refusal))
		if err == nil && !json.Valid(text) {
			err = fmt.Errorf("the etcd at %s does not serve the v2 API: start it with --enable-v2", v.URL)
		}
		if err != nil {
			return err
		}
		answer = bytes.NewReader(text)
	}
	if _, err := io.Copy(w, answer); err != nil {
		return fmt.Errorf("read the old datastore: %w", err)
	}
	return nil
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

// V2File is a source that is an answer of the v2 API, as [V2.Fetch] writes it, or
// "curl http://…/v2/keys/calico?recursive=true". Keys that expire are left out. Little of it is
// in memory at a time.
func V2File(name string, r io.ReadSeeker) (Source, error) {
	return rereadable(name, r, readV2, name+" holds nothing of Calico")
}

// readV2 calls f for all values of an answer of the v2 API.
func readV2(name string, r io.Reader, f func(path string, value []byte) error) error {
	dec := json.NewDecoder(bufio.NewReaderSize(r, fileBuffer))
	walk := v2Walk{dec: dec, f: f}
	var code int
	var message, cause string
	found := false
	err := eachMember(dec, func(field string) error {
		switch field {
		case "node":
			found = true
			return walk.node()
		case "errorCode":
			return dec.Decode(&code)
		case "message":
			return dec.Decode(&message)
		case "cause":
			return dec.Decode(&cause)
		default:
			return dec.Decode(new(json.RawMessage))
		}
	})
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows after its end")
		}
	}
	switch {
	case walk.failed != nil:
		return walk.failed
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%s: not an answer of etcd's v2 API: %w", name, io.ErrUnexpectedEOF)
	case err != nil:
		return fmt.Errorf("%s: not an answer of etcd's v2 API: %w", name, err)
	case code == v2NotFound:
		return fmt.Errorf("%s holds no /calico", name)
	case code != 0:
		return fmt.Errorf("%s: etcd says: %s (%s)", name, message, cause)
	case !found:
		return fmt.Errorf("%s: not an answer of etcd's v2 API, which has a node with nodes", name)
	}
	return nil
}

// v2Walk goes through a tree of the v2 API.
type v2Walk struct {
	dec *json.Decoder
	f   func(path string, value []byte) error
	// failed is what f returned.
	failed error
}

// node reads a key, with those below it.
func (w *v2Walk) node() error {
	var key, value, expiration string
	var dir, below bool
	err := eachMember(w.dec, func(field string) error {
		switch field {
		case "key":
			return w.dec.Decode(&key)
		case "value":
			return w.dec.Decode(&value)
		case "dir":
			return w.dec.Decode(&dir)
		case "expiration":
			return w.dec.Decode(&expiration)
		case "nodes":
			if expiration != "" {
				return w.dec.Decode(new(json.RawMessage))
			}
			below = true
			return eachItem(w.dec, w.node)
		default:
			return w.dec.Decode(new(json.RawMessage))
		}
	})
	switch {
	case err != nil || dir && expiration == "":
		return err
	case expiration != "" && below:
		return fmt.Errorf("%s: that it expires stands after its nodes; etcd writes it before", key)
	case expiration != "":
		return nil
	}
	w.failed = w.f(key, []byte(value))
	return w.failed
}
