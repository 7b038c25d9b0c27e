package daemon

import (
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

// How memory is traded for time. Felix shares its host with containers and works in short
// bursts, so the heap grows by less between two collections than Go's default. A start
// is different: it would spend a fifth of its time on collections, and what it takes is
// given back right after it. GOGC in the environment overrides both percentages.
const (
	steadyGCPercent = 40
	startGCPercent  = 200
	// leastGrowth is by how many bytes the heap grows between two collections where it is
	// so small that the percentage would be less.
	leastGrowth = 6 << 20
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
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	setGCPercent(max(steadyGCPercent, int(100*leastGrowth/max(m.HeapAlloc, 1))))
}
