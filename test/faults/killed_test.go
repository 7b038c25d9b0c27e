package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	"calico.internal/test/internal/cluster"
)

// kills is how often TestKilledAgainAndAgain kills felix.
func kills() int {
	if long() {
		return 200
	}
	return 10
}

// TestKilledAgainAndAgain: felix is killed while policies and endpoints come, change and go,
// in the middle of a pass or of its start. Traffic and denials hold throughout, and when all
// that came is gone again nothing of it is left.
func TestKilledAgainAndAgain(t *testing.T) {
	c := cluster.New(t, 2)
	c.StartAll()
	h := c.Hosts[0]
	a, x, b := h.Add("a", "net1"), h.Add("x", "net2"), c.Hosts[1].Add("b", "net1")
	for _, w := range []*cluster.Workload{a, x, b} {
		w.InForce()
	}
	a.Reaches(b.IP, 62)
	a.Reaches(b.IP6, 62)
	h.AwaitSync()
	before, left := picture(t, h), leftOvers(h)
	out, in := a.Hold(b, x), b.Hold(a, x)
	r := rand.New(rand.NewPCG(3, 4))
	storm := beginStorm(t, c, h.Node)
	for i := range kills() {
		if i%5 == 4 { // else it may not even have read the store
			h.AwaitSync()
		}
		<-time.After(time.Duration(r.IntN(400)) * time.Millisecond)
		h.Felix.Kill()
		h.StartFelix()
	}
	writes := storm.end()
	h.AwaitSync()
	for _, w := range []*cluster.Workload{a, x} {
		w.InForce()
	}
	awaitLeftOvers(t, h, left)
	if now := picture(t, h); now != before {
		t.Errorf("gone:\n%s\nnew:\n%s", without(before, now), without(now, before))
	}
	out.End()
	in.End()
	t.Logf("%d kills beside %d writes", kills(), writes)
}

// storm is changes that never end.
type storm struct {
	t      *testing.T
	c      *cluster.Cluster
	node   string
	cancel context.CancelFunc
	over   chan int
}

// stormObjects is how many policies, and how many endpoints, of a storm there may be at once.
const stormObjects = 7

func beginStorm(t *testing.T, c *cluster.Cluster, node string) *storm {
	ctx, cancel := context.WithCancel(t.Context())
	s := &storm{t: t, c: c, node: node, cancel: cancel, over: make(chan int, 1)}
	t.Cleanup(cancel)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if err := s.change(ctx, n); err != nil && ctx.Err() == nil {
				t.Errorf("a write of the storm: %v", err)
				break
			}
		}
		s.over <- n
	}()
	return s
}

// change makes the nth change: a policy that leaves everything as it is for who has it, or an
// endpoint without a container whose labels such policies select.
func (s *storm) change(ctx context.Context, n int) error {
	policy, endpoint := s.policy(n), s.endpoint(n)
	if n%3 == 2 {
		for _, k := range []model.Key{policy, endpoint} {
			if _, err := s.c.Store.Delete(ctx, k, 0); err != nil && !errors.Is(err, etcdstore.ErrNotFound) {
				return err
			}
		}
		return nil
	}
	port := uint16(1 + n%60000)
	addr := netip.AddrFrom4([4]byte{192, 168, 255, byte(1 + n%200)})
	for k, r := range map[model.Key]model.Resource{
		policy: &model.Policy{
			Selector: "all()", Types: []string{model.PolicyTypeEgress},
			OutboundRules: []model.Rule{
				{Action: model.ActionAllow, Protocol: "tcp", Destination: model.Match{
					Selector: fmt.Sprintf("role == 'r%d'", n%5), Ports: []model.Port{{First: port, Last: port}},
				}},
				{Action: model.ActionAllow},
			},
		},
		endpoint: &model.WorkloadEndpoint{
			State: "active", Interface: fmt.Sprintf("calistorm%d", n%stormObjects), MAC: nettest.ContainerMAC, Profiles: []string{"net1"},
			Labels: map[string]string{"role": fmt.Sprintf("r%d", n%4)}, IPv4Nets: []netip.Prefix{netip.PrefixFrom(addr, 32)},
		},
	} {
		w, err := etcdstore.PutWrite(k, r)
		if err != nil {
			return err
		}
		if _, err := s.c.Store.Commit(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

func (s *storm) policy(n int) model.PolicyKey {
	return model.NewPolicyKey("", fmt.Sprintf("storm%d", n%stormObjects))
}

func (s *storm) endpoint(n int) model.WorkloadEndpointKey {
	return model.WorkloadEndpointKey{Node: s.node, Orchestrator: "libnetwork", Workload: "libnetwork", Name: fmt.Sprintf("storm%d", n%stormObjects)}
}

// end ends the storm and deletes what it left, and says how many changes there were.
func (s *storm) end() int {
	s.t.Helper()
	s.cancel()
	n := <-s.over
	for i := range stormObjects {
		for _, k := range []model.Key{s.policy(i), s.endpoint(i)} {
			if _, err := s.c.Store.Delete(s.t.Context(), k, 0); err != nil && !errors.Is(err, etcdstore.ErrNotFound) {
				s.t.Fatal(err)
			}
		}
	}
	return n
}
