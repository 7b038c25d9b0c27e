package probe

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"calico.internal/libcalico/nettest"
)

// TestCount: what is not answered is lost, and what is on its way at the end is waited for.
func TestCount(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // a socket of the test
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	got := 0
	go func() {
		buf := make([]byte, 64)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			mu.Lock()
			got++
			lost := got == 3 || got == 4
			mu.Unlock()
			if !lost {
				_, _ = conn.WriteTo(buf[:n], from)
			}
		}
	}()
	var tally Tally
	done := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		var err error
		tally, err = Count(ctx, conn.LocalAddr().String(), 2*time.Millisecond, 200*time.Millisecond, func() { close(begun) })
		done <- err
	}()
	<-begun
	nettest.Eventually(t, 10*time.Second, func() error {
		mu.Lock()
		defer mu.Unlock()
		if got < 10 {
			return fmt.Errorf("%d probes came", got)
		}
		return nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if tally.Sent < 10 || tally.Lost != 2 || tally.Gap <= 0 {
		t.Errorf("%v, want two of at least 10 lost, with a gap", tally)
	}
	for _, one := range []Tally{tally, {Sent: 7}} {
		back, err := ParseTally(one.String())
		want := Tally{one.Sent, one.Lost, one.Gap.Truncate(time.Millisecond), back.First}
		if err != nil || back != want || !back.First.Equal(one.First) {
			t.Errorf("%q is read as %v, %v", one, back, err)
		}
	}
	if _, err := ParseTally("7 probes, 2 lost"); err == nil {
		t.Error("a torn line is read")
	}
}

// TestAPortThatIsTaken is no loss on the path.
func TestAPortThatIsTaken(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := conn.LocalAddr().String()
	_ = conn.Close()
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, target) }()
	nettest.Eventually(t, 10*time.Second, func() error {
		if !Once(ctx, target, time.Second) {
			return fmt.Errorf("%s does not answer", target)
		}
		return nil
	})
	const seq = 7
	taken, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", firstPort+seq))
	if err != nil {
		t.Skipf("another has the port that this test takes: %v", err)
	}
	defer taken.Close() //nolint:errcheck // a socket of the test
	if !answered(ctx, target, seq, time.Second) {
		t.Error("a probe whose port another has is lost")
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestTallyIsOfOnePath(t *testing.T) {
	at := func(ms int, answered bool) *shot {
		return &shot{at: time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond), answered: answered}
	}
	for _, tc := range []struct {
		name  string
		shots []*shot
		want  Tally
	}{
		{"none", nil, Tally{}},
		{"none lost", []*shot{at(0, true), at(2, true)}, Tally{Sent: 2}},
		{"two gaps", []*shot{at(0, true), at(2, false), at(4, true), at(6, false), at(8, false), at(10, true)}, Tally{6, 3, 4 * time.Millisecond, time.Unix(0, 0).Add(2 * time.Millisecond)}},
		{"lost at the end", []*shot{at(0, true), at(2, false), at(4, false)}, Tally{3, 2, 2 * time.Millisecond, time.Unix(0, 0).Add(2 * time.Millisecond)}},
	} {
		if got := tally(tc.shots); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
