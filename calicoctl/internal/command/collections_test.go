package command

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// gcPercent is the percentage that is in force.
func gcPercent() int {
	now := debug.SetGCPercent(-1)
	debug.SetGCPercent(now)
	return now
}

func TestTheFirstCollectionComesLateAndTheOthersAsUsual(t *testing.T) {
	before := gcPercent()
	t.Cleanup(func() { debug.SetGCPercent(before) })
	env := &Env{Getenv: func(string) string { return "" }}
	env.collections.putOff(env)
	if got := gcPercent(); got != firstGCPercent {
		t.Fatalf("before the first collection the percentage is %d", got)
	}
	runtime.GC()
	awaitPercent(t, usualGCPercent)
}

func TestFrugalityOutlastsTheFirstCollection(t *testing.T) {
	before := gcPercent()
	t.Cleanup(func() { debug.SetGCPercent(before) })
	env := &Env{Getenv: func(string) string { return "" }}
	env.collections.putOff(env)
	env.collections.frugal(env)
	env.collections.asUsual() // as the first collection does, whenever it is over
	if got := gcPercent(); got != frugalGCPercent {
		t.Fatalf("after the first collection the percentage is %d", got)
	}
}

func TestTheUserDecidesOnCollections(t *testing.T) {
	before := gcPercent()
	env := &Env{Getenv: func(string) string { return "77" }}
	env.collections.putOff(env)
	env.collections.frugal(env)
	if got := gcPercent(); got != before {
		t.Fatalf("with GOGC the percentage went from %d to %d", before, got)
	}
}

// awaitPercent waits for what a collection has had done, which comes after it.
func awaitPercent(t *testing.T, want int) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for gcPercent() != want {
		select {
		case <-deadline:
			t.Fatalf("the percentage is %d, and was to become %d", gcPercent(), want)
		default:
			runtime.Gosched()
		}
	}
}
