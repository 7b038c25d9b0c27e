// Package clientconfig finds out how to reach the datastore: from a configuration
// file or from the environment, never from both. It is pure but for the reader and
// the environment that it is given.
package clientconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/etcdstore"
)

// DefaultPath is the file that is used, if it exists, when none is named.
const DefaultPath = "/etc/calico/calicoctl.cfg"

// FromEnvironment is the [Config.Source] of a configuration without a file.
const FromEnvironment = "the environment"

// Config is how to reach the datastore.
type Config struct {
	Etcd etcdstore.Config
	// DiscoverySRV is a domain whose SRV records name the etcd endpoints.
	DiscoverySRV string
	// APIVersion is the dialect in which resources are printed; empty means each kind's
	// first.
	APIVersion string
	// Source is the path of the file that the configuration came from, or
	// [FromEnvironment].
	Source string
}

// Sources are where a configuration can come from.
type Sources struct {
	// Path is the file that the user named, or empty.
	Path     string
	Getenv   func(string) string
	ReadFile func(string) ([]byte, error)
}

// Load reads the configuration: from the file that is named, else from the default
// file if there is one, else from the environment.
func Load(s Sources) (Config, error) {
	path, named := s.Path, s.Path != ""
	if !named {
		path = DefaultPath
	}
	data, err := s.ReadFile(path)
	switch {
	case err == nil:
		return fromFile(path, data)
	case named || !errors.Is(err, fs.ErrNotExist):
		return Config{}, fmt.Errorf("Error reading config file: %s: %w", path, reason(err)) //nolint:staticcheck // ST1005: the original's message
	}
	return fromSettings(FromEnvironment, s.Getenv)
}

// reason drops the operation and path that an [fs.PathError] repeats.
func reason(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// file is a configuration file of either form.
type file struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
	Spec       spec     `json:"spec"`
}

type metadata struct {
	Name string `json:"name"`
}

// spec has the fields of both forms. Those of other datastores are known, so that
// they are not taken for mistakes, and ignored.
type spec struct {
	DatastoreType    string `json:"datastoreType"`
	APIVersion       string `json:"apiVersion"`
	EtcdEndpoints    string `json:"etcdEndpoints"`
	EtcdScheme       string `json:"etcdScheme"`
	EtcdAuthority    string `json:"etcdAuthority"`
	EtcdDiscoverySrv string `json:"etcdDiscoverySrv"`
	EtcdUsername     string `json:"etcdUsername"`
	EtcdPassword     string `json:"etcdPassword"`
	EtcdKeyFile      string `json:"etcdKeyFile"`
	EtcdCertFile     string `json:"etcdCertFile"`
	EtcdCACertFile   string `json:"etcdCACertFile"`
	EtcdKey          string `json:"etcdKey"`
	EtcdCert         string `json:"etcdCert"`
	EtcdCACert       string `json:"etcdCACert"`

	Kubeconfig               string `json:"kubeconfig"`
	KubeconfigInline         string `json:"kubeconfigInline"`
	K8sAPIEndpoint           string `json:"k8sAPIEndpoint"`
	K8sKeyFile               string `json:"k8sKeyFile"`
	K8sCertFile              string `json:"k8sCertFile"`
	K8sCAFile                string `json:"k8sCAFile"`
	K8sAPIToken              string `json:"k8sAPIToken"`
	K8sInsecureSkipTLSVerify string `json:"k8sInsecureSkipTLSVerify"`
	K8sDisableNodePoll       string `json:"k8sDisableNodePoll"`
	K8sUsePodCIDR            string `json:"k8sUsePodCIDR"`
	K8sCurrentContext        string `json:"k8sCurrentContext"`
	K8sClientQPS             string `json:"k8sClientQPS"`
}

// kinds is the forms of the file: kind by apiVersion.
var kinds = map[string]string{"v1": "calicoApiConfig", "projectcalico.org/v3": "CalicoAPIConfig"}

func fromFile(path string, data []byte) (Config, error) {
	f, faults := parse(path, data)
	if len(faults) > 0 {
		return Config{}, faults.Sorted()
	}
	if f.Spec.EtcdKey+f.Spec.EtcdCert+f.Spec.EtcdCACert != "" {
		return Config{}, fmt.Errorf("%s: etcdKey, etcdCert and etcdCACert hold the keys themselves, which is not supported: "+
			"put them into files and name these in etcdKeyFile, etcdCertFile and etcdCACertFile", path)
	}
	cfg, err := fromSettings(path, f.Spec.setting)
	cfg.APIVersion = f.Spec.APIVersion
	return cfg, err
}

func parse(path string, data []byte) (file, tree.Faults) {
	var f file
	for doc := range tree.Documents(path, data) {
		values, faults := doc.Parse()
		if len(faults) > 0 {
			return f, faults
		}
		for _, v := range values {
			r := tree.NewReport(path, v, "")
			tree.Bind(r, &f)
			checkType(r, f)
			if len(r.Faults()) > 0 {
				return f, r.Faults()
			}
		}
	}
	return f, nil
}

func checkType(r *tree.Report, f file) {
	want, known := kinds[f.APIVersion]
	switch {
	case !known:
		r.Add("apiVersion", "expected v1 (with kind calicoApiConfig) or projectcalico.org/v3 (with kind CalicoAPIConfig), not %q", f.APIVersion)
	case f.Kind != want:
		r.Add("kind", "expected %s, not %q", want, f.Kind)
	}
}

// setting gives the file's values the names that they have in the environment, so
// that there is one reading of both.
func (s spec) setting(name string) string {
	return map[string]string{
		"DATASTORE_TYPE": s.DatastoreType, "ETCD_ENDPOINTS": s.EtcdEndpoints,
		"ETCD_SCHEME": s.EtcdScheme, "ETCD_AUTHORITY": s.EtcdAuthority, "ETCD_DISCOVERY_SRV": s.EtcdDiscoverySrv,
		"ETCD_USERNAME": s.EtcdUsername, "ETCD_PASSWORD": s.EtcdPassword,
		"ETCD_KEY_FILE": s.EtcdKeyFile, "ETCD_CERT_FILE": s.EtcdCertFile, "ETCD_CA_CERT_FILE": s.EtcdCACertFile,
	}[name]
}

func fromSettings(source string, get func(string) string) (Config, error) {
	switch t := get("DATASTORE_TYPE"); strings.ToLower(t) {
	case "", "etcdv2", "etcdv3":
	case "kubernetes":
		return Config{}, fmt.Errorf("%s: the datastore type is kubernetes, which this calicoctl does not have: "+
			"Calico for Docker keeps its state in etcd, so set datastoreType (DATASTORE_TYPE) to etcdv3", source)
	default:
		return Config{}, fmt.Errorf("%s: unknown datastore type %q: expected etcdv3 or etcdv2 (both mean etcd by its v3 API)", source, t)
	}
	etcd, err := etcdstore.ConfigFromEnv(get)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", source, err)
	}
	return Config{
		Etcd: etcd, Source: source,
		DiscoverySRV: get("ETCD_DISCOVERY_SRV"), APIVersion: get("CALICOCTL_API_VERSION"),
	}, nil
}
