// Package logattr is the one list of slog attribute keys of the project, and makes
// the loggers that use them.
package logattr

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// The keys of log attributes. A program logs a thing under the same key as all
// others do.
const (
	Addr       = "addr"
	Block      = "block"
	Chain      = "chain"
	Cluster    = "cluster"
	Container  = "container"
	Count      = "count"
	Deleted    = "deleted"
	Dir        = "dir"
	Endpoint   = "endpoint"
	Endpoints  = "endpoints"
	Err        = "err"
	File       = "file"
	Handle     = "handle"
	Iface      = "iface"
	Key        = "key"
	Kind       = "kind"
	Method     = "method"
	Network    = "network"
	NextHop    = "next_hop"
	Node       = "node"
	Peer       = "peer"
	PID        = "pid"
	Policy     = "policy"
	Pool       = "pool"
	Prefix     = "prefix"
	Profile    = "profile"
	Program    = "program"
	Repeated   = "repeated"
	Rev        = "rev"
	Selector   = "selector"
	Set        = "set"
	Socket     = "socket"
	State      = "state"
	Table      = "table"
	Tier       = "tier"
	Took       = "took"
	Tries      = "tries"
	Version    = "version"
	Why        = "why"
	WithinSecs = "within_s"
)

// The formats that [New] knows.
const (
	FormatText = "text"
	FormatJSON = "json"
)

// New makes a logger that writes to w in the given format (anything but
// [FormatJSON] means [FormatText]) and limits repeated errors (see [NewRepeat]).
func New(w io.Writer, level slog.Leveler, format string) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == FormatJSON {
		return slog.New(NewRepeat(slog.NewJSONHandler(w, opts)))
	}
	return slog.New(NewRepeat(slog.NewTextHandler(w, opts)))
}

// ParseLevel reads a level as users of Calico write it: debug, info, warning (or
// warn), error, fatal, critical or none, in any case. "none" and the two that mean a
// dying process let errors pass only.
func ParseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warning", "warn":
		return slog.LevelWarn, nil
	case "error", "fatal", "critical", "panic", "none":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log level %q: want debug, info, warning, error or none", s)
}
