package iptables

import (
	"context"
	"testing"
	"time"

	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/nettest"
)

func TestWritesAreToldOf(t *testing.T) {
	k := kernel{NFT, rules.V6, rules.Filter}
	targets := openTargets(t, k.variant)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := targets.Writes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	told := func(within time.Duration) bool {
		select {
		case <-w.C:
			return true
		case <-time.After(within):
			return false
		}
	}
	// The pause is long enough for ten commands on a busy machine.
	const soon, never, pause = time.Second, 50 * time.Millisecond, 3 * time.Second
	if told(never) {
		t.Error("a write is told of that was not made")
	}
	k.run(t, "-N", "other")
	if !told(soon) {
		t.Error("a write is not told of")
	}
	nettest.Run(t, "nft", "list", "ruleset")
	if told(never) {
		t.Error("reading is told of")
	}
	w.Pause(pause)
	k.run(t, "-X", "other")
	if !told(soon) {
		t.Error("a write is not told of")
	}
	for range 5 {
		nettest.Run(t, "nft", "add", "table", "ip", "x")
		nettest.Run(t, "nft", "delete", "table", "ip", "x")
	}
	if told(never) {
		t.Error("the pause is not kept")
	}
	if !told(pause+soon) || told(11*never) {
		t.Error("writes during a pause are not told of together behind it")
	}
	cancel()
	nettest.Run(t, "nft", "add", "table", "ip", "x")
	_ = told(never)
	if told(never) {
		t.Error("writes are told of although nobody listens")
	}
}

func TestOfLegacyWritesNothingTells(t *testing.T) {
	k := legacyKernels[0]
	targets := openTargets(t, k.variant)
	w, err := targets.Writes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k.run(t, "-N", "other")
	select {
	case <-w.C:
		t.Error("told of a write")
	case <-time.After(50 * time.Millisecond):
	}
}
