package calc

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"calico.internal/bgpd/internal/config"
	"calico.internal/libcalico/model"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the expected output of the scripts")

// scripts are the specification of this package: each block of "> command" lines is
// followed by what Flush then returns.
func scripts(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../testdata/calc/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	return files
}

func TestScripts(t *testing.T) {
	for _, file := range scripts(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		})
	}
}

// TestScripts_in_any_order runs the commands of scripts that say so in random orders,
// with flushes at random places: the end must be the same. Commands about one thing
// keep their order, and the configuration comes first.
func TestScripts_in_any_order(t *testing.T) {
	ran := 0
	for _, file := range scripts(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(text), "# any order") {
			continue
		}
		ran++
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			commands := commandsOf(string(text))
			want := endState(t, commands, nil)
			for seed := range uint64(200) {
				rnd := rand.New(rand.NewPCG(seed, 7))
				if diff := cmp.Diff(want, endState(t, shuffle(commands, rnd), rnd)); diff != "" {
					t.Fatalf("seed %d ends otherwise (-want +got):\n%s", seed, diff)
				}
			}
		})
	}
	if ran == 0 {
		t.Error("no script is marked with \"# any order\"")
	}
}

func commandsOf(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if c, ok := strings.CutPrefix(strings.TrimSpace(line), "> "); ok && c != "routes" && c != "problems" {
			out = append(out, c)
		}
	}
	return out
}

// subject is what a command is about: those about one subject keep their order.
func subject(command string) string {
	f := strings.Fields(command)
	switch f[0] {
	case "up", "down", "eor", "update", "withdraw":
		return "peer " + f[1]
	case "affinity":
		return f[0] + f[1] + f[2]
	case "config", "insync":
		return "config"
	case "around":
		return f[0]
	}
	return f[0] + f[1]
}

func shuffle(commands []string, rnd *rand.Rand) []string {
	streams := map[string][]string{}
	for _, c := range commands[1:] {
		streams[subject(c)] = append(streams[subject(c)], c)
	}
	out := commands[:1:1]
	for len(streams) > 0 {
		names := slices.Sorted(maps.Keys(streams))
		name := names[rnd.IntN(len(names))]
		out = append(out, streams[name][0])
		if streams[name] = streams[name][1:]; len(streams[name]) == 0 {
			delete(streams, name)
		}
	}
	return out
}

func endState(t *testing.T, commands []string, rnd *rand.Rand) string {
	s := newScript(t)
	for _, c := range commands {
		s.do(c)
		if rnd != nil && rnd.IntN(3) == 0 {
			s.e.Flush(s.now())
		}
	}
	s.e.Flush(s.now())
	return s.state()
}

func runScript(t *testing.T, text string) string {
	s := newScript(t)
	var out strings.Builder
	pending := false
	flush := func() {
		if pending {
			out.WriteString(s.flush())
		}
		pending = false
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "> "):
			fmt.Fprintln(&out, line)
			s.do(strings.TrimPrefix(line, "> "))
			pending = true
		case line == "" || strings.HasPrefix(line, "#"):
			flush()
			fmt.Fprintln(&out, line)
		}
	}
	flush()
	return out.String()
}

// script drives one engine.
type script struct {
	t     *testing.T
	e     *Engine
	clock time.Duration
	print []string
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newScript(t *testing.T) *script { return &script{t: t, e: New()} }

func (s *script) now() time.Time { return epoch.Add(s.clock) }

func (s *script) do(command string) {
	f := strings.Fields(command)
	verb, args := f[0], f[1:]
	switch verb {
	case "config":
		s.e.SetConfig(s.config(args), s.now())
	case "insync":
		s.e.SetInSync()
	case "at":
		d, err := time.ParseDuration(args[0])
		s.check(err)
		s.clock = d
	case "affinity":
		k := model.BlockAffinityKey{Node: args[0], CIDR: s.prefix(args[1])}
		if args[2] == "gone" {
			s.e.OnResource(k, nil)
			return
		}
		s.e.OnResource(k, &model.BlockAffinity{State: args[2]})
	case "node":
		s.node(args)
	case "owner":
		s.e.SetOwnerKnown(args[0], args[1] == "known")
	case "endpoint":
		s.endpoint(args)
	case "hostroute":
		s.e.SetHostRoute(s.prefix(args[0]), args[1] != "off", args[1] == "container")
	case "hop":
		s.e.SetHop(s.addr(args[0]), s.resolution(args[1:]))
	case "around":
		s.around(args)
	case "etcd":
		s.e.SetEtcd([]netip.Addr{s.addr(args[0])})
	case "adopt":
		s.e.Adopt(map[netip.Prefix]Route{s.prefix(args[0]): s.route(args[1:])}, s.now().Add(120*time.Second))
	case "up":
		s.e.PeerUp(s.addr(args[0]))
	case "down":
		s.e.PeerDown(s.addr(args[0]), len(args) > 1, s.now())
	case "eor":
		s.e.EndOfRIB(s.addr(args[0]))
	case "update":
		s.e.Update(s.addr(args[0]), s.prefix(args[1]), s.path(s.addr(args[0]), args[2:]))
	case "withdraw":
		s.e.Withdraw(s.addr(args[0]), s.prefix(args[1]))
	case "routes", "problems":
		s.print = append(s.print, verb)
	default:
		s.t.Fatalf("unknown command %q", command)
	}
}

func (s *script) flush() string {
	var b strings.Builder
	c := s.e.Flush(s.now())
	for _, p := range c.Peers {
		fmt.Fprintln(&b, mark(p.Delete), "peer", describePeer(p.Value))
	}
	for _, a := range c.Adverts {
		fmt.Fprintln(&b, mark(a.Delete), "advert", a.Key)
	}
	for _, r := range c.Routes {
		fmt.Fprintln(&b, mark(r.Delete), "route", r.Key, r.Value)
	}
	if a := s.e.Unresolved(); len(a) > 0 {
		fmt.Fprintln(&b, "? resolve", a)
	}
	if n := s.e.WantedOwners(); len(n) > 0 {
		fmt.Fprintln(&b, "? owners", n)
	}
	if d := s.e.Deadline(); !d.IsZero() {
		fmt.Fprintln(&b, "? deadline", d.Sub(epoch))
	}
	for _, what := range s.print {
		if what == "problems" {
			for _, p := range slices.Concat(s.e.Problems(), s.e.Notes()) {
				fmt.Fprintln(&b, " ", p)
			}
			continue
		}
		for _, r := range s.e.Routes() {
			fmt.Fprintln(&b, describeInfo(r))
		}
	}
	s.print = nil
	return b.String()
}

func (s *script) state() string {
	var b strings.Builder
	for _, a := range slices.SortedFunc(maps.Keys(s.e.peers), netip.Addr.Compare) {
		fmt.Fprintln(&b, "peer", describePeer(s.e.peers[a]))
	}
	for _, r := range s.e.Routes() {
		fmt.Fprintln(&b, describeInfo(r))
	}
	return b.String()
}

func mark(deleted bool) string {
	if deleted {
		return "-"
	}
	return "+"
}

func describePeer(p Peer) string {
	role := "dials"
	if p.Passive {
		role = "listens"
	}
	return fmt.Sprintf("%s %s as %d from %s %s", p.Type, p.Address, p.ASNumber, p.LocalAddress, role)
}

func describeInfo(r RouteInfo) string {
	out := fmt.Sprintf("  %s from %v", r.Prefix, r.NextHops)
	if r.Wanted {
		out += " = " + r.Route.String()
	}
	if r.Advertised {
		out += " advertised"
	}
	if r.Why != "" {
		out += " not installed: " + r.Why
	}
	return out
}

func (s *script) config(args []string) config.Config {
	c := config.Config{Node: "n1", ASNumber: 64512, Mesh: true, Timers: config.Timers{Restart: 120 * time.Second}}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "node":
			c.Node = value
		case "listen":
			for a := range strings.SplitSeq(value, ",") {
				c.Listen = append(c.Listen, s.addr(a))
			}
		case "mesh":
			c.Mesh = value != "off"
		case "net":
			c.Networks = append(c.Networks, s.prefix(value))
		case "pool":
			c.Pools = append(c.Pools, s.pool(value))
		case "peer":
			kind, addr, _ := strings.Cut(value, ":")
			c.Peers = append(c.Peers, config.Peer{Name: value, Type: config.PeerType(kind), Address: s.addr(addr), ASNumber: 64512})
		case "import":
			c.Import = config.Import{DefaultRoute: strings.Contains(value, "default"), CoveringNodes: strings.Contains(value, "covering")}
		default:
			s.t.Fatalf("unknown setting %q", arg)
		}
	}
	slices.SortFunc(c.Peers, func(a, b config.Peer) int { return a.Address.Compare(b.Address) })
	return c
}

func (s *script) pool(value string) config.Pool {
	cidr, options, _ := strings.Cut(value, ",")
	return config.Pool{
		CIDR:     s.prefix(cidr),
		IPIP:     config.IPIPMode(strings.TrimSuffix(strings.TrimSuffix(options, "disabled"), "noexport")),
		Disabled: options == "disabled",
		Export:   options != "noexport",
	}
}

func (s *script) node(args []string) {
	k := model.NodeKey{Name: args[0]}
	if args[1] == "gone" {
		s.e.OnResource(k, nil)
		return
	}
	n := &model.Node{}
	for a := range strings.SplitSeq(args[1], ",") {
		if a := s.addr(a); a.Is4() {
			n.IPv4 = a
		} else {
			n.IPv6 = a
		}
	}
	s.e.OnResource(k, n)
}

func (s *script) endpoint(args []string) {
	k := model.WorkloadEndpointKey{Node: "n1", Orchestrator: "libnetwork", Workload: "libnetwork", Name: args[0]}
	if args[1] == "gone" {
		s.e.OnResource(k, nil)
		return
	}
	w := &model.WorkloadEndpoint{}
	for a := range strings.SplitSeq(args[1], ",") {
		if p := s.prefix(a); p.Addr().Is4() {
			w.IPv4Nets = append(w.IPv4Nets, p)
		} else {
			w.IPv6Nets = append(w.IPv6Nets, p)
		}
	}
	if len(args) > 2 {
		w.IPv4NAT = []model.NAT{{Internal: w.IPv4Nets[0].Addr(), External: s.addr(args[2])}}
	}
	s.e.OnResource(k, w)
}

func (s *script) route(args []string) Route {
	if args[0] == "blackhole" {
		return Route{Type: Blackhole}
	}
	return Route{Hops: s.resolution(args).Hops}
}

func (s *script) resolution(args []string) Resolution {
	if args[0] == "why" {
		return Resolution{Why: strings.Join(args[1:], " ")}
	}
	var r Resolution
	for ; len(args) >= 4; args = args[4:] {
		link, err := strconv.Atoi(args[3])
		s.check(err)
		r.Hops = append(r.Hops, Hop{Gateway: s.addr(args[1]), Link: link})
	}
	return r
}

// around takes networks and gateways in any order.
func (s *script) around(args []string) {
	var around Surroundings
	for _, arg := range args {
		if strings.Contains(arg, "/") {
			around.Networks = append(around.Networks, s.prefix(arg))
		} else {
			around.Gateways = append(around.Gateways, s.addr(arg))
		}
	}
	s.e.SetSurroundings(around)
}

func (s *script) path(peer netip.Addr, args []string) Path {
	p := Path{NextHop: peer, LocalPref: 100}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		if key == "via" {
			p.NextHop = s.addr(value)
			continue
		}
		n, err := strconv.Atoi(value)
		s.check(err)
		switch key {
		case "pref":
			p.LocalPref = uint32(n)
		case "aslen":
			p.ASPathLen = n
		case "as":
			p.NeighborAS, p.External = uint32(n), true
		case "med":
			p.MED = uint32(n)
		case "origin":
			p.Origin = uint8(n)
		case "clusters":
			p.ClusterLen = n
		default:
			s.t.Fatalf("unknown attribute %q", arg)
		}
	}
	return p
}

func (s *script) addr(v string) netip.Addr {
	a, err := netip.ParseAddr(v)
	s.check(err)
	return a
}

func (s *script) prefix(v string) netip.Prefix {
	p, err := netip.ParsePrefix(v)
	s.check(err)
	return p
}

func (s *script) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}
