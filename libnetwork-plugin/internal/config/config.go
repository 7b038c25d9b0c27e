// Package config reads the plugin's settings from flags and environment (pure).
package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"calico.internal/libcalico/logattr"
)

// The scopes that a network driver can have.
const (
	ScopeLocal  = "local"
	ScopeGlobal = "global"
)

// Config is what the plugin is told when it starts.
type Config struct {
	// Node is the node's name as given; empty leaves it to libcalico's resolver.
	Node string
	// RunDir holds the sockets of this host's programs, PluginDir those for Docker.
	RunDir, PluginDir string
	// StateDir keeps what must outlive a reboot.
	StateDir string
	// DockerHost is the engine's address.
	DockerHost string
	// Scope is what Docker is told; empty means that the engine's own set-up decides.
	Scope string
	// InterfacePrefix begins the interface's name in the container.
	InterfacePrefix string
	// CreateProfiles gives each network a profile, LabelEndpoints each endpoint its
	// container's labels.
	CreateProfiles, LabelEndpoints bool
	// LabelTimeout bounds the wait for a container's labels.
	LabelTimeout time.Duration
	// FelixTimeout bounds the wait for felix to put an endpoint in force.
	FelixTimeout time.Duration
	// MTU is that of container interfaces; 0 means that of the node's own interface.
	MTU int
	// StartContainers starts those that failed to start because the plugin was away.
	StartContainers bool
	// SyncNetworks makes the networks of all hosts the same, unless the engines do.
	SyncNetworks bool
	// AnswerNames answers the names of containers to the containers of this host.
	AnswerNames bool
	LogLevel    slog.Level
	LogFormat   string
}

// Setting is one setting as the user sees it.
type Setting struct {
	Flag, Env, Default, Usage string
}

// Settings lists all settings, in the order in which help shows them.
func Settings() []Setting {
	return []Setting{
		{"node", "NODENAME", "", "name of this node (default: /var/run/calico/nodename, then the host's name)"},
		{"run-dir", "CALICO_RUN_DIR", "/var/run/calico", "folder of the sockets of this host's Calico programs"},
		{"plugin-dir", "CALICO_LIBNETWORK_PLUGIN_DIR", "/run/docker/plugins", "folder in which Docker looks for plugins"},
		{"state-dir", "CALICO_LIBNETWORK_STATE_DIR", "/var/lib/calico", "folder for what outlives a reboot"},
		{"docker-host", "DOCKER_HOST", "unix:///var/run/docker.sock", "address of Docker's engine"},
		{"scope", "CALICO_LIBNETWORK_SCOPE", "", "scope of networks, local or global (default: as the engine is set up)"},
		{"interface-prefix", "CALICO_LIBNETWORK_IFPREFIX", "cali", "beginning of interface names in containers"},
		{"create-profiles", "CALICO_LIBNETWORK_CREATE_PROFILES", "", "make a profile per network (default: unless endpoints get labels)"},
		{"label-endpoints", "CALICO_LIBNETWORK_LABEL_ENDPOINTS", "false", "give endpoints the org.projectcalico.label.* labels of their containers"},
		{"label-timeout", "CALICO_LIBNETWORK_LABEL_POLL_TIMEOUT", "5s", "how long to wait for a container's labels"},
		{"felix-timeout", "CALICO_LIBNETWORK_FELIX_TIMEOUT", "10s", "how long a container's start waits until its policy is in force"},
		{"mtu", "CALICO_LIBNETWORK_VETH_MTU", "", "MTU of container interfaces (default: that of the interface with this node's address)"},
		{"start-containers", "CALICO_LIBNETWORK_START_CONTAINERS", "true", "start containers that could not start while the plugin was away"},
		{"sync-networks", "CALICO_LIBNETWORK_SYNC_NETWORKS", "true", "make networks the same on all hosts, where the engines do not"},
		{"answer-names", "CALICO_LIBNETWORK_ANSWER_NAMES", "true", "answer names of containers of all hosts at 169.254.1.1, port 53"},
		{"log-level", "CALICO_LIBNETWORK_LOG_LEVEL", "info", "debug, info, warn or error"},
		{"log-format", "CALICO_LIBNETWORK_LOG_FORMAT", "text", "text or json"},
	}
}

// Parse reads the settings: a flag goes before the variable, that before the default.
// An empty variable counts as unset. Every fault is reported.
func Parse(args []string, getenv func(string) string, help io.Writer) (Config, error) {
	flags := flag.NewFlagSet("libnetwork-plugin run", flag.ContinueOnError)
	flags.SetOutput(help)
	values := make(map[string]*string)
	for _, s := range Settings() {
		value := s.Default
		if v := getenv(s.Env); v != "" {
			value = v
		}
		values[s.Flag] = flags.String(s.Flag, value, fmt.Sprintf("%s [$%s]", s.Usage, s.Env))
	}
	if err := flags.Parse(args); err != nil {
		return Config{}, err
	}
	if flags.NArg() > 0 {
		return Config{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	r := reader{values: values}
	return r.config(getenv("CALICO_DEBUG") != ""), errors.Join(r.faults...)
}

// reader turns texts into values and collects what is wrong.
type reader struct {
	values map[string]*string
	faults []error
}

// config types all values.
func (r *reader) config(debug bool) Config {
	c := Config{
		Node:            r.text("node"),
		RunDir:          r.text("run-dir"),
		PluginDir:       r.text("plugin-dir"),
		StateDir:        r.text("state-dir"),
		DockerHost:      r.text("docker-host"),
		Scope:           r.oneOf("scope", "", ScopeLocal, ScopeGlobal),
		InterfacePrefix: r.prefix("interface-prefix"),
		LabelEndpoints:  r.boolean("label-endpoints"),
		LabelTimeout:    r.duration("label-timeout"),
		FelixTimeout:    r.duration("felix-timeout"),
		MTU:             r.mtu("mtu"),
		StartContainers: r.boolean("start-containers"),
		SyncNetworks:    r.boolean("sync-networks"),
		AnswerNames:     r.boolean("answer-names"),
		LogFormat:       r.oneOf("log-format", "text", "json"),
		LogLevel:        r.level("log-level"),
	}
	c.CreateProfiles = !c.LabelEndpoints
	if r.text("create-profiles") != "" {
		c.CreateProfiles = r.boolean("create-profiles")
	}
	if debug {
		c.LogLevel = slog.LevelDebug
	}
	return c
}

// text is the value as it was given.
func (r *reader) text(name string) string { return *r.values[name] }

// maxPrefix leaves room for the number that the engine adds to an interface's name, of 15
// characters at most.
const maxPrefix = 12

// prefix is the beginning of interfaces' names.
func (r *reader) prefix(name string) string {
	p := r.text(name)
	bad := func(c rune) bool {
		return !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.ContainsRune("_.-", c))
	}
	if p == "" || len(p) > maxPrefix || strings.ContainsFunc(p, bad) {
		r.fault(name, fmt.Sprintf("1 to %d letters, digits or any of '_.-': the engine adds a number to it", maxPrefix))
	}
	return p
}

// fault records that a value cannot be used.
func (r *reader) fault(name, want string) {
	for _, s := range Settings() {
		if s.Flag == name {
			r.faults = append(r.faults, fmt.Errorf("--%s (%s) is %q: want %s", name, s.Env, r.text(name), want))
		}
	}
}

func (r *reader) boolean(name string) bool {
	v, err := strconv.ParseBool(r.text(name))
	if err != nil {
		r.fault(name, "true or false")
	}
	return v
}

func (r *reader) duration(name string) time.Duration {
	d, err := time.ParseDuration(r.text(name))
	if err != nil || d <= 0 || d > 20*time.Second {
		r.fault(name, "a duration such as 5s, at most 20s (Docker itself gives up after 30s)")
	}
	return d
}

func (r *reader) mtu(name string) int {
	if r.text(name) == "" {
		return 0
	}
	n, err := ParseMTU(r.text(name))
	if err != nil {
		r.fault(name, err.Error())
	}
	return n
}

func (r *reader) oneOf(name string, allowed ...string) string {
	for _, a := range allowed {
		if r.text(name) == a {
			return a
		}
	}
	r.fault(name, strings.Join(allowed, " or "))
	return ""
}

func (r *reader) level(name string) slog.Level {
	l, err := logattr.ParseLevel(r.text(name))
	if err != nil {
		r.fault(name, "debug, info, warn or error")
	}
	return l
}

// ParseMTU reads an MTU that an interface can have.
func ParseMTU(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n < 68 {
		return 0, errors.New("a number from 68 to 65535")
	}
	return int(n), nil
}
