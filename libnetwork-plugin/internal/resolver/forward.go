package resolver

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// The limits of questions that are passed on: for one server's answer, for all together, and
// of how many there are at a time.
const (
	serverLimit = 2 * time.Second
	totalLimit  = 5 * time.Second
	maxForwards = 512
)

// resolvConfEvery is how often the host's resolvers are looked up again.
const resolvConfEvery = 5 * time.Second

// forwarder passes questions on to the host's resolvers, and remembers their answers.
type forwarder struct {
	file  string
	own   []netip.Addr
	cache *cache
	slots chan struct{}

	mu      sync.Mutex
	servers []string
	read    time.Time
	changed time.Time
}

func newForwarder(resolvConf string, own []netip.Addr) *forwarder {
	return &forwarder{file: resolvConf, own: own, cache: newCache(time.Now), slots: make(chan struct{}, maxForwards)}
}

// ask answers from memory or by asking the host's resolvers in turn. Nobody's answer is a
// failure of the server, as with any resolver.
func (f *forwarder) ask(r *dns.Msg, tcp bool) *dns.Msg {
	if m := f.cache.get(r); m != nil {
		return m
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return new(dns.Msg).SetRcode(r, dns.RcodeServerFailure)
	}
	client := &dns.Client{Timeout: serverLimit, UDPSize: maxUDP}
	if tcp {
		client.Net = "tcp"
	}
	begun := time.Now()
	var last *dns.Msg
	for _, server := range f.upstream() {
		if time.Since(begun) > totalLimit {
			break
		}
		m, _, err := client.Exchange(r, server)
		if err != nil || m == nil {
			continue
		}
		if m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused {
			last = m
			continue
		}
		f.cache.put(r, m)
		return m
	}
	if last != nil {
		return last
	}
	return new(dns.Msg).SetRcode(r, dns.RcodeServerFailure)
}

// upstream lists the host's resolvers, with their ports.
func (f *forwarder) upstream() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.read) < resolvConfEvery {
		return f.servers
	}
	f.read = time.Now()
	info, err := os.Stat(f.file)
	if err != nil || info.ModTime().Equal(f.changed) {
		return f.servers
	}
	conf, err := dns.ClientConfigFromFile(f.file)
	if err != nil {
		return f.servers // half written, perhaps
	}
	f.changed, f.servers = info.ModTime(), nil
	for _, s := range conf.Servers {
		if a, err := netip.ParseAddr(s); err == nil && slices.Contains(f.own, a.WithZone("")) {
			continue // it would ask itself
		}
		f.servers = append(f.servers, net.JoinHostPort(s, conf.Port))
	}
	return f.servers
}
