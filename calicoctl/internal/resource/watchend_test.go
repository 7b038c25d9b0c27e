package resource

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/model"
)

// TestAWatchEndsWithItsCall ends watches early, which leave nothing running while the command
// goes on.
func TestAWatchEndsWithItsCall(t *testing.T) {
	s := newStore(t)
	enough := errors.New("enough")
	watch := func(ctx context.Context) {
		all := func(model.Key) bool { return true }
		if err := s.Watch(ctx, Watched{Kind: model.KindPolicy}, all, func([]Event, error) error { return enough }); !errors.Is(err, enough) {
			t.Fatal(err)
		}
		object := manifest.Object{Key: model.NewPolicyKey("", "web")}
		if err := s.Await(ctx, []manifest.Object{object}, nil, func(*Seen) (bool, error) { return true, nil }); err != nil {
			t.Fatal(err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	watch(ended)
	cancel()
	const watches, some = 20, 10
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	settled := func(most int, within time.Duration) (n int) {
		for deadline := time.Now().Add(within); time.Now().Before(deadline); <-poll.C {
			if n = runtime.NumGoroutine(); n <= most {
				break
			}
		}
		return n
	}
	before := settled(0, time.Second)
	for range watches {
		watch(t.Context())
	}
	if after := settled(before+some, 5*time.Second); after > before+some {
		t.Errorf("%d goroutines before %d watches, and %d after them", before, 2*watches, after)
	}
}
