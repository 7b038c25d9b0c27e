// Package judge decides from what is seen of programs over time how they are, and says it in
// words. It is pure: times are given.
package judge

import (
	"fmt"
	"slices"
	"time"
)

// State is how a program is.
type State int

// The states of a program.
const (
	Down State = iota
	Starting
	NotReady
	Ready
	CrashLoop
)

// String is the state as people read it.
func (s State) String() string {
	return [...]string{"down", "starting", "not ready", "ready", "crash loop"}[s]
}

// Health is what a program says of itself.
type Health int

// What a program says of itself.
const (
	Silent     Health = iota // it does not answer
	NotServing               // it answers that it is not ready
	Serving
)

// Exit is how a program ended.
type Exit struct {
	// Code is its exit code, or -1 when a signal ended it.
	Code   int
	Signal int
	At     time.Time
}

// String is the exit in words.
func (e Exit) String() string {
	if e.Code < 0 {
		return fmt.Sprintf("killed by signal %d", e.Signal)
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

// Seen is what its supervisor says of a program.
type Seen struct {
	Running bool
	PID     int
	// Since is when it began to run, or ended.
	Since time.Time
	// Wanted is whether it is started again when it ends; Supervised whether there is anybody who does
	// that.
	Wanted, Supervised bool
	// OnHost says that it is a service of the host, of which nothing is seen but what it says
	// itself; Since is then when that was first listened to.
	OnHost bool
	// Last is how it ended last; nil if it never has.
	Last *Exit
}

const (
	// grace is how long a program may take to become ready before that is a fault.
	grace = 60 * time.Second
	// A program is in a crash loop when it has crashed so often in so long, and lives for
	// less than a while again.
	loopCrashes = 3
	loopWindow  = 2 * time.Minute
	loopOver    = 20 * time.Second
	// shortLife is what a program that ends without an error must have lived for that to be
	// no crash.
	shortLife = 2 * time.Second
)

// Program is how a program is.
type Program struct {
	Name     string
	Wanted   bool
	State    State
	PID      int
	Since    time.Time
	Restarts int
	// LastExit is how it ended last, in words; empty if it never has.
	LastExit string
	// Answers is whether it answers on its socket.
	Answers bool
	// Why says why it is not ready, and Cure what to do about it.
	Why, Cure string
}

// Judge knows what has been seen. It is not safe for concurrent use.
type Judge struct {
	logs     func(program string) string
	programs []*program
}

type program struct {
	name     string
	seen     Seen
	health   Health
	started  time.Time // of the run that is seen, or was last
	pid      int       // of that run
	wasReady bool      // in that run
	restarts int
	crashes  []time.Time
}

// New knows nothing yet of the named programs, which should all run. logs is where a program's
// log can be read, as a command.
func New(programs []string, logs func(program string) string) *Judge {
	j := &Judge{logs: logs}
	for _, name := range programs {
		j.programs = append(j.programs, &program{name: name})
	}
	return j
}

func (j *Judge) find(name string) *program {
	i := slices.IndexFunc(j.programs, func(p *program) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return j.programs[i]
}

// See takes in what the supervisor says of a program.
func (j *Judge) See(name string, s Seen) {
	p := j.find(name)
	if p == nil {
		return
	}
	if e := s.Last; e != nil && (p.seen.Last == nil || e.At.After(p.seen.Last.At)) {
		p.ended(*e)
	}
	if s.OnHost {
		p.started, s.Since = s.Since, time.Time{}
	}
	if s.Running && s.PID != p.pid {
		if p.pid != 0 {
			p.restarts++
		}
		p.pid, p.started, p.wasReady = s.PID, s.Since, false
	}
	p.seen = s
}

// ended counts an end that was a crash.
func (p *program) ended(e Exit) {
	if e.Code != 0 || e.At.Sub(p.started) < shortLife {
		p.crashes = append(p.crashes, e.At)
		p.crashes = p.crashes[max(0, len(p.crashes)-loopCrashes):]
	}
}

// Hear takes in what a program says of itself.
func (j *Judge) Hear(name string, h Health) {
	p := j.find(name)
	if p == nil {
		return
	}
	p.health = h
	p.wasReady = p.wasReady || h == Serving
}

// loopEnds is until when a program counts as one that crashes again and again; zero if it
// does not.
func (p *program) loopEnds() time.Time {
	n := len(p.crashes)
	if n < loopCrashes || p.crashes[n-1].Sub(p.crashes[0]) > loopWindow {
		return time.Time{}
	}
	last := p.crashes[n-1]
	if p.seen.Running && p.started.After(last) {
		last = p.started
	}
	return last.Add(loopOver)
}

// Programs is how all programs are, in the order in which they were named.
func (j *Judge) Programs(now time.Time) []Program {
	out := make([]Program, 0, len(j.programs))
	for _, p := range j.programs {
		out = append(out, j.describe(p, now))
	}
	return out
}

func (j *Judge) describe(p *program, now time.Time) Program {
	out := Program{Name: p.name, Wanted: p.seen.Wanted || !p.seen.Supervised, Since: p.seen.Since, Restarts: p.restarts, Answers: p.health != Silent}
	if p.seen.Running {
		out.PID = p.seen.PID
	}
	if p.seen.Last != nil {
		out.LastExit = p.seen.Last.String()
	}
	out.State, out.Why, out.Cure = j.state(p, now)
	return out
}

// state is how a program is, why, and what to do.
func (j *Judge) state(p *program, now time.Time) (s State, why, cure string) {
	sv := func(command string) string { return "docker exec calico-node sv " + command + " " + p.name }
	switch {
	case p.seen.OnHost:
		return p.onHost(now)
	case !p.seen.Supervised && !p.seen.Running:
		return Down, "nothing starts it (no runsv looks after it)", "wait some seconds, then docker restart calico-node"
	case !p.seen.Running && !p.seen.Wanted:
		return Down, "it was stopped by hand", sv("up")
	case now.Before(p.loopEnds()):
		return CrashLoop, p.loopWords(), j.logs(p.name)
	case !p.seen.Running && p.seen.Last != nil:
		return Starting, "it ended (" + p.seen.Last.String() + ") and is started again", ""
	case !p.seen.Running:
		return Starting, "it has not been started yet", ""
	case p.health == Serving:
		return Ready, "", ""
	case !p.wasReady && now.Sub(p.started) < grace:
		return Starting, "", ""
	case p.health == NotServing:
		return NotReady, "it says that it is not ready", j.logs(p.name)
	}
	return NotReady, "it runs and does not answer", sv("restart")
}

// onHost is state of a service of the host.
func (p *program) onHost(now time.Time) (s State, why, cure string) {
	switch {
	case p.health == Serving:
		return Ready, "", ""
	case !p.wasReady && now.Sub(p.started) < grace:
		return Starting, "", ""
	case p.health == NotServing:
		return NotReady, "it says that it is not ready", "its log says more: journalctl -u calico-" + p.name
	}
	return Down, "the service of the host does not answer", "systemctl restart calico-" + p.name + ".service; journalctl -u calico-" + p.name + " says more"
}

func (p *program) loopWords() string {
	last := ""
	if p.seen.Last != nil {
		last = ", last with " + p.seen.Last.String()
		if p.seen.Last.Code < 0 {
			last = ", last " + p.seen.Last.String()
		}
	}
	return fmt.Sprintf("it ends again and again: %d times within %s%s", len(p.crashes), within(p.crashes), last)
}

// within is the time between the first and the last of some moments, in whole seconds.
func within(times []time.Time) time.Duration {
	d := times[len(times)-1].Sub(times[0]).Round(time.Second)
	return max(d, time.Second)
}

// Ready is whether all programs are ready.
func (j *Judge) Ready(now time.Time) bool {
	return !slices.ContainsFunc(j.Programs(now), func(p Program) bool { return p.State != Ready })
}

// Next is when something changes if nothing is seen until then; zero if nothing does.
func (j *Judge) Next(now time.Time) (at time.Time) {
	for _, p := range j.programs {
		for _, t := range []time.Time{p.loopEnds(), p.graceEnds()} {
			if t.After(now) && (at.IsZero() || t.Before(at)) {
				at = t
			}
		}
	}
	return at
}

// graceEnds is when a program that starts should have been ready.
func (p *program) graceEnds() time.Time {
	if !p.seen.Running && !p.seen.OnHost || p.wasReady {
		return time.Time{}
	}
	return p.started.Add(grace)
}
