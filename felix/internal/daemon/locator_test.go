package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/store"
)

// names is a name service; addresses stand for themselves.
type names map[string]string

func (n names) lookup(_ context.Context, _, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	if n[host] == "" {
		return nil, errors.New("no answer for " + host)
	}
	return []netip.Addr{netip.MustParseAddr(n[host])}, nil
}

func advertising(t *testing.T, urls string) *etcdstore.Client {
	t.Helper()
	return clientOf(t, etcdtest.Start(t, etcdtest.Args("--advertise-client-urls="+urls)))
}

func clientOf(t *testing.T, s *etcdtest.Server) *etcdstore.Client {
	t.Helper()
	client, err := etcdstore.New(etcdstore.Config{Endpoints: s.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// TestAMemberOfEtcdGoesWhenEtcdSaysSo has the names of etcd's members not resolve, and etcd
// not answer: what was found before stays in the sets of the kernel.
func TestAMemberOfEtcdGoesWhenEtcdSaysSo(t *testing.T) {
	d := &Daemon{
		cfg: Config{Etcd: advertising(t, "http://one.example:2379,http://two.example:2379,http://localhost.example:2379")},
		log: slog.New(slog.DiscardHandler), unlocated: &notice{},
	}
	l := newLocator(d, nil)
	service := names{"one.example": "10.0.0.1", "two.example": "10.0.0.2", "localhost.example": "127.0.0.1"}
	l.lookup = service.lookup
	expect := func(when string, want ...string) {
		t.Helper()
		var got []string
		for _, a := range l.controlPlane().etcd {
			if !a.Addr().IsLoopback() || a.Port() == 2379 { // the endpoint of this test is at another port
				got = append(got, a.String())
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: etcd is at %v, want %v", when, got, want)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	l.takeNodes(store.Batch{Snapshot: true})
	l.locate(cancelled)
	if !l.nodesKnown || l.membersKnown {
		t.Error("a first finding is sent without the members, which takes those from before out of the kernel")
	}
	l.locate(t.Context())
	if expect("at first", "10.0.0.1:2379", "10.0.0.2:2379"); !l.membersKnown || l.pause() != locateInterval {
		t.Errorf("members are known: %v; the next look is after %v", l.membersKnown, l.pause())
	}
	delete(service, "one.example")
	service["two.example"] = "10.0.0.22"
	l.locate(t.Context())
	if expect("one name does not resolve", "10.0.0.1:2379", "10.0.0.22:2379"); l.pause() != locateSoon {
		t.Errorf("the next look is after %v", l.pause())
	}
	for range 10 {
		l.locate(t.Context())
	}
	if expect("it goes on so", "10.0.0.1:2379", "10.0.0.22:2379"); l.pause() != locateInterval {
		t.Errorf("a name that never resolves is looked up every %v", l.pause())
	}
	l.locate(cancelled)
	expect("etcd does not answer", "10.0.0.1:2379", "10.0.0.22:2379")
	l.etcd = advertising(t, "http://two.example:2379")
	l.locate(t.Context())
	expect("etcd has one member less", "10.0.0.22:2379")
}

// TestAnEtcdThatIsLostIsLookedForAtOnce has etcd behind a name go to another address.
func TestAnEtcdThatIsLostIsLookedForAtOnce(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Args("--advertise-client-urls=http://etcd.example:2379"))
	s.SetUp(t)
	client, log := clientOf(t, s), slog.New(slog.DiscardHandler)
	found := make(chan controlPlane)
	l := newLocator(&Daemon{cfg: Config{Etcd: client}, log: log, guard: client.Guard("", log), unlocated: &notice{}}, found)
	var mu sync.Mutex
	service := names{"etcd.example": "10.0.0.1"}
	l.lookup = func(ctx context.Context, network, host string) ([]netip.Addr, error) {
		mu.Lock()
		defer mu.Unlock()
		return service.lookup(ctx, network, host)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = l.run(ctx) })
	defer running.Wait()
	defer cancel()
	await := func(address string) {
		t.Helper()
		timeout := time.After(locateInterval / 3)
		for {
			select {
			case c := <-found:
				if slices.Contains(c.etcd, netip.MustParseAddrPort(address)) {
					return
				}
			case <-timeout:
				t.Fatalf("etcd is not found at %s", address)
			}
		}
	}
	await("10.0.0.1:2379")
	mu.Lock()
	service["etcd.example"] = "10.0.0.2"
	mu.Unlock()
	s.Stop()
	await("10.0.0.2:2379")
}

// TestTheReturnOfEtcdIsToLocate has the watch of the nodes end and go on.
func TestTheReturnOfEtcdIsToLocate(t *testing.T) {
	l := newLocator(&Daemon{log: slog.New(slog.DiscardHandler), unlocated: &notice{}}, nil)
	lost := fmt.Errorf("away: %w", etcdstore.ErrUnavailable)
	for i, c := range []struct {
		batch  store.Batch
		turned bool
	}{
		{store.Batch{Snapshot: true}, false},
		{store.Batch{Err: lost}, true},
		{store.Batch{Err: lost}, false},
		{store.Batch{}, true},
		{store.Batch{Err: etcdstore.ErrUnauthorized}, false}, // it answers
	} {
		if got := l.takeNodes(c.batch); got != c.turned {
			t.Errorf("batch %d: it is to be located at once: %v", i, got)
		}
		if wrong := l.lost != errors.Is(c.batch.Err, etcdstore.ErrUnavailable); wrong {
			t.Errorf("batch %d: etcd is lost: %v", i, l.lost)
		}
	}
}

// TestASilentNameServiceHidesNoMember has the name of one member not be answered: the others
// are found, and the status and one line of the log say what is missing, however the ports of
// the questions change.
func TestASilentNameServiceHidesNoMember(t *testing.T) {
	var log bytes.Buffer
	d := &Daemon{
		cfg: Config{Etcd: advertising(t, "http://silent.example:2379,http://one.example:2379,http://10.0.0.9:2379")},
		log: slog.New(slog.NewTextHandler(&log, nil)), unlocated: &notice{},
	}
	l := newLocator(d, nil)
	service, port, refused := names{"one.example": "10.0.0.1"}, 40000, false
	l.lookup = func(ctx context.Context, network, host string) ([]netip.Addr, error) {
		if host != "silent.example" || service[host] != "" {
			return service.lookup(ctx, network, host)
		}
		port++
		question := fmt.Sprintf("read udp 10.0.0.7:%d->10.0.0.53:53: ", port)
		if refused {
			return nil, &net.DNSError{Err: question + "read: connection refused", Name: host, IsTemporary: true}
		}
		<-ctx.Done()
		return nil, &net.DNSError{Err: question + "i/o timeout", Name: host, IsTimeout: true}
	}
	told := ""
	expect := func(when, part string, lines int, members ...string) {
		t.Helper()
		before := told
		if told = d.unlocated.get(); !strings.Contains(told, part) || part == "" && told != "" || strings.Contains(told, "->") {
			t.Errorf("%s: not located is %q", when, told)
		}
		if before != told && strings.Count(log.String(), "\n") != lines || strings.Count(log.String(), "\n") > lines {
			t.Errorf("%s: the log is\n%s", when, log.String())
		}
		for _, m := range members {
			if !slices.Contains(l.controlPlane().etcd, netip.MustParseAddrPort(m)) {
				t.Errorf("%s: %s is not guarded", when, m)
			}
		}
	}
	l.takeNodes(store.Batch{Snapshot: true})
	for range 2 {
		l.locate(t.Context())
		expect("silent", "silent.example", 1, "10.0.0.1:2379", "10.0.0.9:2379")
	}
	refused = true
	for range 2 {
		l.locate(t.Context())
		expect("refused", "connection refused", 2, "10.0.0.1:2379", "10.0.0.9:2379")
	}
	service["silent.example"] = "10.0.0.5"
	l.locate(t.Context())
	expect("answered", "", 3, "10.0.0.1:2379", "10.0.0.9:2379", "10.0.0.5:2379")
}
