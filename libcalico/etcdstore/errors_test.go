package etcdstore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

func open(tb testing.TB, cfg etcdstore.Config) *etcdstore.Client {
	tb.Helper()
	c, err := etcdstore.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// wantError checks what an error is and that an operator can read from it what to do.
func wantError(tb testing.TB, err, is error, words ...string) {
	tb.Helper()
	if !errors.Is(err, is) {
		tb.Errorf("got %v; it is not %q", err, is)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			tb.Errorf("%q does not say %q", err, word)
		}
	}
}

func TestNothingListens(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	endpoint := "http://" + l.Addr().String()
	_ = l.Close()
	c := open(t, etcdstore.Config{Endpoints: []string{endpoint}})
	start := time.Now()
	err = c.Ping(context.Background())
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("took %v", took)
	}
	want := "cannot reach etcd at " + endpoint + ": connection refused; is it running, and is ETCD_ENDPOINTS right?"
	if !errors.Is(err, etcdstore.ErrUnavailable) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	_, err = c.Create(context.Background(), policyKey(1), policy("all()"))
	wantError(t, err, etcdstore.ErrUnavailable, "create policy(name=p0001): ", "connection refused")
}

func TestUnknownHost(t *testing.T) {
	t.Parallel()
	c := open(t, etcdstore.Config{Endpoints: []string{"http://etcd.invalid:2379"}})
	wantError(t, c.Ping(context.Background()), etcdstore.ErrUnavailable, "etcd.invalid", "ETCD_ENDPOINTS")
}

func TestOneOfTwoEndpointsIsDead(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c := open(t, etcdstore.Config{Endpoints: []string{"http://127.0.0.1:1", s.Endpoint()}})
	if err := c.Ping(context.Background()); err != nil {
		t.Error(err)
	}
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/")
	f.until("snapshot", soon, func() bool { return f.snapshots == 1 && f.losses == 0 })
}

// The server accepts connections and says nothing.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c := open(t, etcdstore.Config{Endpoints: []string{"http://" + l.Addr().String()}})
	start := time.Now()
	wantError(t, c.Ping(context.Background()), etcdstore.ErrUnavailable, "no answer")
	if took := time.Since(start); took > 7*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestFrozenServer(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c := newClient(t, s)
	if err := c.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	wantError(t, c.Ping(context.Background()), etcdstore.ErrUnavailable, "no answer in time")
	if took := time.Since(start); took > 7*time.Second {
		t.Errorf("took %v", took)
	}
	// The caller's deadline counts, where there is one.
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	start = time.Now()
	wantError(t, c.Ping(ctx), etcdstore.ErrUnavailable)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a deadline of 300 ms took %v", took)
	}
}

// With a deadline an operation waits for etcd to come.
func TestOperationWaitsForEtcd(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	s.Stop()
	c := newClient(t, s)
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, err := c.Create(ctx, policyKey(1), policy("all()"))
		done <- err
	}()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCancelledOperation(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c := newClient(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := c.Get(ctx, policyKey(1))
	if !errors.Is(err, context.Canceled) || errors.Is(err, etcdstore.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// enableAuth makes a root and a user "reader" who may read and write /calico/v1/.
func enableAuth(tb testing.TB, s *etcdtest.Server) {
	tb.Helper()
	raw, ctx := s.Client(tb), ctxOf(tb)
	for _, step := range []func() error{
		func() error { _, err := raw.UserAdd(ctx, "root", "toor"); return err },
		func() error { _, err := raw.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := raw.RoleAdd(ctx, "reader"); return err },
		func() error {
			_, err := raw.RoleGrantPermission(ctx, "reader", "/calico/v1/", clientv3.GetPrefixRangeEnd("/calico/v1/"), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := raw.UserAdd(ctx, "reader", "secret"); return err },
		func() error { _, err := raw.UserGrantRole(ctx, "reader", "reader"); return err },
		func() error { _, err := raw.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			tb.Fatal(err)
		}
	}
}

func rootClient(tb testing.TB, s *etcdtest.Server) *clientv3.Client {
	tb.Helper()
	raw, err := clientv3.New(clientv3.Config{Endpoints: s.Endpoints(), Username: "root", Password: "toor", DialTimeout: 5 * time.Second})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = raw.Close() })
	return raw
}

func TestUsers(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	enableAuth(t, s)
	ctx := context.Background()
	user := func(name, password string) *etcdstore.Client {
		return open(t, etcdstore.Config{Endpoints: s.Endpoints(), Username: name, Password: password})
	}

	reader := user("reader", "secret")
	if _, err := reader.Create(ctx, policyKey(1), policy("all()")); err != nil {
		t.Error(err)
	}
	_, err := reader.Get(ctx, model.IPAMConfigKey{})
	wantError(t, err, etcdstore.ErrUnauthorized, "user reader", "permission denied", "role")
	wantError(t, user("reader", "wrong").Ping(ctx), etcdstore.ErrUnauthorized, "ETCD_PASSWORD")
	nobody := open(t, etcdstore.Config{Endpoints: s.Endpoints()})
	wantError(t, nobody.Ping(ctx), etcdstore.ErrUnauthorized, "without a user", "ETCD_USERNAME")

	// A restart makes etcd forget its tokens.
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	long, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := reader.Get(long, policyKey(1)); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	// A user whose rights are taken away is refused from then on.
	if _, err := rootClient(t, s).UserRevokeRole(ctx, "reader", "reader"); err != nil {
		t.Fatal(err)
	}
	_, err = reader.Get(ctx, policyKey(1))
	wantError(t, err, etcdstore.ErrUnauthorized)
}

// A user that etcd does not ask for does no harm.
func TestUserWithoutAuthentication(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c := open(t, etcdstore.Config{Endpoints: s.Endpoints(), Username: "u", Password: "p"})
	if err := c.Ping(context.Background()); err != nil {
		t.Error(err)
	}
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/")
	f.until("snapshot", soon, func() bool { return f.snapshots == 1 })
}

// authority makes certificates in a directory.
type authority struct {
	tb   testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB, name string) *authority {
	tb.Helper()
	a := &authority{tb: tb, dir: tb.TempDir()}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.key = a.issue(name, a.cert)
	return a
}

// issue writes <name>.crt and <name>.key.
func (a *authority) issue(name string, template *x509.Certificate) *ecdsa.PrivateKey {
	a.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.tb.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), signer)
	if err != nil {
		a.tb.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.tb.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		a.file(name + ".crt"): {Type: "CERTIFICATE", Bytes: der},
		a.file(name + ".key"): {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			a.tb.Fatal(err)
		}
	}
	return key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) leaf(name string, notAfter time.Time, ip string) {
	a.tb.Helper()
	a.issue(name, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: notAfter,
		IPAddresses: []net.IP{netip.MustParseAddr(ip).AsSlice()}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t, "ca"), newAuthority(t, "ca")
	later := time.Now().Add(time.Hour)
	ca.leaf("server", later, "127.0.0.1")
	ca.leaf("client", later, "127.0.0.1")
	ca.leaf("expired", time.Now().Add(-time.Hour), "127.0.0.1")
	ca.leaf("elsewhere", later, "192.0.2.1")
	start := func(cert string) *etcdtest.Server {
		return etcdtest.Start(t, etcdtest.TLS(ca.file(cert+".crt"), ca.file(cert+".key"),
			"--client-cert-auth=true", "--trusted-ca-file="+ca.file("ca.crt")))
	}
	s := start("server")
	good := etcdstore.Config{
		Endpoints: s.Endpoints(), CACertFile: ca.file("ca.crt"), CertFile: ca.file("client.crt"), KeyFile: ca.file("client.key"),
	}
	ping := func(change func(*etcdstore.Config)) error {
		cfg := good
		change(&cfg)
		return open(t, cfg).Ping(context.Background())
	}
	if err := ping(func(*etcdstore.Config) {}); err != nil {
		t.Error(err)
	}
	wantError(t, ping(func(c *etcdstore.Config) { c.CACertFile = stranger.file("ca.crt") }), etcdstore.ErrUnavailable, "TLS handshake", "ETCD_CA_CERT_FILE")
	wantError(t, ping(func(c *etcdstore.Config) { c.CertFile, c.KeyFile = "", "" }), etcdstore.ErrUnavailable, "ETCD_CERT_FILE")
	plain := etcdstore.Config{Endpoints: []string{"http://" + s.Addr()}}
	wantError(t, open(t, plain).Ping(context.Background()), etcdstore.ErrUnavailable, "https")
	for _, cert := range []string{"expired", "elsewhere"} {
		other := start(cert)
		wantError(t, ping(func(c *etcdstore.Config) { c.Endpoints = other.Endpoints() }), etcdstore.ErrUnavailable, "x509")
	}
	http := etcdtest.Start(t)
	wantError(t, ping(func(c *etcdstore.Config) { c.Endpoints = []string{"https://" + http.Addr()} }), etcdstore.ErrUnavailable, "plain http")
}
