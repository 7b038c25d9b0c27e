// Package launch starts the container calico-node on this host: the docker command
// line is computed (pure), then the host is prepared and the command carried out.
package launch

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nodestart/address"
	"calico.internal/libcalico/selector"
)

// DefaultLogDir is the directory of this host for the programs' logs.
const DefaultLogDir = "/var/log/calico"

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
	// Plugin is where the plugin runs: in the container ("container", as is ""), or as a service
	// of the host ("host").
	Plugin   string
	IfPrefix string
	// Pool4 and Pool6 say how the default pools of a new cluster are.
	Pool4, Pool6 Pool
	// Env are further variables of the container, and Felix parameters of felix, each as
	// NAME=VALUE.
	Env, Felix []string
	// Force takes the node's name from the host that has it.
	Force bool
	// Timeout is how long the start-up, and after it the programs, may each take to be
	// ready.
	Timeout time.Duration
	// Scope is what Docker is told about networks: "local" or "global".
	Scope string
	// SharedRun says that /run is a shared mount, so that what is mounted below it later
	// (Docker's sandboxes) can be seen inside.
	SharedRun bool
	// Modules says that the host has /lib/modules.
	Modules bool
	// UserNamespaces says that the engine gives containers user namespaces, which one in
	// the host's network cannot have.
	UserNamespaces bool
	// BootFile is the file that says which start of the host this is, where the kernel does
	// not tell.
	BootFile string
	// Certificates are the files for etcd as the container sees them.
	Certificates Certificates
	// Self is the path of calicoctl, for units that call it.
	Self string
}

// Pool is how the default pool of a family is to be; what is empty is the start-up's to
// choose.
type Pool struct {
	CIDR, BlockSize, NodeSelector, NATOutgoing, IPIP string
}

// variables are those by which the start-up is told.
func (p Pool) variables(family int) []variable {
	prefix := fmt.Sprintf("CALICO_IPV%dPOOL_", family)
	return []variable{
		{prefix + "CIDR", p.CIDR},
		{prefix + "BLOCK_SIZE", p.BlockSize},
		{prefix + "NODE_SELECTOR", p.NodeSelector},
		{prefix + "NAT_OUTGOING", p.NATOutgoing},
		{prefix + "IPIP", p.IPIP},
	}
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
		if method == "" {
			continue // the start-up decides
		}
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
	if err := o.checkPlugin(); err != nil {
		return err
	}
	if err := o.Pool4.check(4); err != nil {
		return err
	}
	if err := o.Pool6.check(6); err != nil {
		return err
	}
	if o.NoDefaultPools && (o.Pool4 != Pool{} || o.Pool6 != Pool{}) {
		return errors.New("--no-default-ippools and flags of default pools exclude each other")
	}
	return o.checkVariables()
}

// check checks what can be known of a pool without a datastore.
func (p Pool) check(family int) error {
	flag := func(name string) string { return fmt.Sprintf("--ipv%dpool-%s", family, name) }
	bits := map[int]int{4: 32, 6: 128}[family]
	if p.CIDR != "" {
		cidr, err := netip.ParsePrefix(p.CIDR)
		if err != nil || cidr != cidr.Masked() || cidr.Addr().BitLen() != bits {
			return fmt.Errorf("%s=%s is not an IPv%d network", flag("cidr"), p.CIDR, family)
		}
	}
	if p.BlockSize != "" {
		if n, err := strconv.Atoi(p.BlockSize); err != nil || n < 1 || n > bits {
			return fmt.Errorf("%s=%s is not the length of a prefix: 26 gives each node blocks of 64 addresses of IPv4, 122 of IPv6", flag("block-size"), p.BlockSize)
		}
	}
	if p.NodeSelector != "" {
		if _, err := selector.Parse(p.NodeSelector); err != nil {
			return fmt.Errorf("%s: %w", flag("node-selector"), err)
		}
	}
	if p.NATOutgoing != "" {
		if _, err := strconv.ParseBool(p.NATOutgoing); err != nil {
			return fmt.Errorf("%s=%s is neither true nor false", flag("nat-outgoing"), p.NATOutgoing)
		}
	}
	switch strings.ToLower(p.IPIP) {
	case "", "off", "never", "always", "cross-subnet":
		return nil
	}
	return fmt.Errorf("%s=%s: use always, cross-subnet or off", flag("ipip"), p.IPIP)
}

// variableName is what a variable of the environment may be called.
var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// checkVariables checks --env and --felix.
func (o *Options) checkVariables() error {
	for _, text := range o.Env {
		name, value, ok := strings.Cut(text, "=")
		switch {
		case !ok || !variableName.MatchString(name):
			return fmt.Errorf("--env=%s: expected NAME=VALUE, or the NAME of a variable of the environment that is set", name)
		case strings.ContainsAny(value, "\n\r\x00"):
			return fmt.Errorf("--env=%s: a value is one line", name)
		}
	}
	for i, text := range o.Felix {
		name, value, ok := strings.Cut(text, "=")
		if !ok || strings.ContainsAny(value, "\n\r\x00") {
			return fmt.Errorf("--felix=%s: expected NAME=VALUE, such as LogSeverityScreen=debug", name)
		}
		known, ok := felixParameter(name)
		if !ok {
			return fmt.Errorf("--felix=%s: felix has no such parameter%s", name, tree.DidYouMean(name, felixParameters))
		}
		o.Felix[i] = known + "=" + value
	}
	return nil
}

func checkIP(flag, text string, family func(netip.Addr) bool) error {
	if text == "" || text == "autodetect" || text == "none" {
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
