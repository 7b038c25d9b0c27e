package address

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
)

func TestOneAddressIsInOneHandAndOthersAreFree(t *testing.T) {
	var h hands
	a, b := netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("192.168.0.2")
	done, err := h.take(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	other, err := h.take(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the caller has left")
	cancel(cause)
	if _, err := h.take(ctx, a); !errors.Is(err, cause) {
		t.Errorf("an address in another's hand: %v", err)
	}
	done()
	other()
	var all sync.WaitGroup
	inside := 0
	for range 200 {
		all.Go(func() {
			done, err := h.take(t.Context(), a)
			if err != nil {
				t.Error(err)
				return
			}
			inside++ // the race detector sees two at once
			if inside != 1 {
				t.Errorf("%d have it in hand", inside)
			}
			inside--
			done()
		})
	}
	all.Wait()
	if len(h.taken) > 0 {
		t.Errorf("still in hand: %v", h.taken)
	}
}
