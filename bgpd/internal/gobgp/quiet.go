package gobgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"calico.internal/libcalico/logattr"
	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// diagnoseFor is how long after a session fell we ask GoBGP to tell of each failed
// attempt: long enough for the first ones. It costs time on every path, so not always.
const diagnoseFor = 5 * time.Second

// quiet is GoBGP's logger. Hardly anything of what GoBGP says is for a log, but its
// fields are the only place where it tells why a session is down.
type quiet struct {
	log *slog.Logger
	// reason is told why a peer's session fell or does not come up. A text that is not
	// better than one that is known already is marked as vague.
	reason func(peer netip.Addr, text string, vague bool)
	// diagnoseUntil is a time in Unix nanoseconds.
	diagnoseUntil atomic.Int64
}

func (q *quiet) diagnose() { q.diagnoseUntil.Store(time.Now().Add(diagnoseFor).UnixNano()) }

// GetLevel implements GoBGP's logger: some lines are made only if the level asks.
func (q *quiet) GetLevel() log.LogLevel {
	if time.Now().UnixNano() < q.diagnoseUntil.Load() {
		return log.DebugLevel
	}
	return log.InfoLevel
}

// SetLevel implements GoBGP's logger; the level is ours to choose.
func (q *quiet) SetLevel(log.LogLevel) {}

// Panic implements GoBGP's logger. GoBGP means it to end the program; a bug in one
// session is no reason to cut off a host.
func (q *quiet) Panic(msg string, f log.Fields) { q.line(slog.LevelError, msg, f) }

// Fatal implements GoBGP's logger; see Panic.
func (q *quiet) Fatal(msg string, f log.Fields) { q.line(slog.LevelError, msg, f) }

// Error implements GoBGP's logger.
func (q *quiet) Error(msg string, f log.Fields) { q.line(slog.LevelWarn, msg, f) }

// Warn implements GoBGP's logger.
func (q *quiet) Warn(msg string, f log.Fields) {
	switch msg {
	case "sent notification":
		if e, ok := f["Data"].(*bgp.MessageError); ok {
			q.tell(f, "refused by this side: "+e.Message)
		}
	case "received notification":
		code, _ := f["Code"].(uint8)
		subcode, _ := f["Subcode"].(uint8)
		q.tell(f, notified+notification(code, subcode))
	case "failed to set md5", "failed to unset md5":
		// GoBGP keeps the listeners that it closed, and tries those as well.
		if err, ok := f["Err"].(error); !ok || !errors.Is(err, net.ErrClosed) {
			q.line(slog.LevelWarn, msg, f)
			return
		}
	}
	q.line(slog.LevelDebug, msg, f)
}

// Info implements GoBGP's logger.
func (q *quiet) Info(msg string, f log.Fields) {
	if reason, ok := f["Reason"].(string); ok && msg == "Peer Down" {
		q.tell(f, downReason(reason))
	}
	q.line(slog.LevelDebug, msg, f)
}

// Debug implements GoBGP's logger.
func (q *quiet) Debug(msg string, f log.Fields) {
	switch msg {
	case "failed to connect":
		if err, ok := f["Error"].(error); ok {
			q.tell(f, "cannot connect: "+lastPart(err))
		}
	case "state changed":
		q.onState(f)
	}
	q.line(slog.LevelDebug, msg, f)
}

// onState learns from a change of state why a session was not opened. What was known
// before a new attempt no longer counts.
func (q *quiet) onState(f log.Fields) {
	opening := []any{bgp.BGP_FSM_OPENSENT.String(), bgp.BGP_FSM_OPENCONFIRM.String()}
	switch {
	case f["new"] == opening[0]:
		q.tell(f, "")
	case f["new"] == bgp.BGP_FSM_IDLE.String() && slices.Contains(opening, f["old"]):
		q.tellVaguely(f, openReason(fmt.Sprint(f["reason"])))
	}
}

func (q *quiet) tell(f log.Fields, text string) {
	if a, ok := peerOf(f); ok {
		q.reason(a, text, false)
	}
}

func (q *quiet) tellVaguely(f log.Fields, text string) {
	if a, ok := peerOf(f); ok {
		q.reason(a, text, true)
	}
}

func peerOf(f log.Fields) (netip.Addr, bool) {
	a, err := netip.ParseAddr(fmt.Sprint(f["Key"]))
	return a, err == nil
}

func (q *quiet) line(level slog.Level, msg string, f log.Fields) {
	if !q.log.Enabled(context.Background(), level) {
		return
	}
	q.log.Log(context.Background(), level, "gobgp", logattr.Peer, f["Key"], "what", msg, "fields", fmt.Sprint(map[string]any(f)))
}

// notified starts the reason of a session that the peer ended.
const notified = "ended by the peer: "

// downReason puts GoBGP's words for the end of a session into ours.
func downReason(s string) string {
	switch s {
	case "read-failed", "write-failed", "graceful-restart":
		return "the connection was lost"
	case "hold-timer-expired":
		return "the peer was silent for the hold time"
	case "dying", "unknown":
		return "ended by this side"
	}
	if rest, ok := strings.CutPrefix(s, "notification-received "); ok {
		return notified + rest
	}
	if rest, ok := strings.CutPrefix(s, "notification-sent "); ok {
		return "ended by this side: " + rest
	}
	return s
}

// openReason says why a session did not get as far as established.
func openReason(s string) string {
	switch s {
	case "invalid-msg":
		return "the peer refused the session: check AS numbers and router ids on both sides"
	case "read-failed", "write-failed":
		return "the peer closed the connection: check that it knows this host as a peer"
	}
	return downReason(s)
}

func notification(code, subcode uint8) string {
	return bgp.NewNotificationErrorCode(code, subcode).String()
}

// lastPart is the cause at the end of a chain of errors: "connection refused".
func lastPart(err error) string {
	s := err.Error()
	if i := strings.LastIndex(s, ": "); i >= 0 {
		return s[i+2:]
	}
	return s
}
