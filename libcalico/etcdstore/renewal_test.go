package etcdstore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/nettest"
)

// credentials are the files of one side: its certificate and key, and the CA of the other.
type credentials struct{ dir string }

var credentialFiles = []string{"ca.crt", "own.crt", "own.key"}

func (c credentials) file(name string) string { return filepath.Join(c.dir, name) }

// issued makes credentials of an authority in a directory of their own.
func (a *authority) issued(name string) credentials {
	a.tb.Helper()
	a.leaf(name, time.Now().Add(time.Hour), "127.0.0.1")
	c := credentials{a.tb.TempDir()}
	for i, from := range []string{"ca.crt", name + ".crt", name + ".key"} {
		text, err := os.ReadFile(a.file(from))
		if err == nil {
			err = os.WriteFile(c.file(credentialFiles[i]), text, 0o600)
		}
		if err != nil {
			a.tb.Fatal(err)
		}
	}
	return c
}

// writeTo writes the files over others, as "cp" does.
func (c credentials) writeTo(tb testing.TB, other credentials) {
	tb.Helper()
	for _, name := range credentialFiles {
		text, err := os.ReadFile(c.file(name))
		if err == nil {
			err = os.WriteFile(other.file(name), text, 0o600)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

func startTLS(tb testing.TB, c credentials) *etcdtest.Server {
	tb.Helper()
	return etcdtest.Start(tb, etcdtest.TLS(c.file("own.crt"), c.file("own.key"), "--client-cert-auth=true", "--trusted-ca-file="+c.file("ca.crt")))
}

func (c credentials) config(s *etcdtest.Server) etcdstore.Config {
	return etcdstore.Config{Endpoints: s.Endpoints(), CACertFile: c.file("ca.crt"), CertFile: c.file("own.crt"), KeyFile: c.file("own.key")}
}

// awaitPing pings until the answer is as wanted; nil wants success.
func awaitPing(tb testing.TB, c *etcdstore.Client, want func(error) bool) {
	tb.Helper()
	nettest.Eventually(tb, soon, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		err := c.Ping(ctx)
		switch {
		case want == nil, want(err):
			if want == nil {
				return err
			}
			return nil
		case err == nil:
			return errors.New("etcd answers")
		}
		return err
	})
}

func unknownAuthority(err error) bool {
	return errors.Is(err, etcdstore.ErrUnavailable) && strings.Contains(err.Error(), "unknown authority")
}

// Certificates of a new authority take the place of the old ones in the ways that people
// and tools have for it. From then on nothing of the old authority is accepted.
func TestRenewedCertificatesAreTakenUp(t *testing.T) {
	t.Parallel()
	for way, replace := range map[string]func(t *testing.T, at, next credentials) credentials{
		"in place": func(t *testing.T, at, next credentials) credentials { next.writeTo(t, at); return at },
		"by rename": func(t *testing.T, at, next credentials) credentials {
			for _, name := range credentialFiles {
				if err := os.Rename(next.file(name), at.file(name)); err != nil {
					t.Fatal(err)
				}
			}
			return at
		},
		// As a mounted secret is swapped.
		"by symbolic link": func(t *testing.T, at, next credentials) credentials {
			link := at.file("next")
			if err := errors.Join(os.Symlink(next.dir, link), os.Rename(link, at.file("current"))); err != nil {
				t.Fatal(err)
			}
			return at
		},
	} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			oldCA, newCA := newAuthority(t, "ca"), newAuthority(t, "ca")
			oldServer, server := oldCA.issued("server"), oldCA.issued("server")
			s := startTLS(t, server)
			mine := oldCA.issued("client")
			used := mine
			if way == "by symbolic link" {
				root := credentials{t.TempDir()}
				if err := os.Symlink(mine.dir, root.file("current")); err != nil {
					t.Fatal(err)
				}
				mine, used = root, credentials{root.file("current")}
			}
			c := open(t, used.config(s))
			f := follow(t, c, etcdstore.WatchOptions{}, "/calico/")
			f.until("snapshot", soon, func() bool { return f.snapshots == 1 })

			replace(t, mine, newCA.issued("client"))
			newCA.issued("server").writeTo(t, server)
			if err := s.Restart(); err != nil {
				t.Fatal(err)
			}
			awaitPing(t, c, nil)
			f.until("recovery of the watch", soon, func() bool { return f.losses > 0 && f.last.Err == nil })

			oldServer.writeTo(t, server)
			if err := s.Restart(); err != nil {
				t.Fatal(err)
			}
			awaitPing(t, c, unknownAuthority)
		})
	}
}

// At the moment of a connection a file may be half written or missing: what was read before
// serves, and when that is refused the error names the file.
func TestCertificatesThatCannotBeReadAgain(t *testing.T) {
	t.Parallel()
	oldCA, newCA := newAuthority(t, "ca"), newAuthority(t, "ca")
	server, mine := oldCA.issued("server"), oldCA.issued("client")
	s := startTLS(t, server)
	c := open(t, mine.config(s))
	awaitPing(t, c, nil)

	next := newCA.issued("client")
	both, err := os.ReadFile(mine.file("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(next.file("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	both = append(second, both...)
	// The second certificate, which is the one in use, has not been written to its end.
	if err := os.WriteFile(mine.file("ca.crt"), both[:len(both)-40], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(mine.file("own.crt"), 100); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(mine.file("own.key")); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	awaitPing(t, c, nil)

	newCA.issued("server").writeTo(t, server)
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	awaitPing(t, c, unknownAuthority)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	wantError(t, c.Ping(ctx), etcdstore.ErrUnavailable, mine.file("ca.crt"), mine.file("own.crt"), "read before")

	next.writeTo(t, mine)
	awaitPing(t, c, nil)
}

// Whoever is in the way of the connection must not be taken for etcd, and the operator must
// be told what is wrong with it.
func TestServersThatAreNotEtcdsAreRefused(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t, "ca"), newAuthority(t, "ca")
	later := time.Now().Add(time.Hour)
	ca.leaf("client", later, "127.0.0.1")
	ca.leaf("old client", time.Now().Add(-time.Hour), "127.0.0.1")
	config := func(s *etcdtest.Server) etcdstore.Config {
		return etcdstore.Config{
			Endpoints: s.Endpoints(), CACertFile: ca.file("ca.crt"), CertFile: ca.file("client.crt"), KeyFile: ca.file("client.key"),
		}
	}
	for _, tt := range []struct {
		name     string
		of       *authority
		notAfter time.Time
		ip       string
		words    []string
	}{
		{"another CA", stranger, later, "127.0.0.1", []string{"unknown authority", "ETCD_CA_CERT_FILE"}},
		{"expired", ca, time.Now().Add(-time.Hour), "127.0.0.1", []string{"expired", "renew the certificate of etcd", "clock"}},
		{"another host", ca, later, "192.0.2.1", []string{"192.0.2.1, not 127.0.0.1", "ETCD_ENDPOINTS"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.of.leaf(tt.name, tt.notAfter, tt.ip)
			s := etcdtest.Start(t, etcdtest.TLS(tt.of.file(tt.name+".crt"), tt.of.file(tt.name+".key")))
			wantError(t, open(t, config(s)).Ping(context.Background()), etcdstore.ErrUnavailable, append(tt.words, "TLS handshake")...)
		})
	}
	t.Run("plain http", func(t *testing.T) {
		t.Parallel()
		s := etcdtest.Start(t)
		cfg := config(s)
		cfg.Endpoints = []string{"https://" + s.Addr()}
		wantError(t, open(t, cfg).Ping(context.Background()), etcdstore.ErrUnavailable, "plain http", "ETCD_ENDPOINTS")
	})
	t.Run("own certificate expired", func(t *testing.T) {
		t.Parallel()
		ca.leaf("server", later, "127.0.0.1")
		s := etcdtest.Start(t, etcdtest.TLS(ca.file("server.crt"), ca.file("server.key"), "--client-cert-auth=true", "--trusted-ca-file="+ca.file("ca.crt")))
		cfg := config(s)
		cfg.CertFile, cfg.KeyFile = ca.file("old client.crt"), ca.file("old client.key")
		wantError(t, open(t, cfg).Ping(context.Background()), etcdstore.ErrUnavailable, "ETCD_CERT_FILE")
	})
}
