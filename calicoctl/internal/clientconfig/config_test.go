package clientconfig

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/etcdstore"
)

// load reads a configuration from files and an environment that are given as maps.
func load(path string, files, env map[string]string) (Config, error) {
	return Load(Sources{
		Path:   path,
		Getenv: func(name string) string { return env[name] },
		ReadFile: func(name string) ([]byte, error) {
			text, ok := files[name]
			if !ok {
				return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
			}
			return []byte(text), nil
		},
	})
}

func TestLoad(t *testing.T) {
	const full = `
apiVersion: v1
kind: calicoApiConfig
metadata:
spec:
  datastoreType: "etcdv2"
  etcdEndpoints: "https://a:2379,https://b:2379"
  etcdCACertFile: /ca
  etcdCertFile: /cert
  etcdKeyFile: /key
  etcdUsername: user
  etcdPassword: "0123"
`
	fromFile := etcdstore.Config{
		Endpoints:  []string{"https://a:2379", "https://b:2379"},
		CACertFile: "/ca", CertFile: "/cert", KeyFile: "/key", Username: "user", Password: "0123",
	}
	env := map[string]string{"ETCD_ENDPOINTS": "http://env:2379"}
	for _, tc := range []struct {
		name  string
		path  string
		files map[string]string
		env   map[string]string
		want  Config
	}{
		{
			"the environment, when there is no file", "", nil, env,
			Config{Etcd: etcdstore.Config{Endpoints: []string{"http://env:2379"}}, Source: FromEnvironment},
		},
		{
			"the default file alone, when there is one", "",
			map[string]string{DefaultPath: full},
			env,
			Config{Etcd: fromFile, Source: DefaultPath},
		},
		{
			"the file that is named rather than the default one", "/my.cfg",
			map[string]string{
				DefaultPath: full,
				"/my.cfg":   `{"apiVersion": "projectcalico.org/v3", "kind": "CalicoAPIConfig", "metadata": {}, "spec": {"etcdEndpoints": "http://c:1", "apiVersion": "v1"}}`,
			},
			env,
			Config{Etcd: etcdstore.Config{Endpoints: []string{"http://c:1"}}, APIVersion: "v1", Source: "/my.cfg"},
		},
		{
			"the older pair of scheme and authority", "", nil,
			map[string]string{"ETCD_AUTHORITY": "d:2379", "DATASTORE_TYPE": "etcdv3"},
			Config{Etcd: etcdstore.Config{Endpoints: []string{"http://d:2379"}}, Source: FromEnvironment},
		},
		{
			"fields of Kubernetes are known", "/k.cfg",
			map[string]string{"/k.cfg": "apiVersion: v1\nkind: calicoApiConfig\nspec: {kubeconfig: /x, k8sInsecureSkipTLSVerify: true}\n"},
			nil,
			Config{Source: "/k.cfg"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := load(tc.path, tc.files, tc.env)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoadFaults(t *testing.T) {
	for _, tc := range []struct{ name, file, want string }{
		{"a syntax error", "a: b: c\n", "/f:1:5: not valid YAML"},
		{"no type", "spec: {}\n", `/f:1:1: apiVersion: expected v1`},
		{"the other form's kind", "apiVersion: v1\nkind: CalicoAPIConfig\n", `/f:2:7: kind: expected calicoApiConfig, not "CalicoAPIConfig"`},
		{"a misspelt field", "apiVersion: v1\nkind: calicoApiConfig\nspec: {etcdEndpoint: x}\n", `did you mean "etcdEndpoints"?`},
		{"Kubernetes", "apiVersion: v1\nkind: calicoApiConfig\nspec: {datastoreType: kubernetes}\n", "/f: the datastore type is kubernetes"},
		{"an unknown store", "apiVersion: v1\nkind: calicoApiConfig\nspec: {datastoreType: consul}\n", `unknown datastore type "consul"`},
		{"keys in place of files", "apiVersion: v1\nkind: calicoApiConfig\nspec: {etcdKey: xxx}\n", "put them into files"},
		{"a bad endpoint", "apiVersion: v1\nkind: calicoApiConfig\nspec: {etcdEndpoints: 'a:1'}\n", "/f: etcd endpoint"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := load("/f", map[string]string{"/f": tc.file}, nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q in it", err, tc.want)
			}
		})
	}
	if _, err := load("/none", nil, nil); err == nil || !strings.Contains(err.Error(), "Error reading config file: /none") {
		t.Errorf("a named file that is missing: error %v", err)
	}
}
