package iptables

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
)

// The limits of what the kernel takes.
const (
	maxChainName = rules.MaxChainName
	maxSetName   = rules.MaxSetName
	maxInterface = 15
	maxLogPrefix = 29
	maxComment   = 200
	logLevel     = 5
)

// errUnsafe is part of the error of a rule that cannot be printed because one of its
// values could be taken for something else than a value.
var errUnsafe = errors.New("value not allowed in a rule")

// appendRule writes a rule behind out as iptables-restore reads it, without the chain and
// without felix's hash. It fails when a value is not of the form that the option needs, so
// that whatever comes from the datastore can never become an option of its own.
func appendRule(out []byte, f rules.Family, r *rules.Rule) ([]byte, error) {
	p := printer{family: f, out: out, start: len(out)}
	if comment := cleanText(r.Comment, maxComment); comment != "" {
		p.add("-m", "comment", "--comment")
		p.quoted(comment)
	}
	p.match(&r.Match)
	p.action(&r.Action)
	return p.out, p.err
}

// printer puts the words of a rule behind each other; the first fault stays in err.
type printer struct {
	family rules.Family
	out    []byte
	// start is where the rule begins in out.
	start int
	err   error
}

func (p *printer) space() {
	if len(p.out) > p.start {
		p.out = append(p.out, ' ')
	}
}

// add adds words. An empty one at the end makes the space before what is appended to out.
func (p *printer) add(words ...string) {
	for _, w := range words {
		p.space()
		p.out = append(p.out, w...)
	}
}

func (p *printer) quoted(text string) {
	p.add(`"`)
	p.out = append(p.out, text...)
	p.out = append(p.out, '"')
}

func (p *printer) number(n int) {
	p.space()
	p.out = strconv.AppendInt(p.out, int64(n), 10)
}

// masked adds a value and a mask in hexadecimal.
func (p *printer) masked(value, mask uint32) {
	p.add("0x")
	p.out = strconv.AppendUint(p.out, uint64(value), 16)
	p.out = append(p.out, "/0x"...)
	p.out = strconv.AppendUint(p.out, uint64(mask), 16)
}

func (p *printer) fail(what, value string) {
	if p.err == nil {
		p.err = fmt.Errorf("%s %q: %w", what, value, errUnsafe)
	}
}

func (p *printer) not(not bool) {
	if not {
		p.add("!")
	}
}

func (p *printer) match(m *rules.Match) {
	p.iface("-i", m.In)
	p.iface("-o", m.Out)
	p.protocol(m.Protocol, false)
	p.protocol(m.NotProtocol, true)
	p.net("-s", m.Source)
	p.net("-d", m.Destination)
	if m.Mark.Mask != 0 {
		p.add("-m", "mark", "--mark")
		p.masked(m.Mark.Value, m.Mark.Mask)
	}
	for _, s := range m.Sets {
		p.set(s)
	}
	for _, ports := range m.Ports {
		p.ports(m.Protocol, ports)
	}
	for _, i := range m.ICMP {
		p.icmp(m.Protocol, i)
	}
	p.conn(m.Conn, m.DNAT)
	p.addrType(m.SourceLocal, m.DestinationLocal)
	if m.Socket {
		p.add("-m", "socket", "--nowildcard")
	}
	if m.RPFilterFails {
		p.add("-m", "rpfilter", "--validmark", "--invert")
	}
}

func (p *printer) iface(option string, i rules.Interface) {
	if i.Name == "" {
		return
	}
	limit := maxInterface
	if i.Prefix {
		limit--
	}
	if len(i.Name) > limit || strings.HasSuffix(i.Name, "+") || !safeWord(i.Name) || strings.Contains(i.Name, "/") {
		p.fail("interface", i.Name)
		return
	}
	p.not(i.Not)
	p.add(option, i.Name)
	if i.Prefix {
		p.out = append(p.out, '+')
	}
}

func (p *printer) protocol(proto desired.Protocol, not bool) {
	if proto == 0 {
		return
	}
	p.not(not)
	p.add("-p")
	p.number(int(proto))
}

func (p *printer) net(option string, n rules.Net) {
	if n.Prefix == (netip.Prefix{}) {
		return
	}
	if !n.IsValid() || !p.family.Of(n.Prefix) || n.Addr().Zone() != "" {
		p.fail("network", n.String())
		return
	}
	p.not(n.Not)
	p.add(option, "")
	p.out = n.Masked().AppendTo(p.out)
}

func (p *printer) set(s rules.Set) {
	if len(s.Name) > maxSetName || !safeWord(s.Name) {
		p.fail("set", s.Name)
		return
	}
	p.add("-m", "set")
	p.not(s.Not)
	p.add("--match-set", s.Name, s.Side.String())
	if s.WithPort {
		p.out = append(append(p.out, ','), s.Side.String()...)
	}
}

func (p *printer) ports(proto desired.Protocol, ports rules.Ports) {
	switch proto {
	case desired.TCP, desired.UDP, desired.SCTP, desired.UDPLite:
	default:
		p.fail("ports with protocol", proto.String())
		return
	}
	slots := 0
	for _, r := range ports.Ranges {
		slots++
		if r.First != r.Last {
			slots++
		}
		if r.First > r.Last {
			p.fail("port range", r.String())
		}
	}
	if slots == 0 || slots > rules.MaxPorts {
		p.fail("port list", fmt.Sprint(ports.Ranges))
		return
	}
	p.add("-m", "multiport")
	p.not(ports.Not)
	if ports.Side == rules.Src {
		p.add("--sports", "")
	} else {
		p.add("--dports", "")
	}
	for i, r := range ports.Ranges {
		if i > 0 {
			p.out = append(p.out, ',')
		}
		p.out = append(p.out, r.String()...)
	}
}

func (p *printer) icmp(proto desired.Protocol, i rules.ICMP) {
	module, want := "icmp", desired.ICMPv4
	if p.family == rules.V6 {
		module, want = "icmp6", desired.ICMPv6
	}
	if proto != want {
		p.fail("ICMP match with protocol", proto.String())
		return
	}
	p.add("-m", module)
	p.not(i.Not)
	if p.family == rules.V6 {
		p.add("--icmpv6-type")
	} else {
		p.add("--icmp-type")
	}
	p.number(int(i.Type))
	if i.Code != nil {
		p.out = strconv.AppendUint(append(p.out, '/'), uint64(*i.Code), 10)
	}
}

// connStates are the names of the states of connection tracking.
var connStates = [...]struct {
	state rules.ConnState
	name  string
}{
	{rules.Related, "RELATED"},
	{rules.Established, "ESTABLISHED"},
	{rules.Invalid, "INVALID"},
	{rules.New, "NEW"},
	{rules.UntrackedState, "UNTRACKED"},
}

func (p *printer) conn(states rules.ConnState, dnat rules.Tristate) {
	if states != 0 {
		p.add("-m", "conntrack", "--ctstate", "")
		separate := false
		for _, s := range connStates {
			if states&s.state == 0 {
				continue
			}
			if separate {
				p.out = append(p.out, ',')
			}
			p.out = append(p.out, s.name...)
			separate = true
		}
	}
	if dnat == rules.DontCare {
		return
	}
	p.add("-m", "conntrack")
	p.not(dnat == rules.No)
	p.add("--ctstate", "DNAT")
}

func (p *printer) addrType(src, dst rules.Tristate) {
	if src == rules.DontCare && dst == rules.DontCare {
		return
	}
	p.add("-m", "addrtype")
	for _, side := range []struct {
		option string
		want   rules.Tristate
	}{{"--src-type", src}, {"--dst-type", dst}} {
		if side.want == rules.DontCare {
			continue
		}
		p.not(side.want == rules.No)
		p.add(side.option, "LOCAL")
	}
}

func (p *printer) action(a *rules.Action) {
	switch a.Verb {
	case rules.Drop:
		p.add("-j", "DROP")
	case rules.Accept:
		p.add("-j", "ACCEPT")
	case rules.Reject:
		p.add("-j", "REJECT")
	case rules.Return:
		p.add("-j", "RETURN")
	case rules.Jump:
		p.chain("-j", a.Chain)
	case rules.Goto:
		p.chain("-g", a.Chain)
	case rules.SetMark:
		p.add("-j", "MARK", "--set-xmark")
		p.masked(a.Mark, a.Mark)
	case rules.ClearMark:
		p.add("-j", "MARK", "--set-xmark")
		p.masked(0, a.Mark)
	case rules.Log:
		p.add("-j", "LOG", "--log-level")
		p.number(logLevel)
		if prefix := cleanText(a.Prefix, maxLogPrefix); prefix != "" {
			p.add("--log-prefix")
			p.quoted(prefix)
		}
	case rules.NoTrack:
		p.add("-j", "CT", "--notrack")
	case rules.Masquerade:
		p.add("-j", "MASQUERADE")
	case rules.DNAT:
		p.rewrite("DNAT", "--to-destination", a.To)
	case rules.SNAT:
		p.rewrite("SNAT", "--to-source", a.To)
	default:
		p.fail("action", strconv.Itoa(int(a.Verb)))
	}
}

// rewrite prints a rewriting of an address. An IPv6 address needs no brackets, since no
// port follows.
func (p *printer) rewrite(target, option string, to netip.Addr) {
	if !to.IsValid() || to.Is4() != (p.family == rules.V4) || to.Is4In6() || to.Zone() != "" {
		p.fail(option, to.String())
		return
	}
	p.add("-j", target, option, to.String())
}

func (p *printer) chain(option, name string) {
	if err := checkChainName(name); err != nil {
		p.fail("chain", name)
		return
	}
	p.add(option, name)
}

// checkChainName reports a name that is not one plain word of the allowed length.
func checkChainName(name string) error {
	if len(name) > maxChainName || !safeWord(name) {
		return fmt.Errorf("chain %q: %w", name, errUnsafe)
	}
	return nil
}

// safeWord reports whether s can stand on a line of iptables-restore as one word that is
// neither an option nor a negation nor a comment.
func safeWord(s string) bool {
	if s == "" || s[0] == '-' || s[0] == '!' || s[0] == ':' || s[0] == '*' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\'' || c == '\\' || c == '#' || c == '`' {
			return false
		}
	}
	return true
}

// cleanText makes of s what can stand between the quotes of a comment or a log prefix:
// printable ASCII without quotes and backslashes, at most limit bytes.
func cleanText(s string, limit int) string {
	if len(s) <= limit && !strings.ContainsFunc(s, unclean) {
		return s
	}
	var b strings.Builder
	for _, c := range s {
		if b.Len() == limit {
			break
		}
		if unclean(c) {
			c = '_'
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}

func unclean(c rune) bool {
	return c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '\'' || c == '`'
}
