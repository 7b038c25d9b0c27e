package checksystem

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"calico.internal/libcalico/etcdstore"
)

// trialKey is where the time of a write is taken. Nobody reads there, and the key goes with
// its lease if it is not deleted.
const (
	trialKey   = "/calico/checksystem/v1/"
	trialLease = 30 * time.Second
)

// slowWrite is how long a write may take before start-ups of containers, each of which writes
// several times, are noticeably slow.
const slowWrite = 50 * time.Millisecond

// clockLimit is how far the host's clock may be from etcd's. The times are only shown.
const clockLimit = 5 * time.Second

// Datastore looks at etcd: does it answer, how long does a write take, and what time is it
// there? connect makes a connection that has been answered once.
func Datastore(ctx context.Context, cfg etcdstore.Config, node string, connect func(context.Context) (*etcdstore.Client, error)) []Finding {
	f := Finding{Check: "etcd", Tried: "connected"}
	client, err := connect(ctx)
	if err != nil && len(cfg.Endpoints) == 0 {
		return []Finding{f.is(Untried, "say where etcd is (ETCD_ENDPOINTS or --config), to have its answers, latency and clock looked at", "not configured")}
	}
	if err != nil {
		return []Finding{f.is(Fault, "see whether etcd runs and this host reaches it; ETCD_ENDPOINTS or --config say where it is looked for", "%v", err)}
	}
	defer client.Close() //nolint:errcheck // nothing is left to lose
	return []Finding{f.ok("answers"), latency(ctx, client, trialKey+node), clock(ctx, cfg)}
}

// NoDatastore is the finding when the configuration of the datastore cannot be read.
func NoDatastore(err error) []Finding {
	return []Finding{Finding{Check: "etcd", Tried: "read how to reach it"}.is(Fault, "mend the configuration", "%v", err)}
}

// latency writes a key with a lease some times, or reads when it may not write.
func latency(ctx context.Context, client *etcdstore.Client, key string) Finding {
	f := Finding{Check: "etcd latency", Tried: "wrote a key with a lease three times, and removed it"}
	took, err := timedWrites(ctx, client, key)
	if denied(err) {
		f.Tried = "read a key three times, as the user may not write"
		took, err = timed(3, func() error {
			_, err := client.Raw().Get(ctx, "/calico/v1/Ready")
			return err
		})
	}
	switch {
	case err != nil:
		return f.is(Warning, "see etcd's log", "%v", err)
	case took > slowWrite:
		return f.is(Warning, "give etcd a faster disk (a write is on disk when it is done), or a shorter way to it",
			"%s: each start of a container writes several times", took.Round(time.Millisecond))
	}
	return f.ok("%.1f ms", float64(took.Microseconds())/1000)
}

// timedWrites leaves nothing: the key goes with the lease.
func timedWrites(ctx context.Context, client *etcdstore.Client, key string) (time.Duration, error) {
	lease, err := client.Lease(ctx, trialLease)
	if err != nil {
		return 0, err
	}
	took, err := timed(3, func() error {
		_, err := client.Raw().Put(ctx, key, "", clientv3.WithLease(lease))
		return err
	})
	if _, endErr := client.Raw().Revoke(ctx, lease); err == nil {
		err = endErr
	}
	return took, err
}

// denied says whether etcd refused because of the user's rights.
func denied(err error) bool {
	coded, ok := errors.AsType[interface {
		error
		Code() codes.Code
	}](err)
	return ok && coded.Code() == codes.PermissionDenied
}

// timed is the longest of some calls.
func timed(times int, call func() error) (longest time.Duration, err error) {
	for range times {
		start := time.Now()
		if err := call(); err != nil {
			return 0, err
		}
		longest = max(longest, time.Since(start))
	}
	return longest, nil
}

// clock compares this host's clock with the one of the first member that says the time, to a
// second.
func clock(ctx context.Context, cfg etcdstore.Config) Finding {
	f := Finding{Check: "clock", Tried: "compared it with that of etcd's host"}
	var faults []error
	for _, endpoint := range cfg.Endpoints {
		before := time.Now()
		there, err := timeAt(ctx, cfg, endpoint)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		after := time.Now()
		// What is told is cut to seconds.
		ahead := max(before.Sub(there.Add(time.Second)), there.Sub(after), 0)
		word := "ahead of"
		if there.After(after) {
			word = "behind"
		}
		if ahead > clockLimit {
			return f.is(Warning, "let both keep time by NTP (chronyd, systemd-timesyncd)",
				"this host is %s %s by %s: times in status and logs of hosts cannot be compared", word, endpoint, ahead.Round(time.Second))
		}
		return f.ok("within %s of %s", clockLimit, endpoint)
	}
	return f.is(Untried, "", "etcd does not say the time: %v", errors.Join(faults...))
}

// timeAt is the time that a member gives its answers over HTTP.
func timeAt(ctx context.Context, cfg etcdstore.Config, endpoint string) (time.Time, error) {
	security, err := security(cfg)
	if err != nil {
		return time.Time{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/version", nil)
	if err != nil {
		return time.Time{}, err
	}
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{TLSClientConfig: security, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return time.Time{}, err
	}
	if err := resp.Body.Close(); err != nil {
		return time.Time{}, err
	}
	return http.ParseTime(resp.Header.Get("Date"))
}

// security is how etcd and this host know each other.
func security(cfg etcdstore.Config) (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CACertFile != "" {
		text, err := os.ReadFile(cfg.CACertFile)
		if err != nil {
			return nil, err
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate", cfg.CACertFile)
		}
	}
	if cfg.CertFile != "" {
		own, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return nil, err
		}
		out.Certificates = []tls.Certificate{own}
	}
	return out, nil
}
