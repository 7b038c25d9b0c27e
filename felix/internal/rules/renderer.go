package rules

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"calico.internal/felix/internal/desired"
)

// Config is what the rules depend on besides the desired state.
type Config struct {
	// WorkloadPrefixes are the beginnings of workloads' interface names, such as "cali".
	WorkloadPrefixes []string
	// MarkMask are the bits of the packet's mark that belong to felix; at least four.
	MarkMask uint32
	// EndpointToHost is what becomes of a workload's packet to its own host that its
	// egress policy allows: Drop, Reject, Return or Accept.
	EndpointToHost Verb
	// FilterAllow and MangleAllow are what becomes of an allowed packet: Accept or Return.
	FilterAllow, MangleAllow Verb
	// FilterDeny is what becomes of a denied packet: Drop or Reject.
	FilterDeny Verb
	// HookPosition is where the hooks stand in the kernel's chains.
	HookPosition Position
	// LogPrefix begins the lines of rules that log and give none of their own.
	LogPrefix string
	// NoInvalidCheck leaves out the drop of packets that connection tracking finds invalid.
	NoInvalidCheck bool
	// WorkloadDNS lets workloads, whatever their policy says, and containers on Docker's
	// bridges ask the gateways for names, and nobody else.
	WorkloadDNS bool
	// Gateways are the addresses that workloads have as gateway; they answer ICMP echo
	// and DNS.
	Gateways []netip.Prefix
	// ReachControlPlane lets workloads reach etcd and the nodes' BGP port, as far as policy
	// allows it.
	ReachControlPlane bool
	// EtcdPorts are the ports of this host at which etcd listens, sorted.
	EtcdPorts []uint16
	// FailsafeInbound and FailsafeOutbound are ports of the host that no policy closes.
	FailsafeInbound, FailsafeOutbound []FailsafePort
}

// FailsafePort is a port of the host that stays open; Net limits the peer when valid.
type FailsafePort struct {
	Protocol desired.Protocol
	Port     uint16
	Net      netip.Prefix
}

// DefaultConfig is what holds where nothing else is configured.
func DefaultConfig() Config {
	return Config{
		WorkloadPrefixes: []string{"cali"},
		MarkMask:         0xff000000,
		EndpointToHost:   Drop,
		FilterAllow:      Accept,
		MangleAllow:      Accept,
		FilterDeny:       Drop,
		LogPrefix:        "calico-packet",
		WorkloadDNS:      true,
		Gateways:         []netip.Prefix{netip.MustParsePrefix("169.254.1.0/24"), netip.MustParsePrefix("fe80::a9fe:100/120")},
	}
}

// Renderer turns desired objects into chains, for both families. It keeps no state.
type Renderer struct {
	cfg   Config
	marks marks
}

// marks are felix's bits of the packet's mark.
type marks struct {
	// accept: a chain said allow.
	accept uint32
	// pass: go on to the next tier.
	pass uint32
	// scratch0 and scratch1 live inside one policy rule; in the raw table scratch0 says
	// that the packet comes from a workload.
	scratch0, scratch1 uint32
}

// NewRenderer checks the configuration and makes a renderer of it.
func NewRenderer(cfg Config) (*Renderer, error) {
	var faults []error
	if len(cfg.WorkloadPrefixes) == 0 || slices.Contains(cfg.WorkloadPrefixes, "") {
		faults = append(faults, errors.New("workload interface prefix: is empty"))
	}
	if n := bits.OnesCount32(cfg.MarkMask); n < 4 {
		faults = append(faults, fmt.Errorf("mark mask %#x: has %d bits, at least 4 are needed", cfg.MarkMask, n))
	}
	oneOf := func(name string, v Verb, allowed ...Verb) {
		if !slices.Contains(allowed, v) {
			faults = append(faults, fmt.Errorf("%s: not one of those possible", name))
		}
	}
	oneOf("endpoint to host action", cfg.EndpointToHost, Drop, Reject, Return, Accept)
	oneOf("filter allow action", cfg.FilterAllow, Accept, Return)
	oneOf("mangle allow action", cfg.MangleAllow, Accept, Return)
	oneOf("filter deny action", cfg.FilterDeny, Drop, Reject)
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return &Renderer{cfg: cfg, marks: marksOf(cfg.MarkMask)}, nil
}

// in is the renderer for the chains of a table: only the filter table can reject.
func (r *Renderer) in(t Table) *Renderer {
	if t == Filter || r.cfg.FilterDeny == Drop {
		return r
	}
	other := *r
	other.cfg.FilterDeny = Drop
	return &other
}

// marksOf gives out the bits of a mask, lowest first.
func marksOf(mask uint32) marks {
	next := func() uint32 {
		bit := mask & -mask
		mask &^= bit
		return bit
	}
	return marks{accept: next(), pass: next(), scratch0: next(), scratch1: next()}
}

func (m marks) all() uint32 { return m.accept | m.pass | m.scratch0 | m.scratch1 }

// isSet and isClear match a packet by bits of its mark.
func isSet(bits uint32) Match   { return Match{Mark: Mark{Value: bits, Mask: bits}} }
func isClear(bits uint32) Match { return Match{Mark: Mark{Mask: bits}} }

// The actions in short.
func jump(chain string) Action     { return Action{Verb: Jump, Chain: chain} }
func goTo(chain string) Action     { return Action{Verb: Goto, Chain: chain} }
func setMark(bits uint32) Action   { return Action{Verb: SetMark, Mark: bits} }
func clearMark(bits uint32) Action { return Action{Verb: ClearMark, Mark: bits} }
func do(v Verb) Action             { return Action{Verb: v} }
