package resolver

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// The limits of what is remembered: how many answers, and how long one may be, whatever it
// says itself.
const (
	maxAnswers  = 4096
	maxKept     = 5 * time.Minute
	maxNegative = 30 * time.Second
)

// question is what makes two questions the same.
type question struct {
	name          string
	qtype, qclass uint16
	dnssec, check bool
}

func questionOf(r *dns.Msg) question {
	q := r.Question[0]
	k := question{name: strings.ToLower(q.Name), qtype: q.Qtype, qclass: q.Qclass, check: r.CheckingDisabled}
	if opt := r.IsEdns0(); opt != nil {
		k.dnssec = opt.Do()
	}
	return k
}

// kept is an answer that is remembered.
type kept struct {
	msg    *dns.Msg
	at, to time.Time
}

// cache remembers answers of other servers for as long as they allow.
type cache struct {
	now func() time.Time

	mu      sync.Mutex
	answers map[question]kept
}

func newCache(now func() time.Time) *cache {
	return &cache{now: now, answers: make(map[question]kept)}
}

// get answers from memory, with the time that is left; nil if it cannot.
func (c *cache) get(r *dns.Msg) *dns.Msg {
	if !r.RecursionDesired {
		return nil
	}
	now := c.now()
	c.mu.Lock()
	k, ok := c.answers[questionOf(r)]
	c.mu.Unlock()
	if !ok || !now.Before(k.to) {
		return nil
	}
	m := k.msg.Copy()
	m.Id, m.Question = r.Id, r.Question // as it was written, in capitals perhaps
	age := uint32(now.Sub(k.at) / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(h.Ttl, age)
			}
		}
	}
	if opt := r.IsEdns0(); opt != nil {
		m.SetEdns0(maxUDP, opt.Do())
	}
	return m
}

// put remembers an answer, if it may be. Without recursion a server tells only what it happens to
// know. What an answer says of the transport is for who asked alone.
func (c *cache) put(r, m *dns.Msg) {
	life := lifetime(m)
	if life <= 0 || !r.RecursionDesired {
		return
	}
	m = m.Copy()
	m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.answers) >= maxAnswers {
		c.makeRoom(now)
	}
	c.answers[questionOf(r)] = kept{msg: m, at: now, to: now.Add(life)}
}

// makeRoom forgets what is too old, and if that is not enough, any quarter.
func (c *cache) makeRoom(now time.Time) {
	for q, k := range c.answers {
		if !now.Before(k.to) {
			delete(c.answers, q)
		}
	}
	for q := range c.answers {
		if len(c.answers) < maxAnswers*3/4 {
			return
		}
		delete(c.answers, q)
	}
}

// lifetime is how long an answer may be remembered: as long as its shortest-lived record,
// and one that there is no such name or record as long as the zone says (RFC 2308).
func lifetime(m *dns.Msg) time.Duration {
	if m.Truncated || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	if len(m.Answer) == 0 || m.Rcode == dns.RcodeNameError {
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				return min(time.Duration(min(soa.Minttl, soa.Hdr.Ttl))*time.Second, maxNegative)
			}
		}
		return 0
	}
	life := maxKept
	for _, rr := range m.Answer {
		life = min(life, time.Duration(rr.Header().Ttl)*time.Second)
	}
	return life
}
