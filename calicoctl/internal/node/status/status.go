// Package status asks the programs of this host how they are, over their sockets, and
// prints the answer.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"calico.internal/calicoctl/internal/printer"
	"calico.internal/libcalico/grpcsock"
	bgpdv1 "calico.internal/proto/bgpd/v1"
	felixv1 "calico.internal/proto/felix/v1"
)

// Peer is a BGP session as it is shown.
type Peer struct {
	Address string    `json:"address"`
	Type    string    `json:"type"`
	State   string    `json:"state"`
	Since   time.Time `json:"since,omitzero"`
	Info    string    `json:"info"`
	AS      uint32    `json:"asNumber"`
}

// Status is the state of this host.
type Status struct {
	Node    string `json:"node,omitempty"`
	Running bool   `json:"running"`
	// BGP is false when the host runs no BGP daemon.
	BGP   bool   `json:"bgp"`
	Peers []Peer `json:"peers"`
	// Problems say what is not as it should be.
	Problems []string `json:"problems,omitempty"`
	// Notes say what is configured and done otherwise.
	Notes []string `json:"notes,omitempty"`
}

// Read asks felix and bgpd by the sockets in a folder.
func Read(ctx context.Context, runDir string) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s := Status{Peers: []Peer{}}
	if err := s.readFelix(ctx, filepath.Join(runDir, "felix.sock")); err != nil {
		return s, err
	}
	return s, s.readBGP(ctx, filepath.Join(runDir, "bgpd.sock"))
}

func (s *Status) readFelix(ctx context.Context, socket string) error {
	conn, err := grpcsock.Dial(socket)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // only asked
	answer, err := felixv1.NewFelixClient(conn).Status(ctx, &felixv1.StatusRequest{})
	switch {
	case errors.Is(err, os.ErrPermission) || strings.Contains(grpcstatus.Convert(err).Message(), "permission denied"):
		return errors.New("Need super user privileges: Operation not permitted") //nolint:staticcheck // ST1005: the original's message
	case grpcstatus.Code(err) == codes.Unavailable:
		return nil
	case err != nil:
		s.Problems = append(s.Problems, "felix does not answer: "+grpcstatus.Convert(err).Message())
		return nil
	}
	s.Running, s.Node = true, answer.GetNode()
	if !answer.GetInSync() {
		s.Problems = append(s.Problems, "felix has not yet programmed the kernel")
	}
	if !answer.GetDatastoreConnected() {
		s.Problems = append(s.Problems, "felix does not reach etcd; what is in force stays so")
	}
	for _, p := range answer.GetProblems() {
		s.Problems = append(s.Problems, fmt.Sprintf("felix: %s: %s", p.GetObject(), p.GetReason()))
	}
	return nil
}

func (s *Status) readBGP(ctx context.Context, socket string) error {
	if _, err := os.Stat(socket); err != nil {
		return nil //nolint:nilerr // no socket: the host runs without BGP
	}
	conn, err := grpcsock.Dial(socket)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // only asked
	client := bgpdv1.NewBgpdClient(conn)
	state, err := client.Status(ctx, &bgpdv1.StatusRequest{})
	if err != nil {
		s.Problems = append(s.Problems, "bgpd does not answer: "+grpcstatus.Convert(err).Message())
		return nil
	}
	s.BGP = true
	if e := state.GetConfigError(); e != "" {
		s.Problems = append(s.Problems, "bgpd runs the last good configuration, the newest is refused: "+e)
	}
	for _, p := range state.GetProblems() {
		s.Problems = append(s.Problems, "bgpd: "+p)
	}
	s.Notes = state.GetNotes()
	answer, err := client.ListPeers(ctx, &bgpdv1.ListPeersRequest{})
	if err != nil {
		s.Problems = append(s.Problems, "bgpd does not answer: "+grpcstatus.Convert(err).Message())
		return nil
	}
	for _, p := range answer.GetPeers() {
		s.Peers = append(s.Peers, shown(p))
	}
	return nil
}

var typeNames = map[bgpdv1.PeerType]string{
	bgpdv1.PeerType_PEER_TYPE_MESH:   "node-to-node mesh",
	bgpdv1.PeerType_PEER_TYPE_GLOBAL: "global",
	bgpdv1.PeerType_PEER_TYPE_NODE:   "node specific",
}

// shown gives a session the words that users know from BIRD: up or start, and the BGP
// state as the information.
func shown(p *bgpdv1.Peer) Peer {
	out := Peer{Address: p.GetAddress(), Type: typeNames[p.GetType()], State: "start", AS: p.GetAsNumber()}
	if p.GetSince() != nil {
		out.Since = p.GetSince().AsTime().Local()
	}
	if p.GetState() == "established" {
		out.State = "up"
	}
	out.Info = capitalised(p.GetState())
	if p.GetInfo() != "" && out.State != "up" {
		out.Info += ": " + p.GetInfo()
	}
	return out
}

func capitalised(word string) string {
	for i, r := range word {
		return string(unicode.ToUpper(r)) + word[i+len(string(r)):]
	}
	return word
}

// Healthy reports whether nothing is wrong with the host's own programs. Sessions
// that other hosts do not answer do not count.
func (s Status) Healthy() bool { return s.Running && len(s.Problems) == 0 }

// PrintJSON writes the state as one JSON document.
func (s Status) PrintJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(s)
}

// Print writes the state as people read it.
func (s Status) Print(w io.Writer, now time.Time) error {
	if s.Running {
		fmt.Fprintln(w, "Calico process is running.")
	} else {
		fmt.Fprintln(w, "Calico process is not running.")
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
		fmt.Fprintln(w, "PROBLEM:", p)
	}
	for _, n := range s.Notes {
		fmt.Fprintln(w, "NOTE:", n)
	}
	return nil
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
