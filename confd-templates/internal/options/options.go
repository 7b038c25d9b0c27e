// Package options reads confd's command line, environment and configuration file. The flags are those of confd
// v0.16.0, with our own beside them.
package options

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/hostrecord"
	"github.com/BurntSushi/toml"
)

// Options is what confd is asked to do.
type Options struct {
	ConfDir       string
	Prefix        string
	Interval      time.Duration
	Watch         bool
	OneTime       bool
	Noop          bool
	SyncOnly      bool
	KeepStageFile bool
	LogLevel      string
	LogFormat     string
	SecretKeyring string
	PrintVersion  bool
	// RunDir is where the socket lies; empty means none.
	RunDir string
	// StateDir is where the host keeps what it remembers of itself.
	StateDir       string
	NodeName       string
	CommandTimeout time.Duration
	Etcd           etcdstore.Config
	// Warnings name settings that nothing reads.
	Warnings []string
}

// raw has each setting as it is written. The TOML names are those of confd's own file.
type raw struct {
	Backend        string        `toml:"backend"`
	BackendNodes   []string      `toml:"nodes"`
	BasicAuth      bool          `toml:"basic_auth"`
	ClientCaKeys   string        `toml:"client_cakeys"`
	ClientCert     string        `toml:"client_cert"`
	ClientKey      string        `toml:"client_key"`
	ConfDir        string        `toml:"confdir"`
	Interval       int           `toml:"interval"`
	Noop           bool          `toml:"noop"`
	Password       string        `toml:"password"`
	Prefix         string        `toml:"prefix"`
	SRVDomain      string        `toml:"srv_domain"`
	SRVRecord      string        `toml:"srv_record"`
	Scheme         string        `toml:"scheme"`
	SecretKeyring  string        `toml:"secret_keyring"`
	SyncOnly       bool          `toml:"sync-only"`
	Username       string        `toml:"username"`
	Watch          bool          `toml:"watch"`
	LogLevel       string        `toml:"log-level"`
	LogFormat      string        `toml:"log-format"`
	KeepStageFile  bool          `toml:"keep-stage-file"`
	RunDir         string        `toml:"run-dir"`
	StateDir       string        `toml:"state-dir"`
	CommandTimeout time.Duration `toml:"command-timeout"`

	oneTime, printVersion bool
	configFile, nodeName  string
}

// foreign are flags of confd that belong to backends which this program does not have.
var foreign = map[string]string{
	"auth-token": "vault", "auth-type": "vault", "app-id": "vault", "user-id": "vault", "role-id": "vault",
	"secret-id": "vault", "path": "vault", "table": "dynamodb", "separator": "redis", "file": "file", "filter": "file",
}

// DefaultConfigFile is read if it is there.
const DefaultConfigFile = "/etc/calico/confd/confd.toml"

// LookupSRV finds SRV records; [net.LookupSRV] is one.
type LookupSRV func(service, proto, name string) (cname string, records []*net.SRV, err error)

// Parse reads the options. Later ones win: defaults, the configuration file, the environment, the flags.
// [flag.ErrHelp] means that help was asked for and written to out.
func Parse(args []string, getenv func(string) string, lookup LookupSRV, out io.Writer) (Options, error) {
	r := raw{
		Backend: "etcdv3", ConfDir: "/etc/calico/confd", Interval: 600, Scheme: "http", LogFormat: "text",
		RunDir: "/var/run/calico", StateDir: hostrecord.DefaultDir, CommandTimeout: 10 * time.Second,
	}
	// The first look is for -config-file alone; a mistake is reported at the second.
	first := r
	_ = newFlagSet(&first).Parse(args)
	warnings, err := r.readFile(first.configFile)
	if err != nil {
		return Options{}, err
	}
	r.readEnv(getenv)
	set := newFlagSet(&r)
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(out, "Usage: confd [flags]")
		set.SetOutput(out)
		set.PrintDefaults()
		return Options{}, err
	case err != nil:
		return Options{}, fmt.Errorf("%w; see confd -help", err)
	}
	if set.NArg() > 0 {
		return Options{}, fmt.Errorf("unexpected argument %q; see confd -help", set.Arg(0))
	}
	if err := refuseForeign(set); err != nil {
		return Options{}, err
	}
	options, err := r.options(getenv, lookup)
	options.Warnings = warnings
	return options, err
}

func newFlagSet(r *raw) *flag.FlagSet {
	set := flag.NewFlagSet("confd", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&r.Backend, "backend", r.Backend, "where values come from: etcdv3")
	set.BoolVar(&r.BasicAuth, "basic-auth", r.BasicAuth, "accepted for old command lines; -username alone decides")
	set.StringVar(&r.ClientCaKeys, "client-ca-keys", r.ClientCaKeys, "`file` with the CA certificates of etcd")
	set.StringVar(&r.ClientCert, "client-cert", r.ClientCert, "`file` with the certificate to show etcd")
	set.StringVar(&r.ClientKey, "client-key", r.ClientKey, "`file` with the key of -client-cert")
	set.DurationVar(&r.CommandTimeout, "command-timeout", r.CommandTimeout, "how long a check or reload command may run")
	set.StringVar(&r.ConfDir, "confdir", r.ConfDir, "`folder` with conf.d and templates")
	set.StringVar(&r.configFile, "config-file", DefaultConfigFile, "`file` with settings, read if it is there")
	set.IntVar(&r.Interval, "interval", r.Interval, "`seconds` between two looks at all files")
	set.BoolVar(&r.KeepStageFile, "keep-stage-file", r.KeepStageFile, "leave the new version of a file beside it")
	set.StringVar(&r.LogFormat, "log-format", r.LogFormat, "text or json")
	set.StringVar(&r.LogLevel, "log-level", r.LogLevel, "debug, info, warning or error")
	set.Var(&nodes{list: &r.BackendNodes}, "node", "an etcd `endpoint`; once for each (default: $ETCD_ENDPOINTS)")
	set.BoolVar(&r.Noop, "noop", r.Noop, "only say what would be done")
	set.StringVar(&r.nodeName, "nodename", "", "`name` of this host in etcd (default: $NODENAME)")
	set.BoolVar(&r.oneTime, "onetime", false, "make all files once and exit")
	set.StringVar(&r.Password, "password", r.Password, "password for etcd")
	set.StringVar(&r.Prefix, "prefix", r.Prefix, "goes before all keys, instead of the prefix of each template resource")
	set.StringVar(&r.RunDir, "run-dir", r.RunDir, "`folder` of the health socket confd.sock")
	set.StringVar(&r.Scheme, "scheme", r.Scheme, "http or https, for endpoints without one")
	set.StringVar(&r.SecretKeyring, "secret-keyring", r.SecretKeyring, "`file` with a PGP keyring, for encrypted values")
	set.StringVar(&r.SRVDomain, "srv-domain", r.SRVDomain, "`domain` whose SRV record names the endpoints")
	set.StringVar(&r.SRVRecord, "srv-record", r.SRVRecord, "SRV `record` that names the endpoints")
	set.StringVar(&r.StateDir, "state-dir", r.StateDir, "`folder` of node.json, which says which cluster this host belongs to")
	set.BoolVar(&r.SyncOnly, "sync-only", r.SyncOnly, "make files without check_cmd and reload_cmd")
	set.StringVar(&r.Username, "username", r.Username, "user name for etcd")
	set.BoolVar(&r.printVersion, "version", false, "print the version and exit")
	set.BoolVar(&r.Watch, "watch", r.Watch, "make files whenever a value changes")
	for name, backend := range foreign {
		set.String(name, "", "for the backend "+backend+", which this confd does not have")
	}
	return set
}

// nodes is the flag -node: given once or more, it replaces what the configuration file says.
type nodes struct {
	list *[]string
	used bool
}

// String is the flag's default in the help.
func (n *nodes) String() string { return "" }

// Set adds an endpoint.
func (n *nodes) Set(endpoint string) error {
	if !n.used {
		*n.list = nil
	}
	n.used = true
	*n.list = append(*n.list, endpoint)
	return nil
}

// readFile reads the configuration file and returns warnings about settings that nothing reads.
func (r *raw) readFile(name string) ([]string, error) {
	meta, err := toml.DecodeFile(name, r)
	if errors.Is(err, fs.ErrNotExist) && name == DefaultConfigFile {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("configuration file %s: %w", name, err)
	}
	var warnings []string
	for _, key := range meta.Undecoded() {
		warnings = append(warnings, fmt.Sprintf("%s: unknown setting %s", name, key))
	}
	return warnings, nil
}

func (r *raw) readEnv(getenv func(string) string) {
	for name, setting := range map[string]*string{
		"CONFD_CLIENT_CAKEYS":  &r.ClientCaKeys,
		"CONFD_CLIENT_CERT":    &r.ClientCert,
		"CONFD_CLIENT_KEY":     &r.ClientKey,
		"CONFD_RUN_DIR":        &r.RunDir,
		"CONFD_LOG_LEVEL":      &r.LogLevel,
		hostrecord.DirVariable: &r.StateDir,
	} {
		if value := getenv(name); value != "" {
			*setting = value
		}
	}
}

func refuseForeign(set *flag.FlagSet) error {
	var faults []error
	set.Visit(func(f *flag.Flag) {
		if backend, is := foreign[f.Name]; is {
			faults = append(faults, fmt.Errorf("-%s is for the backend %s, which this confd does not have: values come from etcd (-backend=etcdv3)", f.Name, backend))
		}
	})
	return errors.Join(faults...)
}

func (r *raw) options(getenv func(string) string, lookup LookupSRV) (Options, error) {
	// "etcd" was confd's name for the v2 API, and stands in old start scripts.
	if r.Backend != "etcdv3" && r.Backend != "etcd" {
		return Options{}, fmt.Errorf("-backend=%s: this confd has one backend, etcdv3", r.Backend)
	}
	if r.Interval <= 0 {
		return Options{}, fmt.Errorf("-interval=%d: must be at least 1 second", r.Interval)
	}
	if r.CommandTimeout <= 0 {
		return Options{}, fmt.Errorf("-command-timeout=%s: must be more than 0", r.CommandTimeout)
	}
	etcd, err := r.etcd(getenv, lookup)
	if err != nil {
		return Options{}, err
	}
	return Options{
		ConfDir: r.ConfDir, Prefix: r.Prefix, Interval: time.Duration(r.Interval) * time.Second, Watch: r.Watch,
		OneTime: r.oneTime, Noop: r.Noop, SyncOnly: r.SyncOnly, KeepStageFile: r.KeepStageFile, LogLevel: r.LogLevel,
		LogFormat: r.LogFormat, SecretKeyring: r.SecretKeyring, PrintVersion: r.printVersion, RunDir: r.RunDir, StateDir: r.StateDir,
		NodeName: r.nodeName, CommandTimeout: r.CommandTimeout, Etcd: etcd,
	}, nil
}

// etcd says how to reach etcd: as the environment of all programs says, but for what confd's own settings say.
func (r *raw) etcd(getenv func(string) string, lookup LookupSRV) (etcdstore.Config, error) {
	config, err := etcdstore.ConfigFromEnv(getenv)
	if err != nil {
		return etcdstore.Config{}, err
	}
	for setting, value := range map[*string]string{
		&config.CACertFile: r.ClientCaKeys,
		&config.CertFile:   r.ClientCert,
		&config.KeyFile:    r.ClientKey,
		&config.Username:   r.Username,
		&config.Password:   r.Password,
	} {
		if value != "" {
			*setting = value
		}
	}
	endpoints, err := r.endpoints(lookup)
	if err != nil {
		return etcdstore.Config{}, err
	}
	if len(endpoints) > 0 {
		config.Endpoints = endpoints
	}
	return config, config.Check()
}

func (r *raw) endpoints(lookup LookupSRV) ([]string, error) {
	scheme := r.Scheme
	if r.ClientCaKeys != "" || r.ClientCert != "" {
		scheme = "https"
	}
	record := r.SRVRecord
	if record == "" && r.SRVDomain != "" {
		record = "_etcd-client._tcp." + r.SRVDomain + "."
	}
	if record != "" {
		return fromSRV(record, scheme, lookup)
	}
	var endpoints []string
	for _, node := range r.BackendNodes {
		for _, endpoint := range etcdstore.SplitEndpoints(node) {
			endpoints = append(endpoints, withScheme(endpoint, scheme))
		}
	}
	return endpoints, nil
}

func fromSRV(record, scheme string, lookup LookupSRV) ([]string, error) {
	_, records, err := lookup("", "", record)
	if err != nil {
		return nil, fmt.Errorf("etcd's endpoints from SRV record %s: %w", record, err)
	}
	endpoints := make([]string, len(records))
	for i, srv := range records {
		host := strings.TrimSuffix(srv.Target, ".")
		endpoints[i] = withScheme(net.JoinHostPort(host, strconv.Itoa(int(srv.Port))), scheme)
	}
	return endpoints, nil
}

func withScheme(endpoint, scheme string) string {
	if strings.Contains(endpoint, "://") {
		return endpoint
	}
	return scheme + "://" + endpoint
}
