package daemon

import (
	"errors"
	"log/slog"
	"slices"
	"strings"

	"calico.internal/felix/internal/calc"
	"calico.internal/felix/internal/config"
	"calico.internal/libcalico/logattr"
)

// reconfigure follows the parameters of the datastore.
func (l *loop) reconfigure() error {
	result, err := config.Resolve(l.sources)
	if err != nil {
		l.configFault = err.Error()
		l.log.Error("the configuration in the datastore is not usable; the last usable one stays in force", logattr.Err, err)
		if l.dp != nil {
			return nil
		}
	} else {
		l.configFault = ""
	}
	next := result.Config
	next.FelixHostname = l.cfg.FelixHostname
	for _, w := range result.Warnings {
		if !slices.Contains(l.warnings, w) {
			l.log.Warn("configuration", "warning", w)
		}
	}
	l.warnings = result.Warnings
	changed := config.Diff(l.cfg, &next)
	if len(changed) == 0 {
		return nil
	}
	if name := config.NeedsRestart(changed); name != "" && l.fed {
		l.log.Info("a parameter changed that is read at start only; starting again, while everything stays in force", "parameter", name)
		return errRestart
	}
	l.log.Info("configuration changed", "parameters", strings.Join(changed, ","))
	l.cfg = &next
	l.live.set(&next)
	setLevel(l.level, next.LogSeverityScreen)
	if !l.fed {
		l.engine = calc.New(l.node, next.InterfacePrefix...)
	}
	if l.dp == nil {
		return nil
	}
	l.wantPass = true
	if err := l.dp.configure(&next); err != nil {
		l.configFault = err.Error()
		l.log.Error("the configuration in the datastore is not usable; the last usable one stays in force", logattr.Err, err)
	}
	return nil
}

// errRestart asks for a new start within the process.
var errRestart = errors.New("restart")

// setLevel sets the log's level; an empty name lets only errors pass.
func setLevel(level *slog.LevelVar, name string) {
	if level == nil {
		return
	}
	if name == "" {
		name = "none"
	}
	if parsed, err := logattr.ParseLevel(name); err == nil {
		level.Set(parsed)
	}
}
