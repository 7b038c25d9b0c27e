package statusapi

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/reconcile"
	felixv1 "calico.internal/proto/felix/v1"
)

var key = model.WorkloadEndpointKey{Node: "me", Orchestrator: "libnetwork", Workload: "libnetwork", Name: "e1"}

func request(k model.WorkloadEndpointKey, revision int64) *felixv1.WaitEndpointRequest {
	return &felixv1.WaitEndpointRequest{
		Id:       &felixv1.EndpointID{Node: k.Node, Orchestrator: k.Orchestrator, Workload: k.Workload, Endpoint: k.Name},
		Revision: revision,
	}
}

func with(e Endpoint) map[model.WorkloadEndpointKey]Endpoint {
	return map[model.WorkloadEndpointKey]Endpoint{key: e}
}

func TestWaitEndpointSaysWhatIsMissing(t *testing.T) {
	inForce := with(Endpoint{})
	for _, c := range []struct {
		name  string
		state State
		want  string // empty: it answers
	}{
		{"nothing read, etcd away", State{}, "felix has not read etcd yet, which does not answer"},
		{"nothing applied", State{Connected: true}, "felix has not read and applied all of etcd yet"},
		{"nothing can be applied", State{Connected: true, Fault: "iptables is busy"}, "felix cannot program the kernel: iptables is busy"},
		{"behind", State{InSync: true, Connected: true, Seen: 4, Revision: 4, Endpoints: inForce}, "felix has read etcd up to revision 4 of 7"},
		{"behind, etcd away", State{InSync: true, Seen: 4, Revision: 4, Endpoints: inForce}, "felix has read etcd up to revision 4 of 7, and etcd does not answer"},
		{"read but not applied", State{InSync: true, Connected: true, Seen: 7, Revision: 4, Endpoints: inForce}, "felix has applied etcd's revision 4, not yet 7"},
		{"read and not applicable", State{InSync: true, Connected: true, Seen: 7, Revision: 4, Fault: "x", Endpoints: inForce}, "felix cannot program the kernel: x"},
		{"no such endpoint", State{InSync: true, Connected: true, Seen: 7, Revision: 7}, "etcd has no such endpoint"},
		{"refused", State{InSync: true, Connected: true, Seen: 7, Revision: 7, Refused: map[model.WorkloadEndpointKey]string{key: "bad address"}}, "bad address"},
		{"not all in the kernel", State{InSync: true, Connected: true, Seen: 7, Revision: 7, Endpoints: with(Endpoint{Why: "interface cali1 is down"})}, "interface cali1 is down"},
		{"in force", State{InSync: true, Connected: true, Seen: 7, Revision: 7, Endpoints: inForce}, ""},
		{"in force, etcd away since", State{InSync: true, Seen: 9, Revision: 9, Endpoints: inForce}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.state.Node = "me"
				s := NewServer(NewBoard(c.state))
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				start := time.Now()
				resp, err := s.WaitEndpoint(ctx, request(key, 7))
				if c.want == "" {
					if err != nil || resp.GetRevision() != c.state.Revision {
						t.Errorf("got %v, %v", resp, err)
					}
					return
				}
				if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
				if took := time.Since(start); took >= 10*time.Second || took < 9*time.Second {
					t.Errorf("it answered after %v, too late or too early for a caller that waits 10 s", took)
				}
			})
		})
	}
}

// While the store is not followed, what is in force stays so, and nothing else can come: a
// caller does not wait for an operator, but it does for the end of a lock.
func TestWaitEndpointWhileTheStoreIsNotFollowed(t *testing.T) {
	inForce := with(Endpoint{})
	const why = "it was emptied"
	for _, c := range []struct {
		name    string
		state   State
		want    string
		at      codes.Code
		waiting bool
	}{
		{"held, and in force", State{InSync: true, Connected: true, Held: true, Seen: 7, Revision: 7, Endpoints: inForce}, "", codes.OK, false},
		{"held, and not known", State{InSync: true, Connected: true, Held: true, Seen: 7, Revision: 7}, why, codes.FailedPrecondition, false},
		{"held, and older", State{InSync: true, Connected: true, Held: true, Seen: 4, Revision: 4, Endpoints: inForce}, why, codes.FailedPrecondition, false},
		{"held from the start", State{Connected: true, Held: true}, why, codes.FailedPrecondition, false},
		{"held, and damaged", State{InSync: true, Connected: true, Held: true, Seen: 7, Revision: 7, Endpoints: with(Endpoint{Why: "its route is missing"})}, "its route is missing", codes.DeadlineExceeded, true},
		{"locked, and in force", State{InSync: true, Connected: true, Seen: 7, Revision: 7, Endpoints: inForce}, "", codes.OK, false},
		{"locked, and changed since", State{InSync: true, Connected: true, Seen: 7, Revision: 4, Endpoints: inForce}, why, codes.FailedPrecondition, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.state.Node, c.state.Hold = "me", why
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				start := time.Now()
				_, err := NewServer(NewBoard(c.state)).WaitEndpoint(ctx, request(key, 7))
				if status.Code(err) != c.at || !strings.Contains(status.Convert(err).Message(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
				if took := time.Since(start); took > 0 != c.waiting {
					t.Errorf("it answered after %v", took)
				}
			})
		})
	}
}

func TestAStoreThatIsNotFollowedIsReported(t *testing.T) {
	held := State{Node: "me", InSync: true, Connected: true, Hold: "it was emptied", Held: true}
	locked := held
	locked.Held = false
	if held.Ready() || !locked.Ready() {
		t.Errorf("ready: held %t, locked %t", held.Ready(), locked.Ready())
	}
	got, err := NewServer(NewBoard(held)).Status(t.Context(), &felixv1.StatusRequest{})
	if err != nil || got.GetDatastoreHeld() != "it was emptied" || len(got.GetProblems()) != 1 || got.GetProblems()[0].GetObject() != "datastore" {
		t.Errorf("the status is %v, %v", got, err)
	}
}

func TestARefusedEndpointIsListedWithItsReason(t *testing.T) {
	served, refused, older := key, key, key
	refused.Name, older.Name = "e2", "e3"
	st := State{
		Node: "me", Endpoints: map[model.WorkloadEndpointKey]Endpoint{served: {}, older: {Interface: "cali3"}},
		Refused: map[model.WorkloadEndpointKey]string{refused: "bad MAC", older: "bad address"},
	}
	list, err := NewServer(NewBoard(st)).ListEndpoints(t.Context(), &felixv1.ListEndpointsRequest{})
	if err != nil || len(list.GetEndpoints()) != 3 {
		t.Fatalf("got %v, %v", list, err)
	}
	for i, want := range []string{"", "bad MAC", "bad address"} {
		if e := list.GetEndpoints()[i]; e.GetWhy() != want || e.GetInForce() != (want == "") {
			t.Errorf("got %v, want %q", e, want)
		}
	}
}

func TestWaitEndpointIsWokenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard(State{Node: "me"})
		s := NewServer(b)
		done := make(chan error)
		go func() {
			_, err := s.WaitEndpoint(t.Context(), request(key, 5))
			done <- err
		}()
		for rev := int64(3); rev <= 5; rev++ {
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatalf("it answered at revision %d: %v", rev-1, err)
			default:
			}
			b.Post(&State{Node: "me", InSync: true, Connected: true, Seen: rev, Revision: rev, Endpoints: with(Endpoint{})})
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestWaitEndpointOfAnotherHostIsRefused(t *testing.T) {
	other := key
	other.Node = "you"
	_, err := NewServer(NewBoard(State{Node: "me"})).WaitEndpoint(t.Context(), request(other, 0))
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `node "me"`) {
		t.Errorf("got %v", err)
	}
}

func TestStatusAndList(t *testing.T) {
	st := State{
		Node: "me", Version: "v1", Dataplane: "iptables-nft", InSync: true, Seen: 9, Revision: 8, Connected: true, Fault: "busy",
		Tables:   []reconcile.Status{{Name: "routes", Desired: 3, Actual: 2, Pending: 1}},
		Problems: []Problem{{Object: "policy p", Reason: "bad"}},
		Endpoints: map[model.WorkloadEndpointKey]Endpoint{
			{Node: "me", Name: "b"}: {Interface: "calib", Why: "its route is missing"},
			{Node: "me", Name: "a"}: {Interface: "calia", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}, Profiles: []string{"net1"}, Policies: []string{"p"}},
		},
	}
	s := NewServer(NewBoard(st))
	got, err := s.Status(t.Context(), &felixv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &felixv1.StatusResponse{
		Node: "me", Version: "v1", Dataplane: "iptables-nft", InSync: true, Revision: 8, DatastoreConnected: true,
		Tables:   []*felixv1.Table{{Name: "routes", Desired: 3, Actual: 2, Pending: 1}},
		Problems: []*felixv1.Problem{{Object: "dataplane", Reason: "busy"}, {Object: "policy p", Reason: "bad"}},
	}
	if d := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(&felixv1.StatusResponse{}, "started")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	list, err := s.ListEndpoints(t.Context(), &felixv1.ListEndpointsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wantList := &felixv1.ListEndpointsResponse{Endpoints: []*felixv1.Endpoint{
		{Id: &felixv1.EndpointID{Node: "me", Endpoint: "a"}, Interface: "calia", Addresses: []string{"10.0.0.1/32"}, Profiles: []string{"net1"}, Policies: []string{"p"}, InForce: true},
		{Id: &felixv1.EndpointID{Node: "me", Endpoint: "b"}, Interface: "calib", Why: "its route is missing"},
	}}
	if d := cmp.Diff(wantList, list, protocmp.Transform()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestReady(t *testing.T) {
	for _, c := range []struct {
		state State
		want  bool
	}{
		{State{InSync: true, Connected: true}, true},
		{State{InSync: true}, false},
		{State{Connected: true}, false},
		{State{InSync: true, Connected: true, Fault: "x"}, false},
		{State{InSync: true, Connected: true, Degraded: "x"}, false},
	} {
		if got := c.state.Ready(); got != c.want {
			t.Errorf("%+v: ready is %v", c.state, got)
		}
	}
}
