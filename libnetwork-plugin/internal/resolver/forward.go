package resolver

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
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
	// maxOfOne is how many of those one asker may have.
	maxOfOne = 64
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
	// asking counts the questions of each asker that are passed on at the moment.
	asking map[netip.Addr]int
}

func newForwarder(resolvConf string, own []netip.Addr) *forwarder {
	return &forwarder{file: resolvConf, own: own, cache: newCache(time.Now), slots: make(chan struct{}, maxForwards), asking: make(map[netip.Addr]int)}
}

// ask answers from memory or by asking the host's resolvers in turn. Nobody's answer is a
// failure of the server, as with any resolver.
func (f *forwarder) ask(from netip.Addr, r *dns.Msg, tcp bool) *dns.Msg {
	if m := f.cache.get(r); m != nil {
		return m
	}
	if !f.enter(from) {
		return new(dns.Msg).SetRcode(r, dns.RcodeServerFailure)
	}
	defer f.leave(from)
	m := f.exchange(r, tcp)
	m.Id = r.Id
	return m
}

// enter takes a place for an asker's question, if there is one.
func (f *forwarder) enter(from netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asking[from] >= maxOfOne {
		return false
	}
	select {
	case f.slots <- struct{}{}:
		f.asking[from]++
		return true
	default:
		return false
	}
}

func (f *forwarder) leave(from netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	<-f.slots
	if f.asking[from]--; f.asking[from] == 0 {
		delete(f.asking, from)
	}
}

// exchange asks the host's resolvers in turn. The question's id is one of our own: whoever asks
// would else know it, and could answer in a server's name what all others are told then.
func (f *forwarder) exchange(r *dns.Msg, tcp bool) *dns.Msg {
	q := r.Copy()
	q.Id = dns.Id()
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
		m, _, err := client.Exchange(q, server)
		if err != nil || m == nil || !answers(q, m) {
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

// answers reports whether an answer is one to the question.
func answers(q, m *dns.Msg) bool {
	return len(m.Question) == 1 && strings.EqualFold(m.Question[0].Name, q.Question[0].Name) &&
		m.Question[0].Qtype == q.Question[0].Qtype && m.Question[0].Qclass == q.Question[0].Qclass
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
