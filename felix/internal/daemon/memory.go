package daemon

import (
	"os"
	"runtime/debug"
	"time"
)

// How memory is traded for time. Felix shares its host with containers and works in short
// bursts, so the heap grows by less between two collections than Go's default. A start
// is different: it would spend a quarter of its time on collections, and what it takes is
// given back right after it. GOGC in the environment overrides both percentages.
const (
	steadyGCPercent = 40
	startGCPercent  = 200
	// manyObjects is the number of changed objects from which a pass takes much more memory
	// than what follows. It is given back after trimDelay.
	manyObjects = 1000
	trimDelay   = time.Second
)

func setGCPercent(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// trim gives back what a start, or another large change, took.
func trim() {
	setGCPercent(steadyGCPercent)
	debug.FreeOSMemory()
}
