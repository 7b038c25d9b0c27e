package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/etcdstore"
)

func TestCertificates(t *testing.T) {
	for _, tc := range []struct {
		name string
		// make makes the files; the values hold DIR for the test's directory.
		files           []string
		links           map[string]string
		ca, cert, key   string
		volumes, values []string
	}{
		{"none", nil, nil, "", "", "", nil, nil},
		{
			"one folder",
			[]string{"certs/ca.pem", "certs/c.pem", "certs/k.pem"},
			nil, "certs/ca.pem", "certs/c.pem", "certs/k.pem",
			[]string{"DIR/certs:/etc/calico/certs:ro"},
			[]string{"ETCD_CA_CERT_FILE=/etc/calico/certs/ca.pem", "ETCD_KEY_FILE=/etc/calico/certs/k.pem", "ETCD_CERT_FILE=/etc/calico/certs/c.pem"},
		},
		{
			"folders apart",
			[]string{"ca/ca.pem", "own/c.pem", "own/k.pem"},
			nil, "ca/ca.pem", "own/c.pem", "own/k.pem",
			[]string{"DIR/ca:/etc/calico/certsDIR/ca:ro", "DIR/own:/etc/calico/certsDIR/own:ro"},
			[]string{"ETCD_CA_CERT_FILE=/etc/calico/certsDIR/ca/ca.pem", "ETCD_KEY_FILE=/etc/calico/certsDIR/own/k.pem", "ETCD_CERT_FILE=/etc/calico/certsDIR/own/c.pem"},
		},
		{
			"one below the other",
			[]string{"certs/ca.pem", "certs/own/c.pem", "certs/own/k.pem"},
			nil, "certs/ca.pem", "certs/own/c.pem", "certs/own/k.pem",
			[]string{"DIR/certs:/etc/calico/certs:ro"},
			[]string{"ETCD_CA_CERT_FILE=/etc/calico/certs/ca.pem", "ETCD_KEY_FILE=/etc/calico/certs/own/k.pem", "ETCD_CERT_FILE=/etc/calico/certs/own/c.pem"},
		},
		{
			"a link out of its folder",
			[]string{"le/archive/h/ca1.pem"},
			map[string]string{"le/live/h/ca.pem": "../../archive/h/ca1.pem"},
			"le/live/h/ca.pem", "", "",
			[]string{"DIR/le:/etc/calico/certs:ro"},
			[]string{"ETCD_CA_CERT_FILE=/etc/calico/certs/live/h/ca.pem"},
		},
		{
			"a link within its folder",
			[]string{"certs/v1/ca.pem"},
			map[string]string{"certs/ca.pem": "v1/ca.pem"},
			"certs/ca.pem", "", "",
			[]string{"DIR/certs:/etc/calico/certs:ro"},
			[]string{"ETCD_CA_CERT_FILE=/etc/calico/certs/ca.pem"},
		},
		{
			"a link by a whole path",
			[]string{"elsewhere/ca1.pem"},
			map[string]string{"certs/ca.pem": "DIR/elsewhere/ca1.pem"},
			"certs/ca.pem", "", "",
			[]string{"DIR/elsewhere:/etc/calico/certs:ro"},
			[]string{"ETCD_CA_CERT_FILE=/etc/calico/certs/ca1.pem"},
		},
		{
			"no such file", nil, nil, "certs/ca.pem", "", "",
			[]string{"DIR/certs:/etc/calico/certs:ro"},
			[]string{"ETCD_CA_CERT_FILE=/etc/calico/certs/ca.pem"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range tc.files {
				makeFile(t, filepath.Join(dir, file), func(path string) error { return os.WriteFile(path, nil, 0o600) })
			}
			for link, target := range tc.links {
				makeFile(t, filepath.Join(dir, link), func(path string) error { return os.Symlink(strings.ReplaceAll(target, "DIR", dir), path) })
			}
			in := func(path string) string {
				if path == "" {
					return ""
				}
				return filepath.Join(dir, path)
			}
			c, err := FindCertificates(etcdstore.Config{CACertFile: in(tc.ca), CertFile: in(tc.cert), KeyFile: in(tc.key)})
			if err != nil {
				t.Fatal(err)
			}
			var volumes, values []string
			for _, v := range c.volumes() {
				volumes = append(volumes, strings.ReplaceAll(v, dir, "DIR"))
			}
			for _, v := range c.variables() {
				values = append(values, strings.ReplaceAll(v.String(), dir, "DIR"))
			}
			if diff := cmp.Diff(tc.volumes, volumes); diff != "" {
				t.Errorf("volumes (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.values, values); diff != "" {
				t.Errorf("variables (-want +got):\n%s", diff)
			}
		})
	}
}

func makeFile(t *testing.T, path string, create func(string) error) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := create(path); err != nil {
		t.Fatal(err)
	}
}
