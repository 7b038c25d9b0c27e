// Package launch starts the container calico-node on this host: the docker command
// line is computed (pure), then the host is prepared and the command carried out.
package launch

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"calico.internal/calicoctl/internal/node/address"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/model"
)

// ContainerName is the name of the container that a host runs.
const ContainerName = "calico-node"

// Options is what the user may choose.
type Options struct {
	Name, IP, IP6, AS                  string
	IPMethod, IP6Method                string
	LogDir, Image, Backend             string
	NoDefaultPools, DryRun, InitSystem bool
	Privileged                         bool
	DisableDockerNetworking, UseLabels bool
	IfPrefix                           string
	// Scope is what Docker is told about networks: "local" or "global".
	Scope string
	// SharedRun says that /run is a shared mount, so that what is mounted below it later
	// (Docker's sandboxes) can be seen inside.
	SharedRun bool
	// Modules says that the host has /lib/modules.
	Modules bool
}

var prefixFormat = regexp.MustCompile(`^[a-zA-Z0-9]+$`)

// Validate checks the options and writes the AS number in plain form. All messages
// are those that users of calicoctl know.
func (o *Options) Validate() error {
	if err := checkIP("--ip", o.IP, netip.Addr.Is4); err != nil {
		return err
	}
	if err := checkIP("--ip6", o.IP6, func(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }); err != nil {
		return err
	}
	switch o.Backend {
	case "gobgp", "bird", "none":
	default:
		return fmt.Errorf("unknown backend '%s': use gobgp, bird (which means gobgp here) or none", o.Backend)
	}
	if o.AS != "" {
		as, err := model.ParseASNumber(o.AS)
		if err != nil {
			return fmt.Errorf("invalid AS Number specified: %s", o.AS)
		}
		o.AS = as.String()
	}
	for _, method := range []string{o.IPMethod, o.IP6Method} {
		if _, err := address.Parse(method); err != nil {
			return err
		}
	}
	if !prefixFormat.MatchString(o.IfPrefix) {
		return fmt.Errorf("invalid interface prefix '%s': use letters and digits", o.IfPrefix)
	}
	if o.DisableDockerNetworking && o.UseLabels {
		return errors.New("invalid to disable Docker Networking and enable Container labels")
	}
	return nil
}

func checkIP(flag, text string, family func(netip.Addr) bool) error {
	if text == "" || text == "autodetect" {
		return nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		p, perr := netip.ParsePrefix(text)
		if perr != nil {
			return fmt.Errorf("invalid IP address specified for %s: %s", flag, text)
		}
		a = p.Addr()
	}
	if !family(a) {
		return fmt.Errorf("%s is wrong IP version", flag)
	}
	return nil
}

// certificates are where the TLS files lie in the container.
const (
	caFile   = "/etc/calico/certs/ca_cert.crt"
	keyFile  = "/etc/calico/certs/key.pem"
	certFile = "/etc/calico/certs/cert.crt"
)

// Command is the docker command line, in a fixed order so that two runs can be
// compared.
func Command(o Options, etcd etcdstore.Config) []string {
	args := []string{"docker", "run", "--net=host"}
	args = append(args, rights(o)...)
	args = append(args, "--name="+ContainerName)
	if o.InitSystem {
		args = append(args, "--rm")
	} else {
		args = append(args, "-d", "--restart=always")
	}
	for _, e := range environment(o, etcd) {
		args = append(args, "-e", e)
	}
	for _, v := range volumes(o, etcd) {
		args = append(args, "-v", v)
	}
	return append(args, o.Image)
}

// What the programs need instead of --privileged, which some hosts refuse: routes, sets
// and rules (NET_ADMIN), reverse-path and raw sockets (NET_RAW), entering a container's
// sandbox (SYS_ADMIN), and writing /proc/sys/net, which Docker and AppArmor's profile for
// it otherwise protect.
var (
	capabilities    = []string{"NET_ADMIN", "NET_RAW", "SYS_ADMIN"}
	securityOptions = []string{"systempaths=unconfined", "apparmor=unconfined"}
)

func rights(o Options) []string {
	if o.Privileged {
		return []string{"--privileged"}
	}
	var args []string
	for _, c := range capabilities {
		args = append(args, "--cap-add="+c)
	}
	for _, s := range securityOptions {
		args = append(args, "--security-opt="+s)
	}
	return args
}

func environment(o Options, etcd etcdstore.Config) []string {
	env := []string{
		"NODENAME=" + o.Name,
		"CALICO_NETWORKING_BACKEND=" + o.Backend,
		fmt.Sprintf("CALICO_LIBNETWORK_ENABLED=%t", !o.DisableDockerNetworking),
		"ETCD_ENDPOINTS=" + strings.Join(etcd.Endpoints, ","),
	}
	add := func(name, value string) {
		if value != "" {
			env = append(env, name+"="+value)
		}
	}
	add("IP", o.IP)
	add("IP6", o.IP6)
	add("AS", o.AS)
	add("IP_AUTODETECTION_METHOD", unlessDefault(o.IPMethod))
	add("IP6_AUTODETECTION_METHOD", unlessDefault(o.IP6Method))
	if o.NoDefaultPools {
		add("NO_DEFAULT_POOLS", "true")
	}
	if !o.DisableDockerNetworking {
		add("CALICO_LIBNETWORK_IFPREFIX", o.IfPrefix)
		add("CALICO_LIBNETWORK_SCOPE", o.Scope)
	}
	if o.UseLabels {
		add("CALICO_LIBNETWORK_CREATE_PROFILES", "false")
		add("CALICO_LIBNETWORK_LABEL_ENDPOINTS", "true")
	}
	for _, file := range tlsFiles(etcd) {
		if file.onHost != "" {
			add(file.variable, file.inside)
		}
	}
	add("ETCD_USERNAME", etcd.Username)
	add("ETCD_PASSWORD", etcd.Password)
	return env
}

func unlessDefault(method string) string {
	if method == "first-found" {
		return ""
	}
	return method
}

type tlsFile struct{ variable, onHost, inside string }

func tlsFiles(etcd etcdstore.Config) []tlsFile {
	return []tlsFile{
		{"ETCD_CA_CERT_FILE", etcd.CACertFile, caFile},
		{"ETCD_KEY_FILE", etcd.KeyFile, keyFile},
		{"ETCD_CERT_FILE", etcd.CertFile, certFile},
	}
}

// volumes share with the container: the logs, what the host remembers, the programs'
// sockets, and /run as a
// whole, which holds Docker's socket, its plugin folder, its sandboxes and the lock of
// iptables. Mounting Docker's socket by itself would keep a dead one after the engine
// has restarted.
func volumes(o Options, etcd etcdstore.Config) []string {
	run := "/run:/run"
	if o.SharedRun {
		run += ":rslave"
	}
	vols := []string{o.LogDir + ":/var/log/calico", hostrecord.DefaultDir + ":" + hostrecord.DefaultDir, run, "/var/run/calico:/var/run/calico"}
	if o.Modules {
		vols = append(vols, "/lib/modules:/lib/modules:ro")
	}
	for _, file := range tlsFiles(etcd) {
		if file.onHost != "" {
			vols = append(vols, file.onHost+":"+file.inside+":ro")
		}
	}
	return vols
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// Shell is the command as a line for a shell; a password is shown only when
// secrets is true.
func Shell(command []string, secrets bool) string {
	words := make([]string, len(command))
	for i, w := range command {
		if !secrets && strings.HasPrefix(w, "ETCD_PASSWORD=") {
			w = "ETCD_PASSWORD=<hidden>"
		}
		if !plainWord.MatchString(w) {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words[i] = w
	}
	return strings.Join(words, " ")
}
