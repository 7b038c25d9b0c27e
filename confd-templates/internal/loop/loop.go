// Package loop keeps the files of all template resources as the store says they must be. It renders, checks, puts in
// place and reloads; whatever fails is tried again until it succeeds, and a file that somebody changes or removes is
// made anew.
//
// Each file has a goroutine of its own, so that a command that hangs holds up nothing but its own file.
package loop

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"calico.internal/confd-templates/internal/resource"
)

// The pauses between a failure and the next attempt.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Renderer makes the new version of a resource's file beside it, and says where.
type Renderer interface {
	Render(r resource.Resource) (staged string, err error)
}

// Config is what New needs.
type Config struct {
	Resources []resource.Resource
	Renderer  Renderer
	// Command runs a check or reload command.
	Command func(ctx context.Context, line string, timeout time.Duration) error
	// CommandTimeout ends a command that hangs.
	CommandTimeout time.Duration
	// Audit is how often each file is looked at though nothing is known to have changed.
	Audit time.Duration
	// Noop only says what would be done.
	Noop bool
	// SyncOnly puts files in place without check and reload commands.
	SyncOnly bool
	// KeepStageFile leaves the new version of a file beside it.
	KeepStageFile bool
	Logger        *slog.Logger
	// OnStatus is called after each pass over a file with the state of all of them; nil is fine.
	OnStatus func(ready bool)
}

// Loop keeps the files.
type Loop struct {
	config Config
	files  []*file

	mu sync.Mutex
	// bad holds the files that are not as they must be, with the reason; a file that was not processed yet is bad too.
	bad map[string]error
}

// errNotYet is the state of a file before its first pass.
var errNotYet = errors.New("not processed yet")

// New returns a loop over the resources of the config.
func New(config Config) *Loop {
	l := &Loop{config: config, bad: map[string]error{}}
	for _, r := range config.Resources {
		l.files = append(l.files, &file{Resource: r, config: &l.config, kick: make(chan struct{}, 1)})
		l.bad[r.Dest] = errNotYet
	}
	return l
}

// Once processes each file one time and returns what went wrong with any of them.
func (l *Loop) Once(ctx context.Context) error {
	var faults []error
	for _, f := range l.files {
		err := f.pass(ctx)
		l.record(f, err)
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// Run processes each file at once, at each signal of changed, and at each audit, until ctx ends.
func (l *Loop) Run(ctx context.Context, changed <-chan struct{}) {
	var workers sync.WaitGroup
	for _, f := range l.files {
		workers.Go(func() { l.keep(ctx, f) })
	}
	for await(ctx, changed) {
		for _, f := range l.files {
			select {
			case f.kick <- struct{}{}:
			default:
			}
		}
	}
	workers.Wait()
}

// Status says which files are not as they must be, and why.
func (l *Loop) Status() map[string]error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.bad)
}

// keep processes one file again and again.
func (l *Loop) keep(ctx context.Context, f *file) {
	retry := firstRetry
	for {
		err := f.pass(ctx)
		if ctx.Err() != nil {
			return
		}
		news := l.record(f, err)
		wait := l.config.Audit
		if err != nil {
			wait = retry
		}
		if news {
			l.config.Logger.Error("file is not as it must be; will try again", "file", f.Dest, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-f.kick:
			retry = firstRetry
		case <-time.After(wait):
			retry = min(2*retry, lastRetry)
		}
		if err == nil {
			retry = firstRetry
		}
	}
}

// record notes how a file is, and reports whether that is a fault that was not there before.
func (l *Loop) record(f *file, err error) (news bool) {
	l.mu.Lock()
	before := l.bad[f.Dest]
	news = err != nil && (before == nil || before.Error() != err.Error())
	if err == nil {
		delete(l.bad, f.Dest)
	} else {
		l.bad[f.Dest] = err
	}
	ready := len(l.bad) == 0
	l.mu.Unlock()
	if l.config.OnStatus != nil {
		l.config.OnStatus(ready)
	}
	return news
}
