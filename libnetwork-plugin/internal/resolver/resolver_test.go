package resolver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/enginetest"
	"calico.internal/libnetwork-plugin/internal/zone"
)

func TestMain(m *testing.M) {
	os.Exit(nettest.Main(func() int { return etcdtest.Main(m) }))
}

var (
	gateway  = endpoint.Gateway(1)
	at       = netip.AddrPortFrom(gateway, 53)
	upstream = netip.MustParseAddr("127.0.0.53")
)

// named answers for one container, asked by everybody on this host.
type named struct {
	in []zone.Network
	// unread says that nothing has been read of etcd yet.
	unread bool
}

func (n named) Known() bool { return !n.unread }

// names is the side of it that knows names.
type names struct{ named }

func (n names) Known([]zone.Network) bool { return !n.unread }

func (n named) Networks(netip.Addr) []zone.Network { return n.in }

func (named) Lookup(in []zone.Network, name string) ([]netip.Addr, bool) {
	switch name = strings.TrimSuffix(name, "."); {
	case name == "web":
		return []netip.Addr{netip.MustParseAddr("192.168.1.2"), netip.MustParseAddr("fd80::2")}, len(in) > 0
	case name == "v4":
		return []netip.Addr{netip.MustParseAddr("192.168.1.2")}, len(in) > 0
	case name == "many":
		var list []netip.Addr
		for i := range 200 {
			list = append(list, netip.AddrFrom4([4]byte{192, 168, 2, byte(i)}))
		}
		return list, len(in) > 0
	}
	return nil, false
}

func (named) Reverse(in []zone.Network, a netip.Addr) []string {
	if len(in) > 0 && a == netip.MustParseAddr("192.168.1.2") || a == netip.MustParseAddr("fd80::2") {
		return []string{"web.net1"}
	}
	return nil
}

// host is a host whose own resolver knows example.com.
type host struct {
	t      *testing.T
	asked  atomic.Int32
	answer func(*dns.Msg) *dns.Msg
	conf   string
	mu     sync.Mutex
}

func (h *host) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	h.asked.Add(1)
	h.mu.Lock()
	answer := h.answer
	h.mu.Unlock()
	if m := answer(r); m != nil {
		if w.RemoteAddr().Network() == "udp" {
			size := dns.MinMsgSize
			if opt := r.IsEdns0(); opt != nil {
				size = int(opt.UDPSize())
			}
			m.Truncate(size)
		}
		_ = w.WriteMsg(m) // who asks sees that it is missing
	}
}

// example knows example.com alone.
func example(r *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(r)
	q := r.Question[0]
	switch {
	case strings.EqualFold(q.Name, "example.com.") && q.Qtype == dns.TypeA:
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(203, 0, 113, 9)}}
	case q.Name == "long.example.com.":
		for i := range 100 {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}, Txt: []string{fmt.Sprint(i, strings.Repeat("x", 40))}})
		}
	default:
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "ns.", Mbox: "m.", Minttl: 20}}
	}
	return m
}

// start starts the host's resolver and ours, for whoever is in networks.
func start(t *testing.T, in ...zone.Network) *host {
	t.Helper()
	nettest.NeedPrivate(t)
	h := &host{t: t, answer: example, conf: filepath.Join(t.TempDir(), "resolv.conf")}
	h.servers(gateway.String(), upstream.String())
	for _, network := range []string{"udp", "tcp"} {
		up := make(chan struct{})
		server := &dns.Server{Addr: netip.AddrPortFrom(upstream, 53).String(), Net: network, Handler: h, NotifyStartedFunc: func() { close(up) }}
		go func() {
			if err := server.ListenAndServe(); err != nil {
				t.Error(err)
			}
		}()
		t.Cleanup(func() { _ = server.Shutdown() })
		<-up
	}
	h.run(named{in: in})
	enginetest.Eventually(h.t, "our resolver answers", func() bool {
		m, _, err := new(dns.Client).Exchange(query("example.com.", dns.TypeA), at.String())
		return err == nil && len(m.Answer) == 1
	})
	h.asked.Store(0)
	return h
}

func (h *host) run(n named) {
	ctx, cancel := context.WithCancel(context.Background())
	server := New(names{n}, n, h.conf, []netip.Addr{gateway}, slog.New(slog.NewTextHandler(h.t.Output(), nil)))
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, at) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	})
}

func (h *host) servers(list ...string) {
	h.t.Helper()
	var text strings.Builder
	for _, s := range list {
		fmt.Fprintf(&text, "nameserver %s\n", s)
	}
	if err := os.WriteFile(h.conf, []byte(text.String()), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) does(answer func(*dns.Msg) *dns.Msg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

func query(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

// ask asks our resolver over a network, and returns the answer's data.
func (h *host) ask(network string, q *dns.Msg) (*dns.Msg, string) {
	h.t.Helper()
	m, _, err := (&dns.Client{Net: network, UDPSize: 4096, Timeout: 8 * time.Second}).Exchange(q, at.String())
	if err != nil {
		h.t.Fatalf("%v: %v", q.Question, err)
	}
	m.Compress = true // as it was sent
	var data []string
	for _, rr := range m.Answer {
		data = append(data, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(data)
	return m, strings.Join(data, " ")
}

func TestNamesOfContainersAreAnswered(t *testing.T) {
	h := start(t, zone.Network{Key: "net1", Name: "net1"})
	for _, network := range []string{"udp", "tcp"} {
		for _, tt := range []struct {
			name  string
			qtype uint16
			want  string
		}{
			{"web.", dns.TypeA, "192.168.1.2"},
			{"web.", dns.TypeAAAA, "fd80::2"},
			{"web.", dns.TypeANY, "192.168.1.2 fd80::2"},
			{"web.", dns.TypeMX, ""},
			{"v4.", dns.TypeAAAA, ""},
			{"2.1.168.192.in-addr.arpa.", dns.TypePTR, "web.net1."},
			{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.d.f.ip6.arpa.", dns.TypePTR, "web.net1."},
		} {
			m, got := h.ask(network, query(tt.name, tt.qtype))
			if got != tt.want || m.Rcode != dns.RcodeSuccess || !m.Authoritative || !m.RecursionAvailable {
				t.Errorf("%s %s %s: %q, %s", network, tt.name, dns.TypeToString[tt.qtype], got, m.MsgHdr.String())
			}
		}
	}
	if n := h.asked.Load(); n > 0 {
		t.Errorf("the host's resolver was asked %d times for names of containers", n)
	}
}

func TestOtherNamesArePassedOnAndRemembered(t *testing.T) {
	h := start(t, zone.Network{Key: "net1", Name: "net1"})
	for _, name := range []string{"example.com.", "EXAMPLE.com."} { // asked once before
		m, got := h.ask("udp", query(name, dns.TypeA))
		if got != "203.0.113.9" || m.Question[0].Name != name {
			t.Errorf("%s: %s, %v", name, got, m.Question)
		}
	}
	for range 2 {
		if m, _ := h.ask("udp", query("nobody.", dns.TypeA)); m.Rcode != dns.RcodeNameError {
			t.Errorf("an unknown name: %s", dns.RcodeToString[m.Rcode])
		}
	}
	if m, _ := h.ask("udp", query("1.113.0.203.in-addr.arpa.", dns.TypePTR)); m.Rcode != dns.RcodeNameError {
		t.Errorf("an unknown address: %s", dns.RcodeToString[m.Rcode])
	}
	if n := h.asked.Load(); n != 2 {
		t.Errorf("the host's resolver was asked %d times, want 2", n)
	}
}

func TestWhoIsNotAContainerOfThisHostIsToldNothingOfContainers(t *testing.T) {
	h := start(t)
	for _, name := range []string{"web.", "2.1.168.192.in-addr.arpa."} {
		if m, got := h.ask("udp", query(name, dns.TypeANY)); got != "" || m.Rcode != dns.RcodeNameError {
			t.Errorf("%s: %q, %s", name, got, dns.RcodeToString[m.Rcode])
		}
	}
	if _, got := h.ask("udp", query("example.com.", dns.TypeA)); got != "203.0.113.9" {
		t.Errorf("example.com: %q", got)
	}
}

func TestLongAnswersGoByTCP(t *testing.T) {
	h := start(t, zone.Network{Key: "net1", Name: "net1"})
	for name, qtype := range map[string]uint16{"many.": dns.TypeA, "long.example.com.": dns.TypeTXT} {
		plain, _ := h.ask("udp", query(name, qtype))
		if !plain.Truncated || plain.Len() > dns.MinMsgSize {
			t.Errorf("%s: %d bytes by UDP, truncated: %v", name, plain.Len(), plain.Truncated)
		}
		q := query(name, qtype)
		q.SetEdns0(4096, false)
		larger, _ := h.ask("udp", q)
		if !larger.Truncated || larger.Len() <= plain.Len() || larger.Len() > maxUDP {
			t.Errorf("%s: %d bytes by UDP with EDNS", name, larger.Len())
		}
		all, _ := h.ask("tcp", query(name, qtype))
		if all.Truncated || len(all.Answer) < 100 {
			t.Errorf("%s: %d records by TCP", name, len(all.Answer))
		}
	}
}

func TestTheHostsResolversAreTriedInTurn(t *testing.T) {
	h := start(t)
	h.does(func(r *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(r, dns.RcodeRefused) })
	if m, _ := h.ask("udp", query("refused.", dns.TypeA)); m.Rcode != dns.RcodeRefused {
		t.Errorf("the only server's refusal becomes %s", dns.RcodeToString[m.Rcode])
	}
	h.does(func(*dns.Msg) *dns.Msg { return nil })
	begun := time.Now()
	if m, _ := h.ask("udp", query("silent.", dns.TypeA)); m.Rcode != dns.RcodeServerFailure || time.Since(begun) > totalLimit {
		t.Errorf("a silent server: %s after %s", dns.RcodeToString[m.Rcode], time.Since(begun))
	}
	h.does(example)
	h.servers("127.0.0.99", upstream.String()) // nobody is at the first
	enginetest.Eventually(h.t, "the second is asked", func() bool {
		m, _ := h.ask("udp", query("example.com.", dns.TypeA))
		return m.Rcode == dns.RcodeSuccess
	})
	h.servers()
	n := 0
	enginetest.Eventually(h.t, "none is left", func() bool {
		n++ // answers are remembered
		m, _ := h.ask("udp", query(fmt.Sprintf("n%d.example.com.", n), dns.TypeA))
		return m.Rcode == dns.RcodeServerFailure
	})
}

func TestQuestionsThatAreNoneAreRefused(t *testing.T) {
	h := start(t, zone.Network{Key: "net1", Name: "net1"})
	update := query("web.", dns.TypeA)
	update.Opcode = dns.OpcodeUpdate
	if m, _ := h.ask("udp", update); m.Rcode != dns.RcodeNotImplemented {
		t.Errorf("an update: %s", dns.RcodeToString[m.Rcode])
	}
	two := query("web.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	if m, _ := h.ask("udp", two); m.Rcode != dns.RcodeFormatError {
		t.Errorf("two questions: %s", dns.RcodeToString[m.Rcode])
	}
	conn, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // nothing is buffered
	response := query("web.", dns.TypeA)
	response.Response = true
	text, err := response.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, junk := range [][]byte{text, []byte("x"), make([]byte, 3000)} {
		if _, err := conn.Write(junk); err != nil {
			t.Fatal(err)
		}
	}
	if _, got := h.ask("udp", query("web.", dns.TypeA)); got != "192.168.1.2" {
		t.Errorf("after junk: %q", got)
	}
}

func TestTheGatewaysAddressIsOfTheLinkAndComesBackWithThePort(t *testing.T) {
	nettest.NeedPrivate(t)
	if err := ensureAddress(gateway); err != nil {
		t.Fatal(err)
	}
	taken, err := net.ListenPacket("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	s := New(names{named{}}, named{}, "/nowhere", nil, slog.New(slog.DiscardHandler))
	if err := s.serve(t.Context(), at); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a port that is taken: %v", err)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	start(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	list, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.IP.Equal(gateway.AsSlice()) && a.Scope == 253 }) {
		t.Errorf("addresses %v", list)
	}
}

func TestWhatIsNotReadYetIsNotDenied(t *testing.T) {
	in := []zone.Network{{Key: "net1", Name: "net1"}}
	for name, known := range map[string]named{"read": {in: in}, "not read": {in: in, unread: true}} {
		s := New(names{known}, known, "/nowhere", nil, slog.New(slog.DiscardHandler))
		for q, want := range map[string]bool{"db.": true, "DB.net1.": true, "example.com.": false, ".": false} {
			if got := s.unsure(in, q); got != (want && known.unread) {
				t.Errorf("%s, %s: unsure %v", name, q, got)
			}
		}
	}
}

func TestOneAskerDoesNotTakeAllPlaces(t *testing.T) {
	f := newForwarder("/nowhere", nil)
	greedy, other := netip.MustParseAddr("192.168.1.2"), netip.MustParseAddr("192.168.1.3")
	n := 0
	for f.enter(greedy) {
		n++
	}
	if n != maxOfOne || !f.enter(other) {
		t.Errorf("one asker has %d places, another none", n)
	}
	f.leave(other)
	for range n {
		f.leave(greedy)
	}
	if len(f.asking) > 0 || len(f.slots) > 0 {
		t.Errorf("places are not given back: %v", f.asking)
	}
}

func TestTheAskersIdStaysHere(t *testing.T) {
	h := start(t)
	seen := make(chan uint16, 10)
	h.does(func(r *dns.Msg) *dns.Msg {
		seen <- r.Id
		m := example(r)
		if r.Question[0].Name == "swapped.example.com." {
			m.Question[0].Name = "other.example.com."
		}
		return m
	})
	q := query("id.example.com.", dns.TypeA)
	q.Id = 4711
	if m, _ := h.ask("udp", q); m.Id != 4711 {
		t.Errorf("answered with id %d", m.Id)
	}
	other := query("id2.example.com.", dns.TypeA)
	other.Id = 4711
	h.ask("udp", other)
	if a, b := <-seen, <-seen; a == 4711 && b == 4711 {
		t.Error("the host's resolver sees the asker's id")
	}
	if m, _ := h.ask("udp", query("swapped.example.com.", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("an answer to another question is believed: %s", dns.RcodeToString[m.Rcode])
	}
}

func TestMemoryLetsGo(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCache(func() time.Time { return now })
	q := query("example.com.", dns.TypeA)
	c.put(q, example(q))
	now = now.Add(59 * time.Second)
	if m := c.get(q); m == nil || m.Answer[0].Header().Ttl != 1 {
		t.Errorf("after 59 s: %v", m)
	}
	now = now.Add(time.Second)
	if m := c.get(q); m != nil {
		t.Errorf("after 60 s: %v", m)
	}
	dnssec := query("example.com.", dns.TypeA)
	dnssec.SetEdns0(1232, true)
	c.put(q, example(q))
	if c.get(dnssec) != nil {
		t.Error("signatures are asked for, and an answer without them is given")
	}
	partial := query("partial.", dns.TypeA)
	partial.RecursionDesired = false
	c.put(partial, example(q))
	partial.RecursionDesired = true
	if c.get(partial) != nil {
		t.Error("what was told without recursion is remembered")
	}
	withOPT := example(q)
	withOPT.SetEdns0(4096, false)
	c.put(q, withOPT)
	if m := c.get(q); m == nil || m.IsEdns0() != nil {
		t.Errorf("another's EDNS is told: %v", m)
	}
	edns := query("example.com.", dns.TypeA)
	edns.SetEdns0(1232, false)
	if m := c.get(edns); m == nil || m.IsEdns0() == nil {
		t.Errorf("EDNS is not answered: %v", m)
	}
	cut := example(q)
	cut.Truncated = true
	other := query("cut.", dns.TypeA)
	c.put(other, cut)
	if c.get(other) != nil {
		t.Error("a cut answer is remembered")
	}
	for i := range 3 * maxAnswers {
		q := query(fmt.Sprintf("n%d.", i), dns.TypeA)
		c.put(q, example(q))
	}
	if n := len(c.answers); n > maxAnswers {
		t.Errorf("%d answers are remembered", n)
	}
}

func TestFollowerFollowsTheNetworksInUse(t *testing.T) {
	s, err := etcdstore.New(etcdstore.Config{Endpoints: etcdtest.Shared(t).Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	put := func(k model.Key, r model.Resource) {
		t.Helper()
		if _, _, err := s.Apply(t.Context(), k, r); err != nil {
			t.Fatal(err)
		}
	}
	put(model.ReadyKey{}, new(model.Ready(true)))
	f := &Follower{Guard: s.Guard("", slog.New(slog.DiscardHandler)), Node: "node00", Askers: zone.NewAskers(), Zone: zone.New()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	me, other := netip.MustParseAddr("192.168.1.2"), netip.MustParseAddr("192.168.1.3")
	ep := endpoint.New("e1234567890", endpoint.DefaultMAC, me, netip.Addr{})
	endpoint.Annotate(ep, endpoint.Network, "net1")
	key := endpoint.Key("node00", "e1234567890")
	name := model.DockerNameKey{Network: "net1", Name: "db", Endpoint: "e2"}
	put(name, &model.DockerName{Node: "node01", Addresses: []netip.Addr{other}})
	known := func() bool {
		addrs, ok := f.Zone.Lookup(f.Askers.Networks(me), "db.")
		return ok && slices.Equal(addrs, []netip.Addr{other})
	}
	for range 2 {
		put(key, ep)
		enginetest.Eventually(t, "the name is known where a container is in the network", known)
		if _, err := s.Delete(t.Context(), name, 0); err != nil {
			t.Fatal(err)
		}
		enginetest.Eventually(t, "it goes", func() bool { return !known() })
		put(name, &model.DockerName{Node: "node01", Addresses: []netip.Addr{other}})
		enginetest.Eventually(t, "it comes back", known)
		if _, err := s.Delete(t.Context(), key, 0); err != nil {
			t.Fatal(err)
		}
		enginetest.Eventually(t, "nobody asks any more", func() bool {
			_, ok := f.Zone.Lookup([]zone.Network{{Key: "net1"}}, "db.")
			return !ok
		})
	}
}

func BenchmarkOwnName(b *testing.B) {
	n := named{in: []zone.Network{{Key: "net1", Name: "net1"}}}
	s := New(names{n}, n, "/nowhere", nil, slog.New(slog.DiscardHandler))
	q := query("web.", dns.TypeA)
	for b.Loop() {
		s.answer(gateway, q, false)
	}
}
