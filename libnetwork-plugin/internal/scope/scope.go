// Package scope decides whether Docker is told that our networks are one host's or the
// whole cluster's.
//
// Only engines up to 20.10 that have a cluster store spread a network over all hosts by
// themselves. There the scope is global; everywhere else it is local. The engine asks
// once, often before it answers questions itself, and remembers the answer until it is
// restarted: so the last decision is kept on disk.
package scope

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"calico.internal/libcalico/wholefile"
	"calico.internal/libnetwork-plugin/internal/config"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
)

// patience is how long the engine is given to say how it is set up.
const patience = time.Second

// Engine is what the decision is made from.
type Engine interface {
	Info(ctx context.Context) (dockerapi.Info, error)
}

// Of decides the scope from what the engine says about itself.
func Of(info dockerapi.Info) string {
	if info.ClusterStore != "" && spreadsNetworks(info.ServerVersion) {
		return config.ScopeGlobal
	}
	return config.ScopeLocal
}

// spreadsNetworks reports whether an engine of this version can use a cluster store:
// up to 20.10.
func spreadsNetworks(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	major, err := strconv.Atoi(parts[0])
	if err != nil || len(parts) < 2 {
		return false
	}
	minor, _ := strconv.Atoi(parts[1])
	return major < 20 || major == 20 && minor <= 10
}

// Keeper answers what the scope is.
type Keeper struct {
	engine Engine
	log    *slog.Logger
	fixed  string
	files  []string

	mu   sync.Mutex
	last string
}

// file is the name under which the last decision is kept.
const file = "libnetwork-scope"

// New returns a keeper. fixed, if not empty, is the answer; dirs are where the last one
// is kept: the first that has it is read, and all that can be are written.
func New(engine Engine, fixed string, log *slog.Logger, dirs ...string) *Keeper {
	k := &Keeper{engine: engine, fixed: fixed, log: log}
	for _, dir := range dirs {
		k.files = append(k.files, filepath.Join(dir, file))
	}
	k.last = k.read()
	return k
}

// Current is the last decision, without asking anybody.
func (k *Keeper) Current() string {
	if k.fixed != "" {
		return k.fixed
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last
}

// Refresh asks the engine and returns what holds now: its answer, or the last one if it
// does not give any in time.
func (k *Keeper) Refresh(ctx context.Context) string {
	if k.fixed != "" {
		return k.fixed
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	info, err := k.engine.Info(ctx)
	if err != nil {
		return k.Current()
	}
	now := Of(info)
	k.mu.Lock()
	defer k.mu.Unlock()
	if now != k.last || k.read() != now {
		k.last = now
		k.write()
	}
	return now
}

// read finds the last decision on disk; without one the scope is local.
func (k *Keeper) read() string {
	for _, f := range k.files {
		text, err := os.ReadFile(f)
		if s := strings.TrimSpace(string(text)); err == nil && (s == config.ScopeLocal || s == config.ScopeGlobal) {
			return s
		}
	}
	return config.ScopeLocal
}

// write keeps the decision wherever that is possible.
func (k *Keeper) write() {
	kept := false
	for _, f := range k.files {
		if err := replaceFile(f, k.last+"\n"); err != nil {
			k.log.Debug("scope is not kept here", "file", f, "err", err)
			continue
		}
		kept = true
	}
	if !kept {
		k.log.Warn("scope is not kept anywhere: after a reboot Docker may be told another one", "scope", k.last)
	}
}

// replaceFile writes a file so that no reader ever sees half of it.
func replaceFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return wholefile.Write(path, 0o600, []byte(text))
}
