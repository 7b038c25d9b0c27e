package daemon

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
)

// TestDrainLosesNothing takes in what waits, as far as it is allowed to; the rest waits on.
func TestDrainLosesNothing(t *testing.T) {
	const waiting, most = 10, 4
	more := make(chan int, waiting)
	for i := range waiting {
		more <- i
	}
	var got []int
	take := func(i int) error { got = append(got, i); return nil }
	for len(more) > 0 {
		before := len(got)
		if err := drain(<-more, more, most, take); err != nil {
			t.Fatal(err)
		}
		if n := len(got) - before; n > most {
			t.Errorf("%d were taken at once", n)
		}
	}
	if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestWhatCostsLittleIsTriedEverySecond has passes fail over and over: because of the tables of
// chains, for which programs are started, and of others, for which the kernel is asked.
func TestWhatCostsLittleIsTriedEverySecond(t *testing.T) {
	no := errors.New("no")
	for _, c := range []struct {
		what    string
		chains  error
		longest time.Duration
	}{{"sets", nil, maxBusyDelay}, {"chains", no, maxFailureDelay}} {
		l := &loop{dp: &dataplane{held: &heldChains{fault: c.chains}}}
		longest := time.Duration(0)
		for range 20 {
			l.putOff(t.Context(), no)
			longest = max(longest, time.Until(l.retryAt).Round(time.Second))
		}
		if longest != c.longest {
			t.Errorf("%s are tried again after %v, want %v", c.what, longest, c.longest)
		}
	}
}

// TestALostEtcdIsToldOnce has a server, as a relay before etcd does, hang up in several ways.
func TestALostEtcdIsToldOnce(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	resets := make(chan bool, 1)
	go func() {
		for reset := false; ; {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			select {
			case reset = <-resets:
			default:
			}
			if reset {
				_ = conn.(*net.TCPConn).SetLinger(0) // the connection is reset
			}
			_ = conn.Close()
		}
	}()
	var log bytes.Buffer
	l := &loop{log: slog.New(slog.NewTextHandler(&log, nil))}
	texts := map[string]bool{}
	ping := func() {
		t.Helper()
		client, err := etcdstore.New(etcdstore.Config{Endpoints: []string{"http://" + listener.Addr().String()}, DialTimeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close() //nolint:errcheck // nothing was written
		err = client.Ping(t.Context())
		if !errors.Is(err, etcdstore.ErrUnavailable) || strings.Contains(err.Error(), "->") {
			t.Fatalf("the error is %v", err)
		}
		texts[err.Error()] = true
		l.tellLost(err)
	}
	ping()
	resets <- true
	ping()
	_ = listener.Close()
	ping()
	if lines := strings.Count(log.String(), "\n"); len(texts) < 2 || lines != 1 {
		t.Errorf("of the errors %v %d lines tell:\n%s", texts, lines, log.String())
	}
	l.tellLost(etcdstore.ErrUnauthorized)
	l.tellLost(nil)
	ping()
	if lines := strings.Count(log.String(), "\n"); lines != 3 {
		t.Errorf("another kind, and another loss, are not told:\n%s", log.String())
	}
}
