//go:debug multipathtcp=0

package gobgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/libcalico/reconcile"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(logWriter{t}, nil))
}

type logWriter struct{ t testing.TB }

func (w logWriter) Write(b []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Logf("%s", strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

var someone = netip.MustParseAddr("10.0.0.2")

// bare is a speaker without GoBGP behind it.
func bare(t *testing.T) *Speaker {
	kick := reconcile.NewKick()
	s := &Speaker{
		opts:     Options{Log: testLog(t)},
		queue:    queue{notify: func() { reconcile.Kick(kick) }},
		retry:    make(chan retry, 64),
		sessions: map[netip.Addr]*session{},

		openPatience: time.Hour,
	}
	s.quiet = &quiet{log: s.opts.Log, reason: s.onReason}
	return s
}

func (s *Speaker) states(ctx context.Context, states ...api.PeerState_SessionState) {
	for _, st := range states {
		s.onState(ctx, &api.Peer{State: &api.PeerState{NeighborAddress: someone.String(), SessionState: st}})
	}
}

func (s *Speaker) kinds() []EventKind {
	var out []EventKind
	for _, e := range s.Events() {
		out = append(out, e.Kind)
	}
	return out
}

func TestSession_only_one_that_came_further_has_fallen(t *testing.T) {
	const idle, active, opensent, openconfirm, up = api.PeerState_IDLE, api.PeerState_ACTIVE, api.PeerState_OPENSENT, api.PeerState_OPENCONFIRM, api.PeerState_ESTABLISHED
	for _, tc := range []struct {
		name   string
		states []api.PeerState_SessionState
		events []EventKind
		// retry is how long after the last state the peer is added again; negative is never.
		retry time.Duration
	}{
		{"added", []api.PeerState_SessionState{idle, active}, nil, -1},
		{"established", []api.PeerState_SessionState{idle, active, opensent, openconfirm, up}, []EventKind{PeerUp}, -1},
		{"fell", []api.PeerState_SessionState{idle, active, opensent, openconfirm, up, idle}, []EventKind{PeerUp, PeerDown}, 0},
		{"refused while opening", []api.PeerState_SessionState{idle, active, opensent, idle}, nil, retryGap},
		{"idle said twice", []api.PeerState_SessionState{idle, active, opensent, openconfirm, up, idle, idle}, []EventKind{PeerUp, PeerDown}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := bare(t)
				s.remember(someone, "Mesh_10_0_0_2")
				start := time.Now()
				s.states(ctx, tc.states...)
				if got := s.kinds(); !slices.Equal(got, tc.events) {
					t.Errorf("events are %v, want %v", got, tc.events)
				}
				select {
				case r := <-s.retry:
					if took := time.Since(start); r.peer != someone || took != tc.retry {
						t.Errorf("%v is added again after %v, want %v", r.peer, took, tc.retry)
					}
				case <-time.After(time.Minute):
					if tc.retry >= 0 {
						t.Error("it is not added again")
					}
				}
				select {
				case <-s.retry:
					t.Error("it is added again twice")
				default:
				}
			})
		})
	}
}

// TestSession_patience_of_an_earlier_session is not that of the present one: a peer that is
// removed and added again has its full time.
func TestSession_patience_of_an_earlier_session(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s := bare(t)
		s.openPatience = openPatience
		connect := func() {
			s.remember(someone, "Mesh_10_0_0_2")
			s.states(ctx, api.PeerState_ACTIVE, api.PeerState_OPENSENT)
		}
		connect()
		<-time.After(openPatience - time.Second)
		s.forget(someone)
		connect()
		if r := <-s.retry; s.due(r) {
			t.Error("an attempt was ended after a second")
		}
		if r := <-s.retry; !s.due(r) {
			t.Error("an attempt that hangs was not ended")
		}
	})
}

func TestSession_state_of_an_unknown_peer_does_not_count(t *testing.T) {
	s := bare(t)
	s.states(t.Context(), api.PeerState_ESTABLISHED, api.PeerState_IDLE)
	if got := s.kinds(); got != nil {
		t.Errorf("events are %v", got)
	}
	if got := s.Session(someone); got.State != "idle" {
		t.Errorf("session is %+v", got)
	}
}

func TestSession_reasons_from_the_log(t *testing.T) {
	f := func(pairs ...any) log.Fields {
		out := log.Fields{"Key": someone.String()}
		for i := 0; i < len(pairs); i += 2 {
			out[pairs[i].(string)] = pairs[i+1]
		}
		return out
	}
	opensent, idle := bgp.BGP_FSM_OPENSENT.String(), bgp.BGP_FSM_IDLE.String()
	for _, tc := range []struct {
		name string
		say  func(q *quiet)
		want string
	}{
		{"lost", func(q *quiet) { q.Info("Peer Down", f("Reason", "read-failed")) }, "the connection was lost"},
		{"silent", func(q *quiet) { q.Info("Peer Down", f("Reason", "hold-timer-expired")) }, "the peer was silent for the hold time"},
		{
			"ended by the peer", func(q *quiet) { q.Info("Peer Down", f("Reason", "notification-received code 6(cease)")) },
			"ended by the peer: code 6(cease)",
		},
		{"received", func(q *quiet) { q.Warn("received notification", f("Code", uint8(6), "Subcode", uint8(3))) }, "ended by the peer: code 6(cease) subcode 3(peer deconfigured)"},
		{"sent", func(q *quiet) {
			q.Warn("sent notification", f("Data", &bgp.MessageError{Message: "as number mismatch"}))
		}, "refused by this side: as number mismatch"},
		{"unreachable", func(q *quiet) {
			q.Debug("failed to connect", f("Error", errors.New("dial tcp: connect: no route to host")))
		}, "cannot connect: no route to host"},
		{"refused while opening", func(q *quiet) {
			q.Debug("state changed", f("old", opensent, "new", idle, "reason", "invalid-msg"))
		}, "the peer refused the session: check AS numbers and router ids on both sides"},
		{"what is known exactly beats what is guessed", func(q *quiet) {
			q.Warn("sent notification", f("Data", &bgp.MessageError{Message: "bad id"}))
			q.Debug("state changed", f("old", opensent, "new", idle, "reason", "invalid-msg"))
		}, "refused by this side: bad id"},
		{"a new attempt starts afresh", func(q *quiet) {
			q.Warn("sent notification", f("Data", &bgp.MessageError{Message: "bad id"}))
			q.Debug("state changed", f("old", idle, "new", opensent))
			q.Debug("state changed", f("old", opensent, "new", idle, "reason", "read-failed"))
		}, "the peer closed the connection: check that it knows this host as a peer"},
		{"others' peers and empty fields are ignored", func(q *quiet) {
			q.Warn("sent notification", log.Fields{"Key": "10.9.9.9"})
			q.Debug("failed to connect", log.Fields{})
			q.Info("Peer Down", nil)
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := bare(t)
			s.remember(someone, "x")
			tc.say(s.quiet)
			if got := s.Session(someone).Reason; got != tc.want {
				t.Errorf("reason is %q, want %q", got, tc.want)
			}
		})
	}
}

func TestQueue_takes_events_of_many(t *testing.T) {
	s := bare(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				s.queue.put(Event{Kind: EndOfRIB})
			}
		})
	}
	wg.Wait()
	if n := len(s.Events()); n != 8000 {
		t.Errorf("%d events", n)
	}
}

func mustAny(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestDecode(t *testing.T) {
	seq := func(numbers ...uint32) *api.AsSegment {
		return &api.AsSegment{Type: api.AsSegment_AS_SEQUENCE, Numbers: numbers}
	}
	for _, tc := range []struct {
		name  string
		attrs []proto.Message
		want  calc.Path
		err   string
	}{
		{
			"iBGP",
			[]proto.Message{
				&api.OriginAttribute{Origin: 2}, &api.NextHopAttribute{NextHop: "10.0.0.2"}, &api.LocalPrefAttribute{LocalPref: 200},
				&api.ClusterListAttribute{Ids: []string{"1.1.1.1", "2.2.2.2"}}, &api.CommunitiesAttribute{Communities: []uint32{1}},
			},
			calc.Path{NextHop: someone, LocalPref: 200, Origin: 2, ClusterLen: 2},
			"",
		},
		{
			"eBGP: a set counts as one, a confederation not at all",
			[]proto.Message{
				&api.AsPathAttribute{Segments: []*api.AsSegment{{Type: api.AsSegment_AS_CONFED_SEQUENCE, Numbers: []uint32{7}}, seq(65001, 65002), {Type: api.AsSegment_AS_SET, Numbers: []uint32{1, 2, 3}}}},
				&api.NextHopAttribute{NextHop: "10.0.0.2"}, &api.MultiExitDiscAttribute{Med: 5},
			},
			calc.Path{NextHop: someone, LocalPref: 100, ASPathLen: 3, NeighborAS: 65001, MED: 5},
			"",
		},
		{
			"IPv6 with a link-local next hop beside the global one",
			[]proto.Message{&api.MpReachNLRIAttribute{NextHops: []string{"fd00::2", "fe80::1"}}},
			calc.Path{NextHop: netip.MustParseAddr("fd00::2"), LocalPref: 100},
			"",
		},
		{"no next hop", []proto.Message{&api.OriginAttribute{}}, calc.Path{}, "no next hop"},
		{"nonsense", []proto.Message{&api.NextHopAttribute{NextHop: "nowhere"}}, calc.Path{}, `next hop "nowhere"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &api.Path{}
			for _, m := range tc.attrs {
				p.Pattrs = append(p.Pattrs, mustAny(t, m))
			}
			var d decoder
			for range 2 { // the second time from memory
				got, err := d.decode(p)
				if diff := cmp.Diff(tc.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
					t.Errorf("decode (-want +got):\n%s", diff)
				}
				if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error is %v, want %q", err, tc.err)
				}
			}
		})
	}
}

func TestOnPaths(t *testing.T) {
	s := bare(t)
	s.ownAS = 64512
	nlri := func(p string, bits uint32) *anypb.Any {
		return mustAny(t, &api.IPAddressPrefix{Prefix: p, PrefixLen: bits})
	}
	next := mustAny(t, &api.NextHopAttribute{NextHop: "10.0.0.2"})
	pref := mustAny(t, &api.LocalPrefAttribute{LocalPref: 500})
	linkLocal := mustAny(t, &api.MpReachNLRIAttribute{NextHops: []string{"fe80::2"}})
	var d decoder
	s.onPaths(t.Context(), &d, []*api.Path{
		{NeighborIp: "10.0.0.2", SourceAsn: 64512, Nlri: nlri("192.168.1.0", 26), Pattrs: []*anypb.Any{next, pref}},
		{NeighborIp: "10.0.0.2", SourceAsn: 65001, Nlri: nlri("192.168.2.0", 26), Pattrs: []*anypb.Any{next, pref}},
		{NeighborIp: "10.0.0.2", Nlri: nlri("192.168.3.0", 26), IsWithdraw: true},
		{NeighborIp: "10.0.0.2", Nlri: nlri("fd80::", 122), Pattrs: []*anypb.Any{next}}, // of the wrong family
		{NeighborIp: "10.0.0.2", Nlri: nlri("fd80::", 123), Pattrs: []*anypb.Any{linkLocal}},
		{NeighborIp: "10.0.0.2", Nlri: nlri("192.168.4.0", 99), Pattrs: []*anypb.Any{next}},
	})
	s.onPaths(t.Context(), &d, []*api.Path{{NeighborIp: "10.0.0.2"}})
	s.onPaths(t.Context(), &d, []*api.Path{{NeighborIp: "<nil>", Nlri: nlri("192.168.5.0", 26)}})
	s.onPaths(t.Context(), &d, nil)
	var got []string
	for _, e := range s.Events() {
		got = append(got, fmt.Sprint(e.Kind, e.Peer))
		for _, p := range e.Paths {
			got = append(got, fmt.Sprint(p.Prefix, " withdraw=", p.Withdraw, " external=", p.Path.External, " pref=", p.Path.LocalPref))
		}
	}
	want := []string{
		"2 10.0.0.2", "192.168.1.0/26 withdraw=false external=false pref=500", "192.168.2.0/26 withdraw=false external=true pref=100",
		"192.168.3.0/26 withdraw=true external=false pref=0", "fd80::/122 withdraw=true external=false pref=0", "fd80::/123 withdraw=true external=false pref=0", "3 10.0.0.2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
