package command

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// By how much of what lives the heap grows between two collections, in percent.
const (
	// firstGCPercent holds until the first collection: Go begins with a heap of 4 MB, so that
	// a command that lists a thousand nodes would collect several times to find that all of it
	// lives. With this the first comes at 16 MB, which most commands never reach.
	firstGCPercent = 400
	usualGCPercent = 100
	// frugalGCPercent is for while an inventory is held, which is most of the heap: with Go's
	// default, the program would take twice as much.
	frugalGCPercent = 15
)

// collections decides how often the garbage collector runs; GOGC in the environment
// overrides it.
type collections struct {
	mu sync.Mutex
	// decided says that a percentage was chosen which the end of the first collection does
	// not change.
	decided bool
}

// putOff makes the first collection come late. From then on they come as usual.
func (c *collections) putOff(env *Env) {
	if env.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(firstGCPercent)
	unreachable := new([firstGCPercent]byte) // found out by the first collection
	runtime.AddCleanup(unreachable, (*collections).asUsual, c)
}

func (c *collections) asUsual() { c.decide(usualGCPercent, false) }

// frugal trades time for memory.
func (c *collections) frugal(env *Env) {
	if env.Getenv("GOGC") == "" {
		c.decide(frugalGCPercent, true)
	}
}

// decide sets the percentage unless one is decided on that stays.
func (c *collections) decide(percent int, stays bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.decided && !stays {
		return
	}
	c.decided = stays
	debug.SetGCPercent(percent)
}
