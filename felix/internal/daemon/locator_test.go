package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"calico.internal/felix/internal/statusapi"
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
	s := etcdtest.Start(t, etcdtest.Args("--advertise-client-urls="+urls))
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
		log: slog.New(slog.DiscardHandler), board: statusapi.NewBoard(statusapi.State{Connected: true}),
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
