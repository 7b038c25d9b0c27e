// Package resolver answers the names of containers to the containers of this host, and
// passes on all else to the host's own resolvers (edge).
//
// Docker's resolver in each container knows the containers of its own engine only, and asks
// the servers of daemon.json for all other names, in the container's name: the question comes
// from the container's address, by which its networks are known.
package resolver

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"calico.internal/libcalico/logattr"
	"calico.internal/libnetwork-plugin/internal/zone"
)

// ttl is how many seconds an answer may be kept: containers come and go, and asking again
// costs less than a millisecond.
const ttl = 1

// maxUDP is the longest answer by UDP: what passes every link unfragmented (RFC 9715).
const maxUDP = 1232

// Names answers for containers.
type Names interface {
	Lookup(in []zone.Network, name string) (addrs []netip.Addr, known bool)
	Reverse(in []zone.Network, addr netip.Addr) []string
	// Known tells whether all names of the networks have been read.
	Known(in []zone.Network) bool
}

// Askers knows the networks of whoever asks.
type Askers interface {
	Networks(addr netip.Addr) []zone.Network
	// Known tells whether all of them have been read.
	Known() bool
}

// Server answers questions. Its zero value is not useful; see [New].
type Server struct {
	names   Names
	askers  Askers
	forward *forwarder
	log     *slog.Logger
}

// New returns a server that passes on what it does not know to the servers of a
// resolv.conf file, except for those at addresses of its own.
func New(names Names, askers Askers, resolvConf string, own []netip.Addr, log *slog.Logger) *Server {
	return &Server{names: names, askers: askers, forward: newForwarder(resolvConf, own), log: log}
}

// listenRetry is how often an address that cannot be listened at is tried again.
const listenRetry = 10 * time.Second

// Run answers at an address, by UDP and TCP, until ctx ends. While it cannot, as when
// another program has the port, that is said once and tried again.
func (s *Server) Run(ctx context.Context, at netip.AddrPort) error {
	for said := ""; ; {
		err := s.serve(ctx, at)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			s.log.Warn("names of containers are not answered: end the program that has the port, or have it leave this address alone",
				logattr.Addr, at, logattr.Err, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenRetry):
		}
	}
}

// serve answers until ctx ends or one of the sockets fails.
func (s *Server) serve(ctx context.Context, at netip.AddrPort) error {
	if err := ensureAddress(at.Addr()); err != nil {
		return err
	}
	packets, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	defer packets.Close() //nolint:errcheck // nothing is buffered
	stream, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at.Addr(), packets.LocalAddr().(*net.UDPAddr).AddrPort().Port())))
	if err != nil {
		return err
	}
	servers := []*dns.Server{
		{PacketConn: packets, Handler: s, UDPSize: maxUDP},
		{Listener: stream, Handler: s},
	}
	s.log.Info("names of containers are answered", logattr.Addr, packets.LocalAddr().String())
	failed := make(chan error, len(servers))
	for _, server := range servers {
		go func() { failed <- server.ActivateAndServe() }()
	}
	var ended error
	left := len(servers)
	select {
	case ended = <-failed:
		left--
	case <-ctx.Done():
	}
	// Closing the sockets ends both.
	ended = errors.Join(ended, ignoreClosed(packets.Close()), ignoreClosed(stream.Close()))
	for range left {
		<-failed
	}
	return ended
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// ServeDNS answers one question.
func (s *Server) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	tcp := w.RemoteAddr().Network() == "tcp"
	answer := s.answer(asker(w.RemoteAddr()), r, tcp)
	if answer == nil {
		return
	}
	limit := dns.MaxMsgSize
	if !tcp {
		limit = dns.MinMsgSize
		if opt := r.IsEdns0(); opt != nil {
			limit = min(max(limit, int(opt.UDPSize())), maxUDP)
		}
	}
	answer.Truncate(limit)
	if err := w.WriteMsg(answer); err != nil {
		s.log.Debug("answer is not sent", logattr.Err, err)
	}
}

// asker is the address that a question comes from.
func asker(from net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// answer answers a question of whoever has an address; nil drops it.
func (s *Server) answer(from netip.Addr, r *dns.Msg, tcp bool) *dns.Msg {
	if r.Response {
		return nil // an answer to nothing: two servers must not talk to each other for ever
	}
	switch {
	case r.Opcode != dns.OpcodeQuery:
		return new(dns.Msg).SetRcode(r, dns.RcodeNotImplemented)
	case len(r.Question) != 1:
		return new(dns.Msg).SetRcode(r, dns.RcodeFormatError)
	}
	if q := r.Question[0]; q.Qclass == dns.ClassINET {
		in := s.askers.Networks(from)
		if own := s.own(in, q); own != nil {
			return reply(r, *own)
		}
		if s.unsure(in, q.Name) {
			return new(dns.Msg).SetRcode(r, dns.RcodeServerFailure)
		}
	}
	return s.forward.ask(from, r, tcp)
}

// unsure tells whether a name that is not known may be a container's all the same, since not all
// names have been read yet: that there is no such name would be believed, and remembered.
func (s *Server) unsure(in []zone.Network, name string) bool {
	if s.askers.Known() && s.names.Known(in) {
		return false
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	short := !strings.Contains(name, ".") && name != ""
	return short || slices.ContainsFunc(in, func(n zone.Network) bool {
		return strings.HasSuffix(name, "."+strings.ToLower(n.Name)) || strings.HasSuffix(name, "."+strings.ToLower(n.Key))
	})
}

// own is what is known of a name here, without an answer where the name has none of the
// type; nil if the name is not ours.
func (s *Server) own(in []zone.Network, q dns.Question) *[]dns.RR {
	if len(in) == 0 {
		return nil
	}
	if addr, ok := reverse(q.Name); ok {
		names := s.names.Reverse(in, addr)
		if len(names) == 0 {
			return nil
		}
		var list []dns.RR
		for _, name := range names {
			if _, valid := dns.IsDomainName(name); valid && (q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY) {
				list = append(list, &dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: dns.Fqdn(name)})
			}
		}
		return &list
	}
	addrs, known := s.names.Lookup(in, q.Name)
	if !known {
		return nil
	}
	list := make([]dns.RR, 0, len(addrs))
	for _, a := range addrs {
		switch {
		case a.Is4() && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY):
			list = append(list, &dns.A{Hdr: header(q.Name, dns.TypeA), A: a.AsSlice()})
		case a.Is6() && (q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypeANY):
			list = append(list, &dns.AAAA{Hdr: header(q.Name, dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return &list
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// reply is the answer of one who knows.
func reply(r *dns.Msg, list []dns.RR) *dns.Msg {
	m := new(dns.Msg).SetReply(r)
	m.Authoritative, m.RecursionAvailable = true, true
	m.Answer = list
	if opt := r.IsEdns0(); opt != nil {
		m.SetEdns0(maxUDP, opt.Do())
	}
	return m
}

// reverse is the address that a name of the trees in-addr.arpa and ip6.arpa stands for
// (RFC 1035 3.5, RFC 3596 2.5).
func reverse(name string) (netip.Addr, bool) {
	name = strings.ToLower(name)
	if digits, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(digits, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	digits, ok := strings.CutSuffix(name, ".ip6.arpa.")
	parts := strings.Split(digits, ".")
	if !ok || len(parts) != 32 {
		return netip.Addr{}, false
	}
	slices.Reverse(parts)
	var text strings.Builder
	for i, p := range parts {
		if i > 0 && i%4 == 0 {
			text.WriteByte(':')
		}
		text.WriteString(p)
	}
	a, err := netip.ParseAddr(text.String())
	return a, err == nil && a.Is6()
}
