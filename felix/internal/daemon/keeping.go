package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/statusapi"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/history"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// facts are the kinds of resource that a restored store does not make undone.
var facts = []model.Kind{model.KindWorkloadEndpoint}

const (
	// keptLook is how often other nodes are looked after whose endpoints are kept, and
	// keptNodes how many of them at a time: all hosts of a cluster do so at once. While
	// nothing comes of it, each round takes longer than the one before, at most keptRest
	// from one look to the next.
	keptLook  = 10 * time.Second
	keptRest  = 10 * time.Minute
	keptNodes = 16
	// keptShown is how many kept endpoints are listed one by one.
	keptShown = 50
)

// keeping looks after the endpoints that a restored store lacks: those of this host are
// kept while their interface is there, those of another until that node has written back
// what it has, or is deleted.
type keeping struct {
	etcd *etcdstore.Client
	// lookAt is when the next look is due, and pace how long after that the one that follows.
	lookAt time.Time
	pace   time.Duration
	// answers tells what nodes say; asking says that they are being asked.
	answers chan map[string]history.Node
	asking  bool
	// next is where the round among the nodes goes on.
	next string
	// existed are the nodes that were in the store while endpoints of theirs were kept.
	existed map[string]bool
}

func newKeeping(etcd *etcdstore.Client) *keeping {
	return &keeping{etcd: etcd, pace: keptLook, answers: make(chan map[string]history.Node, 1), existed: map[string]bool{}}
}

// nodesOf lists the nodes whose endpoints are kept, sorted, without the given one.
func nodesOf(kept []model.Key, without string) []string {
	var nodes []string
	for _, k := range kept {
		if e, ok := k.(model.WorkloadEndpointKey); ok && e.Node != without {
			nodes = append(nodes, e.Node)
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// due reports whether it is time for a look.
func (k *keeping) due(now time.Time) bool { return !k.asking && !now.Before(k.lookAt) }

// moving says that something came of the looks, or may come soon.
func (k *keeping) moving(now time.Time) {
	k.pace = keptLook
	if soonest := now.Add(keptLook); k.lookAt.After(soonest) {
		k.lookAt = soonest
	}
}

// doubt has nodes asked at once of whose record something was deleted: they may be gone.
func (k *keeping) doubt(deleted []string, now time.Time) {
	for _, path := range deleted {
		key, _ := model.ParsePath(path)
		if node, ok := key.(model.NodeKey); ok {
			k.existed[node.Name] = true
			k.next, k.lookAt = node.Name, now
			k.pace = keptLook
		}
	}
}

// take is whom to ask at a look; their round among all nodes goes on with the next.
func (k *keeping) take(now time.Time, nodes []string) []string {
	k.lookAt = now.Add(k.pace)
	from, _ := slices.BinarySearch(nodes, k.next)
	around := slices.Concat(nodes[from:], nodes[:from])
	if len(nodes)-from > keptNodes {
		k.next = around[keptNodes]
		return around[:keptNodes]
	}
	k.next, k.pace = "", min(2*k.pace, keptRest)
	return around[:len(nodes)-from]
}

// look asks some of the nodes what they say, beside the loop.
func (k *keeping) look(ctx context.Context, now time.Time, nodes []string) {
	if nodes = k.take(now, nodes); len(nodes) == 0 {
		return
	}
	k.asking = true
	go func() {
		answers := map[string]history.Node{}
		for _, name := range nodes {
			n, err := history.ReadNode(ctx, k.etcd, name)
			if err != nil {
				break // etcd is away, which others tell; what is kept stays
			}
			answers[name] = n
		}
		k.answers <- answers
	}()
}

// gone are the nodes that need nothing kept any more: since is the revision at which the
// restored store was seen.
func (k *keeping) gone(answers map[string]history.Node, since int64) map[string]bool {
	k.asking = false
	gone := map[string]bool{}
	for name, n := range answers {
		gone[name] = n.WrittenBackSince(since) || k.existed[name] && !n.Exists
		k.existed[name] = n.Exists
	}
	return gone
}

// takeRestored follows a store that went back.
func (l *loop) takeRestored() error {
	l.history.Restored()
	if err := errors.Join(l.releaseLost(), l.followSuccession()); err != nil {
		return err
	}
	l.stale = true
	l.keeping.moving(time.Now())
	l.log.Warn("the store was restored to an older state; policies and settings follow it, endpoints that it lacks stay in force", logattr.Rev, l.view.Revision(), logattr.Count, l.view.KeptCount())
	return nil
}

// linksGone has those endpoints end that were kept for an interface which is not there any
// more, or was not when the interfaces were listed.
func (l *loop) linksGone(e ifmonitor.Event, changed []ifmonitor.Link) error {
	if e.Snapshot || slices.ContainsFunc(changed, func(link ifmonitor.Link) bool { return link.Gone }) {
		return l.releaseLost()
	}
	return nil
}

// releaseLost gives up the kept endpoints of this host whose interface is not there.
func (l *loop) releaseLost() error {
	if !l.haveLinks {
		return nil
	}
	return l.release(func(key model.WorkloadEndpointKey) bool {
		if key.Node != l.node {
			return false
		}
		value, _ := l.view.Get(key)
		e, ok := value.(*model.WorkloadEndpoint)
		if !ok {
			return true
		}
		_, exists := l.links.ByName(e.Interface)
		return !exists
	})
}

// release gives up the kept endpoints that match.
func (l *loop) release(match func(model.WorkloadEndpointKey) bool) error {
	return l.takeEvents(l.view.Release(func(k model.Key) bool {
		e, ok := k.(model.WorkloadEndpointKey)
		if ok = ok && match(e); ok {
			l.log.Info("an endpoint that the restored store lacks is given up", logattr.Endpoint, k.String())
		}
		return ok
	}))
}

// takeAnswers gives up the endpoints of nodes that have said so.
func (l *loop) takeAnswers(answers map[string]history.Node) error {
	gone := l.keeping.gone(answers, l.view.RestoredAt())
	return l.release(func(key model.WorkloadEndpointKey) bool { return gone[key.Node] })
}

// keptProblems names the endpoints that the store lacks.
func keptProblems(view *store.View) (out []statusapi.Problem) {
	kept := view.Kept()
	for i, k := range kept {
		if i == keptShown {
			return append(out, statusapi.Problem{Object: "workloadEndpoint", Reason: fmt.Sprintf("the restored store lacks %d more endpoints", len(kept)-i)})
		}
		out = append(out, statusapi.Problem{
			Object: k.String(),
			Reason: "the store was restored to an older state and lacks this endpoint; it stays reachable while its container runs, until its node has written it back",
		})
	}
	return out
}
