package iptables

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	goiptables "github.com/coreos/go-iptables/iptables"

	"calico.internal/felix/internal/rules"
)

// The variants of iptables, as FELIX_IPTABLESBACKEND names them.
const (
	Auto   = "auto"
	Legacy = "legacy"
	NFT    = "nft"
)

// Backend is the variant of iptables that felix writes to.
type Backend struct {
	// Variant is Legacy or NFT.
	Variant string
	// Why says in a few words how the variant was chosen.
	Why string
	// OtherInUse is set when Docker's chains stand in the other variant as well.
	OtherInUse bool

	programs map[rules.Family]programs
}

// Detect decides which variant of iptables this host uses. With [Auto] it is the one
// that holds Docker's chains, or else the system's default.
func Detect(ctx context.Context, setting string) (Backend, error) {
	found := map[string]Backend{}
	for _, v := range []string{Legacy, NFT} {
		if b, err := backendOf(v); err == nil {
			found[v] = b
		}
	}
	system, systemErr := systemDefault(ctx)
	if _, ok := found[system]; !ok && systemErr == nil {
		found[system] = Backend{Variant: system, programs: map[rules.Family]programs{
			rules.V4: {"iptables-save", "iptables-restore"},
			rules.V6: {"ip6tables-save", "ip6tables-restore"},
		}}
	}
	switch setting {
	case Legacy, NFT:
		b, ok := found[setting]
		if !ok {
			return Backend{}, fmt.Errorf("iptables-%s-restore: not found; install Debian's package iptables", setting)
		}
		b.Why = "configured"
		return b, nil
	case Auto, "":
	default:
		return Backend{}, fmt.Errorf("iptables backend %q: want auto, legacy or nft", setting)
	}
	if len(found) == 0 {
		return Backend{}, fmt.Errorf("iptables: not found; install Debian's package iptables: %w", systemErr)
	}
	return choose(found, system), nil
}

// choose picks among the variants that are installed.
func choose(found map[string]Backend, system string) Backend {
	var holders []string
	for _, v := range []string{Legacy, NFT} {
		if _, ok := found[v]; ok && holdsDocker(v) {
			holders = append(holders, v)
		}
	}
	switch {
	case len(holders) == 1:
		b := found[holders[0]]
		b.Why = "Docker's chains are there"
		return b
	case len(holders) == 2:
		b := found[system]
		b.Why = "Docker's chains are in both variants; this is the system's default"
		b.OtherInUse = true
		return b
	}
	if b, ok := found[system]; ok {
		b.Why = "the system's default"
		return b
	}
	for _, b := range found {
		b.Why = "the only variant that is installed"
		return b
	}
	return Backend{}
}

func backendOf(variant string) (Backend, error) {
	b := Backend{Variant: variant, programs: map[rules.Family]programs{}}
	for f, name := range map[rules.Family]string{rules.V4: "iptables-", rules.V6: "ip6tables-"} {
		// Those of IPv6 may be installed later.
		b.programs[f] = programs{name + variant + "-save", name + variant + "-restore"}
	}
	for _, name := range []string{b.programs[rules.V4].saveName, b.programs[rules.V4].restoreName} {
		if _, err := exec.LookPath(name); err != nil {
			return Backend{}, err
		}
	}
	return b, nil
}

// systemDefault is the variant that plain "iptables" is.
func systemDefault(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "iptables", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("iptables --version: %w", err)
	}
	if strings.Contains(string(out), "nf_tables") {
		return NFT, nil
	}
	return Legacy, nil
}

// holdsDocker reports whether the filter table of a variant has Docker's chains.
func holdsDocker(variant string) bool {
	if variant == Legacy && !slices.Contains(LegacyTables(rules.V4), string(rules.Filter)) {
		// To ask would load the table.
		return false
	}
	ipt, err := goiptables.New(goiptables.Path("iptables-"+variant), goiptables.Timeout(5))
	if err != nil {
		return false
	}
	chains, err := ipt.ListChains(string(rules.Filter))
	if err != nil {
		return false
	}
	return slices.Contains(chains, "DOCKER") || slices.Contains(chains, "DOCKER-USER")
}

// LegacyTables lists the legacy tables that exist in this network namespace; asking for
// any other one by iptables-legacy would create it.
func LegacyTables(f rules.Family) []string {
	path := "/proc/thread-self/net/ip_tables_names"
	if f == rules.V6 {
		path = "/proc/thread-self/net/ip6_tables_names"
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

// String is the name of the dataplane as status shows it.
func (b Backend) String() string { return "iptables-" + b.Variant }
