package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"calico.internal/calicoctl/internal/printer"
)

// PrintJSON writes the state as one JSON document.
func (s Status) PrintJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(s)
}

// Print writes the state as people read it. The first line and the tables of sessions are those
// of the original, which scripts know.
func (s Status) Print(w io.Writer, now time.Time) error {
	if s.Running {
		fmt.Fprintln(w, "Calico process is running.")
	} else {
		fmt.Fprintln(w, "Calico process is not running.")
	}
	s.printHost(w, now)
	if err := s.printPrograms(w, now); err != nil {
		return err
	}
	if s.BGP {
		err := errors.Join(s.printFamily(w, "IPv4", now, netip.Addr.Is4), s.printFamily(w, "IPv6", now, netip.Addr.Is6))
		if err != nil {
			return err
		}
	} else if s.Running {
		fmt.Fprintln(w, "\nNone of the BGP backend processes (bgpd) are running.")
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "PROBLEM: %s: %s\n", p.Object, p.Reason)
		if p.Cure != "" {
			fmt.Fprintf(w, "   CURE: %s\n", p.Cure)
		}
	}
	for _, n := range s.Notes {
		fmt.Fprintln(w, "NOTE:", n)
	}
	return nil
}

// printHost writes what is known of the host as a whole.
func (s Status) printHost(w io.Writer, now time.Time) {
	var lines [][2]string
	add := func(name, format string, args ...any) {
		lines = append(lines, [2]string{name + ":", fmt.Sprintf(format, args...)})
	}
	if s.Version != "" {
		add("Node", "%s, %s; calico-node %s since %s", orUnknown(s.Node), s.State, s.Version, since(s.Started, now))
	} else if s.Node != "" {
		add("Node", "%s, %s", s.Node, s.State)
	}
	if s.Identity != nil {
		add("Identity", "%s, boot %s", s.Identity.ID, s.Identity.Boot)
	}
	if len(s.Addresses) > 0 {
		add("Addresses", "%s", strings.Join(s.Addresses, ", "))
	}
	if d := s.Datastore; d != nil {
		state := "connected"
		if !d.Connected {
			state = "does not answer"
		}
		add("Datastore", "%s, %s since %s", strings.Join(d.Endpoints, ","), state, since(d.Since, now))
	}
	if e := s.Engine; e != nil {
		state := "connected"
		if !e.Connected {
			state = "does not answer"
		}
		add("Docker", "engine %s, networks of scope %s", state, e.Scope)
	}
	if s.Dataplane != "" {
		add("Dataplane", "%s", s.Dataplane)
	}
	if s.Backend != "" {
		add("BGP backend", "%s", s.Backend)
	}
	if len(lines) > 0 {
		fmt.Fprintln(w)
	}
	for _, l := range lines {
		fmt.Fprintf(w, "%-12s %s\n", l[0], l[1])
	}
}

func orUnknown(name string) string {
	if name == "" {
		return "(not yet a node)"
	}
	return name
}

func (s Status) printPrograms(w io.Writer, now time.Time) error {
	if s.Version == "" && !s.Running && !s.BGP {
		return nil // nothing runs
	}
	rows := [][]string{{"PROGRAM", "STATE", "SINCE", "RESTARTS", "LAST EXIT"}}
	for _, p := range s.Programs {
		began := ""
		if !p.Since.IsZero() {
			began = since(p.Since, now)
		}
		rows = append(rows, []string{p.Name, p.State, began, strconv.Itoa(int(p.Restarts)), p.LastExit})
	}
	fmt.Fprintln(w)
	return printer.WriteBox(w, rows, len(rows[0]))
}

func (s Status) printFamily(w io.Writer, name string, now time.Time, family func(netip.Addr) bool) error {
	rows := [][]string{{"PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"}}
	for _, p := range s.Peers {
		if a, err := netip.ParseAddr(p.Address); err == nil && family(a) {
			rows = append(rows, []string{p.Address, p.Type, p.State, since(p.Since, now), p.Info})
		}
	}
	fmt.Fprintf(w, "\n%s BGP status\n", name)
	if len(rows) == 1 {
		_, err := fmt.Fprintf(w, "No %s peers found.\n", name)
		return err
	}
	return printer.WriteBox(w, rows, len(rows[0]))
}

// since is a time of today, or a date.
func since(t, now time.Time) string {
	switch {
	case t.IsZero():
		return "never"
	case now.Sub(t) < 24*time.Hour:
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateOnly)
}
