package options

import (
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"github.com/google/go-cmp/cmp"
)

func defaults() Options {
	return Options{
		ConfDir: "/etc/calico/confd", Interval: 600 * time.Second, LogFormat: "text", RunDir: "/var/run/calico",
		StateDir: "/var/lib/calico", CommandTimeout: 10 * time.Second,
	}
}

func parse(t *testing.T, env map[string]string, args ...string) (Options, error) {
	t.Helper()
	getenv := func(name string) string { return env[name] }
	lookup := func(_, _, name string) (string, []*net.SRV, error) {
		if name != "_etcd-client._tcp.example.com." {
			return "", nil, errors.New("no such host")
		}
		return "", []*net.SRV{{Target: "e1.example.com.", Port: 2379}, {Target: "e2.example.com.", Port: 2380}}, nil
	}
	return Parse(args, getenv, lookup, io.Discard)
}

func TestParse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "confd.toml")
	if err := os.WriteFile(file, []byte("confdir = '/file'\ninterval = 7\nnodes = ['http://file:1']\nwatch = true\ncommand-timeout = '3s'\ncolour = 'red'\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		env  map[string]string
		args []string
		want func(*Options)
	}{
		{"nothing", nil, nil, func(*Options) {}},
		{
			"the command line of calico/node v2.6",
			map[string]string{"ETCD_ENDPOINTS": "http://env:2379"},
			[]string{"-confdir=/etc/calico/confd", "-interval=5", "-watch", "--log-level=info", "-node=http://1.2.3.4:2379", "-client-key=", "-client-cert=", "-client-ca-keys="},
			func(o *Options) {
				o.Interval, o.Watch, o.LogLevel, o.Etcd.Endpoints = 5*time.Second, true, "info", []string{"http://1.2.3.4:2379"}
			},
		},
		{"endpoints of the environment", map[string]string{"ETCD_ENDPOINTS": "http://a:1,http://b:2"}, nil, func(o *Options) {
			o.Etcd.Endpoints = []string{"http://a:1", "http://b:2"}
		}},
		{"several nodes", nil, []string{"-node", "a:1", "-node", "http://b:2,c:3"}, func(o *Options) {
			o.Etcd.Endpoints = []string{"http://a:1", "http://b:2", "http://c:3"}
		}},
		{
			"certificates make it https",
			map[string]string{"CONFD_CLIENT_CAKEYS": "/ca", "CONFD_CLIENT_CERT": "/cert", "CONFD_CLIENT_KEY": "/key"},
			[]string{"-node=a:1", "-username=me", "-password=secret"},
			func(o *Options) {
				o.Etcd = etcdstore.Config{Endpoints: []string{"https://a:1"}, CACertFile: "/ca", CertFile: "/cert", KeyFile: "/key", Username: "me", Password: "secret"}
			},
		},
		{"an SRV domain", nil, []string{"-srv-domain=example.com", "-scheme=https"}, func(o *Options) {
			o.Etcd.Endpoints = []string{"https://e1.example.com:2379", "https://e2.example.com:2380"}
		}},
		{"a configuration file", nil, []string{"-config-file", file}, func(o *Options) {
			o.ConfDir, o.Interval, o.Watch, o.CommandTimeout = "/file", 7*time.Second, true, 3*time.Second
			o.Etcd.Endpoints = []string{"http://file:1"}
			o.Warnings = []string{file + ": unknown setting colour"}
		}},
		{"flags win over the file", nil, []string{"-config-file", file, "-confdir=/flag", "-watch=false", "-node=flag:2"}, func(o *Options) {
			o.ConfDir, o.Interval, o.CommandTimeout = "/flag", 7*time.Second, 3*time.Second
			o.Etcd.Endpoints = []string{"http://flag:2"}
			o.Warnings = []string{file + ": unknown setting colour"}
		}},
		{
			"all switches", nil,
			[]string{"-onetime", "-noop", "-sync-only", "-keep-stage-file", "-prefix=/p", "-secret-keyring=/k", "-version", "-run-dir=/r", "-state-dir=/s", "-nodename=n", "-log-format=json", "-backend=etcdv3", "-basic-auth"},
			func(o *Options) {
				o.OneTime, o.Noop, o.SyncOnly, o.KeepStageFile, o.Prefix, o.SecretKeyring = true, true, true, true, "/p", "/k"
				o.PrintVersion, o.RunDir, o.StateDir, o.NodeName, o.LogFormat = true, "/r", "/s", "n", "json"
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := defaults()
			c.want(&want)
			got, err := parse(t, c.env, c.args...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"an unknown flag", []string{"-colour"}, "-colour; see confd -help"},
		{"an argument", []string{"run"}, `unexpected argument "run"`},
		{"another backend", []string{"-backend=consul"}, "this confd has one backend, etcdv3"},
		{"a flag of another backend", []string{"-table=x"}, "-table is for the backend dynamodb"},
		{"an interval of nothing", []string{"-interval=0"}, "at least 1 second"},
		{"a time-out of nothing", []string{"-command-timeout=0s"}, "must be more than 0"},
		{"a bad endpoint", []string{"-node=ftp://a:1"}, "must be http or https"},
		{"a missing configuration file", []string{"-config-file=/nonexistent"}, "no such file"},
		{"an unknown SRV record", []string{"-srv-record=x"}, "SRV record x: no such host"},
		{"a certificate without a key", []string{"-node=https://a:1", "-client-cert=/c"}, "go together"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := parse(t, nil, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Parse = %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestHelpNamesEveryFlagOfConfd(t *testing.T) {
	var out strings.Builder
	_, err := Parse([]string{"-help"}, func(string) string { return "" }, nil, &out)
	if !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("Parse = %v, want %v", err, flag.ErrHelp)
	}
	for _, name := range []string{
		"auth-token", "backend", "basic-auth", "client-ca-keys", "client-cert", "client-key", "confdir", "config-file", "file", "filter",
		"interval", "keep-stage-file", "log-level", "node", "noop", "onetime", "prefix", "version", "scheme", "secret-keyring", "srv-domain",
		"srv-record", "sync-only", "auth-type", "app-id", "user-id", "role-id", "secret-id", "path", "table", "separator", "username",
		"password", "watch",
	} {
		if !strings.Contains(out.String(), "  -"+name) {
			t.Errorf("the help has no -%s", name)
		}
	}
}
