package etcdstore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/etcdstore"
)

func TestConfigFromEnv(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		env  map[string]string
		want etcdstore.Config
	}{
		{"nothing", nil, etcdstore.Config{}},
		{
			"endpoints",
			map[string]string{"ETCD_ENDPOINTS": " http://a:2379/, http://b:2379 ,"},
			etcdstore.Config{Endpoints: []string{"http://a:2379", "http://b:2379"}},
		},
		{"the older pair", map[string]string{"ETCD_AUTHORITY": "a:2379"}, etcdstore.Config{Endpoints: []string{"http://a:2379"}}},
		{
			"the older pair with a scheme",
			map[string]string{"ETCD_AUTHORITY": "[fd00::1]:2379", "ETCD_SCHEME": "https"},
			etcdstore.Config{Endpoints: []string{"https://[fd00::1]:2379"}},
		},
		{
			"endpoints win",
			map[string]string{"ETCD_AUTHORITY": "a:2379", "ETCD_ENDPOINTS": "http://b:2379"},
			etcdstore.Config{Endpoints: []string{"http://b:2379"}},
		},
		{
			"everything",
			map[string]string{
				"ETCD_ENDPOINTS": "https://a:2379", "ETCD_CA_CERT_FILE": "ca", "ETCD_CERT_FILE": "cert", "ETCD_KEY_FILE": "key",
				"ETCD_USERNAME": "u", "ETCD_PASSWORD": "p",
			},
			etcdstore.Config{Endpoints: []string{"https://a:2379"}, CACertFile: "ca", CertFile: "cert", KeyFile: "key", Username: "u", Password: "p"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := etcdstore.ConfigFromEnv(func(name string) string { return tt.env[name] })
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	notPEM := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(notPEM, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	https := []string{"https://a:2379"}
	for want, cfg := range map[string]etcdstore.Config{
		"http://host:port":                   {Endpoints: []string{"a:2379"}},
		"http://host:port or https://":       {Endpoints: []string{"http://"}},
		"write it as":                        {Endpoints: []string{"http://a:2379/v2"}},
		"must be http or https":              {Endpoints: []string{"ftp://a:2379"}},
		"all of them must be https":          {Endpoints: []string{"https://a:2379", "http://b:2379"}},
		"not https":                          {Endpoints: []string{"http://a:2379"}, CACertFile: "ca"},
		"go together":                        {Endpoints: https, CertFile: "cert"},
		"password without a user":            {Endpoints: https, Password: "p"},
		"ETCD_CA_CERT_FILE):":                {Endpoints: https, CACertFile: "/does/not/exist"},
		"no certificate in":                  {Endpoints: https, CACertFile: notPEM},
		"(ETCD_CERT_FILE, ETCD_KEY_FILE): o": {Endpoints: https, CertFile: "/does/not/exist", KeyFile: "/does/not/exist"},
	} {
		if _, err := etcdstore.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
}
