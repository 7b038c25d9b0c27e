package rules

import (
	"fmt"
	"strconv"
	"strings"
)

// String is the rule in a neutral form for people: conditions, "→", action, and after
// "#" where it comes from.
func (r Rule) String() string {
	s := strings.TrimSpace(r.Match.String() + " → " + r.Action.String())
	switch {
	case r.Origin != nil:
		s += "  # " + r.Origin.String()
	case r.Comment != "":
		s += "  # " + r.Comment
	}
	return s
}

// String lists the conditions; empty when everything matches.
func (m Match) String() string {
	var w words
	w.iface("in", m.In)
	w.iface("out", m.Out)
	if m.Protocol != 0 {
		w.add("", "proto "+m.Protocol.String())
	}
	if m.NotProtocol != 0 {
		w.add("not ", "proto "+m.NotProtocol.String())
	}
	w.net("src", m.Source)
	w.net("dst", m.Destination)
	w.tristate("src is local", m.SourceLocal)
	w.tristate("dst is local", m.DestinationLocal)
	for _, p := range m.Ports {
		var list []string
		for _, r := range p.Ranges {
			list = append(list, r.String())
		}
		w.add(not(p.Not), p.Side.String()+" port "+strings.Join(list, ","))
	}
	for _, i := range m.ICMP {
		w.add(not(i.Not), "icmp "+i.String())
	}
	for _, s := range m.Sets {
		what := s.Side.String()
		if s.WithPort {
			what += " with port"
		}
		w.add(not(s.Not), what+" in "+s.Name)
	}
	if m.Conn != 0 {
		w.add("", "conn "+m.Conn.String())
	}
	if m.DNAT != DontCare {
		w.add(not(m.DNAT == No), "dnat")
	}
	if m.Socket {
		w.add("", "socket")
	}
	if m.RPFilterFails {
		w.add("", "source comes another way")
	}
	if m.Mark.Mask != 0 {
		w.add("", "mark "+m.Mark.String())
	}
	return strings.Join(w, " and ")
}

type words []string

func (w *words) add(not, text string) { *w = append(*w, not+text) }

func (w *words) iface(end string, i Interface) {
	if i.Name == "" {
		return
	}
	name := i.Name
	if i.Prefix {
		name += "*"
	}
	w.add(not(i.Not), end+" "+name)
}

func (w *words) net(end string, n Net) {
	if n.IsValid() {
		w.add(not(n.Not), end+" "+n.Prefix.String())
	}
}

func (w *words) tristate(text string, t Tristate) {
	if t != DontCare {
		w.add(not(t == No), text)
	}
}

func not(n bool) string {
	if n {
		return "not "
	}
	return ""
}

// String is the type, and the code behind a slash.
func (i ICMP) String() string {
	if i.Code == nil {
		return strconv.Itoa(int(i.Type))
	}
	return fmt.Sprintf("%d/%d", i.Type, *i.Code)
}

// String is the value and the mask.
func (m Mark) String() string { return fmt.Sprintf("%#x/%#x", m.Value, m.Mask) }

// String lists the states.
func (c ConnState) String() string {
	var list []string
	for _, s := range []struct {
		state ConnState
		name  string
	}{
		{Established, "established"},
		{Related, "related"},
		{Invalid, "invalid"},
		{New, "new"},
		{UntrackedState, "untracked"},
	} {
		if c&s.state != 0 {
			list = append(list, s.name)
		}
	}
	return strings.Join(list, ",")
}

// String is the verb as text.
func (v Verb) String() string {
	switch v {
	case Drop:
		return "drop"
	case Accept:
		return "accept"
	case Reject:
		return "reject"
	case Return:
		return "return"
	case Jump:
		return "jump"
	case Goto:
		return "goto"
	case SetMark:
		return "set mark"
	case ClearMark:
		return "clear mark"
	case Log:
		return "log"
	case NoTrack:
		return "notrack"
	case Masquerade:
		return "masquerade"
	case DNAT:
		return "dnat to"
	case SNAT:
		return "snat to"
	}
	return "verb " + strconv.Itoa(int(v))
}

// String is the verb with its argument.
func (a Action) String() string {
	switch a.Verb {
	case Jump, Goto:
		return a.Verb.String() + " " + a.Chain
	case SetMark, ClearMark:
		return fmt.Sprintf("%s %#x", a.Verb, a.Mark)
	case Log:
		return fmt.Sprintf("log %q", a.Prefix)
	case DNAT, SNAT:
		return a.Verb.String() + " " + a.To.String()
	case Drop, Accept, Reject, Return, NoTrack, Masquerade:
	}
	return a.Verb.String()
}
