package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"calico.internal/libcalico/store"
)

// DefaultAudit is how often a watch reads everything again, to find what it missed.
const DefaultAudit = 5 * time.Minute

// WatchOptions change how a watch works.
type WatchOptions struct {
	// Audit is the time between audits: 0 means [DefaultAudit], a negative one none.
	Audit time.Duration
	// WentBack, when not nil, is asked before the first snapshot, after each outage and at
	// each audit whether etcd's history is known to have gone back, for the cases in which
	// etcd itself does not tell. remembered says that etcd knows the latest change that the
	// watch has seen.
	WentBack func(ctx context.Context, remembered bool) (bool, error)
	// probe and silence are for tests: after probe without a message the server is
	// asked for one, after silence it counts as lost.
	probe, silence time.Duration
}

const (
	// A lost server is noticed within probe + silence, also when packets just vanish.
	defaultProbe   = 2 * time.Second
	defaultSilence = 8 * time.Second

	minBackoff = 100 * time.Millisecond
	maxBackoff = 500 * time.Millisecond
)

func (o WatchOptions) withDefaults() WatchOptions {
	if o.Audit == 0 {
		o.Audit = DefaultAudit
	}
	if o.probe == 0 {
		o.probe, o.silence = defaultProbe, defaultSilence
	}
	return o
}

// Batch is one step of a watch.
type Batch = store.Batch

// KV is one value of etcd.
type KV = store.KV

var (
	errCompacted = errors.New("the watched revision is compacted")
	errForked    = errors.New("etcd's history is not the one that was watched")
	errSilent    = errors.New("no answer in time")
	// errForgotten says that etcd has forgotten the token of the stream.
	errForgotten = errors.New("etcd does not know the token any longer")

	errNoPrefixes = errors.New("no prefixes to read")
)

// Watch sends a snapshot of all keys with one of the prefixes, of which there must be one,
// and then every change, until ctx ends and the channel is closed. What comes while the receiver is busy is
// merged into one batch; changes of one revision are never in two.
//
// When etcd is lost, a batch with Err is sent, and one without when it is back; the
// changes of the meantime follow. A new snapshot is sent when the changes of the
// meantime cannot be had, when it cannot be shown that etcd's history is still the one that
// was watched (compaction, restored backup, another cluster), and at each audit. That of a
// history that went back is marked as Restored.
//
// All prefixes are watched by one watch over the range that covers them, because etcd
// keeps a transaction together only within one; the user's role must allow reading
// that range.
func (c *Client) Watch(ctx context.Context, prefixes []string, opts WatchOptions) <-chan Batch {
	if len(prefixes) == 0 {
		return watchNothing(ctx)
	}
	return start(ctx, &watcher{client: c, ranges: newRanges(prefixes), opts: opts.withDefaults(), pending: newPending()})
}

// start runs a watch until ctx ends.
func start(ctx context.Context, w *watcher) <-chan Batch {
	out := make(chan Batch)
	go w.run(ctx)
	go func() {
		defer close(out)
		w.pending.deliver(ctx, out)
	}()
	return out
}

// watchNothing says what is wrong with a watch without prefixes, until ctx ends.
func watchNothing(ctx context.Context) <-chan Batch {
	out := make(chan Batch, 1)
	out <- Batch{Err: errNoPrefixes}
	context.AfterFunc(ctx, func() { close(out) })
	return out
}

// watcher keeps one watch going. Its state belongs to the goroutine of run.
type watcher struct {
	client  *Client
	ranges  ranges
	opts    WatchOptions
	pending *pending

	// apart says that each range has a watch of its own.
	apart bool
	// nodes are those between whose workload endpoints it watches.
	nodes nodeNames
	// followed are the ranges that etcd is asked to watch, and how far each has come.
	followed []followed

	// at is how far the watch has come; a zero revision means that nothing is known yet.
	at position
	// last is the latest change up to there that left a value.
	last witness
	// mustList says that the changes after at cannot be had; wentBack that etcd's history is
	// another than the one that at belongs to. Both hold until a snapshot is handed over.
	mustList, wentBack bool
	// progress says that the present session has heard from its watch.
	progress bool
	// token is that of the present stream; forgotten says that the one before was refused.
	token     string
	forgotten bool
}

func (w *watcher) run(ctx context.Context) {
	backoff := minBackoff
	for ctx.Err() == nil {
		w.progress = false
		err := w.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if w.progress {
			backoff = minBackoff
		}
		w.mustList = w.mustList || errors.Is(err, errCompacted)
		again := errors.Is(err, errForgotten) && !w.forgotten
		w.forgotten = again
		if again || errors.Is(err, errCompacted) || errors.Is(err, errForked) || errors.Is(err, errDivided) {
			backoff = minBackoff // etcd answers: only the position, the token or a range is wrong
		} else {
			w.pending.fail(err)
		}
		if !pause(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// pause waits for half to all of d, so that many agents do not come back at once.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// session catches up and follows the changes until something goes wrong.
func (w *watcher) session(ctx context.Context) error {
	if w.at.revision != 0 {
		if err := w.recall(ctx); err != nil {
			return err
		}
	}
	if w.at.revision == 0 || w.mustList || w.wentBack {
		if err := w.snapshot(ctx); err != nil {
			return err
		}
	}
	return w.follow(ctx)
}

// recall finds out whether etcd's history is still the one that was watched.
func (w *watcher) recall(ctx context.Context) error {
	now, err := w.client.head(ctx)
	if err != nil {
		return err
	}
	memory, err := w.client.remembers(ctx, w.last)
	if err != nil {
		return err
	}
	w.mustList = w.mustList || memory != remembered
	w.wentBack = w.wentBack || w.at.forkedFrom(now) || memory == otherwise
	return w.askWhetherBack(ctx, memory)
}

// askWhetherBack asks those who keep account of the history themselves.
func (w *watcher) askWhetherBack(ctx context.Context, m memory) error {
	if w.opts.WentBack == nil {
		return nil
	}
	back, err := w.opts.WentBack(ctx, m == remembered)
	w.wentBack = w.wentBack || back
	return err
}

// snapshot reads everything and hands it over.
func (w *watcher) snapshot(ctx context.Context) error {
	if w.at.revision == 0 {
		// Before, so that a history that goes back meanwhile is noticed.
		if err := w.askWhetherBack(ctx, unknown); err != nil {
			return err
		}
	}
	w.nodes = nodeNames{}
	kvs, at, err := w.client.scanNoting(ctx, w.ranges, w.nodes)
	if err != nil {
		return err
	}
	w.followed = w.toFollow()
	w.handOver(kvs, at)
	return nil
}

func (w *watcher) handOver(kvs []store.KV, at position) {
	w.pending.snapshot(kvs, at.revision, w.wentBack)
	w.at, w.last = at, latest(kvs)
	for i := range w.followed {
		w.followed[i].revision = at.revision
	}
	w.mustList, w.wentBack = false, false
}

// follow opens a stream from the revision after w.at and takes in what it brings.
func (w *watcher) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	stream, err := w.open(ctx)
	if err != nil {
		return w.client.explain(ctx, err)
	}
	messages, failed := receive(ctx, stream)
	ask := w.request(ctx, stream)
	created := &created{waiting: w.followed, ids: map[int64]*followed{}}

	tick := time.NewTicker(w.opts.probe)
	defer tick.Stop()
	var audit <-chan time.Time
	if w.opts.Audit > 0 {
		// Agents that started together do not audit together.
		timer := time.NewTicker(w.opts.Audit - rand.N(w.opts.Audit/10+1))
		defer timer.Stop()
		audit = timer.C
	}
	heard := time.Now()
	var events []*mvccpb.Event
	for {
		select {
		case m := <-messages:
			heard = time.Now()
			events = append(events, m.Events...)
			if m.Fragment {
				continue
			}
			if err := w.take(ctx, m, events, created); err != nil {
				return err
			}
			events = nil
		case err := <-failed:
			return w.client.explain(ctx, err)
		case <-tick.C:
			quiet := time.Since(heard)
			if quiet >= w.opts.silence {
				return w.client.unavailable(w.client.where(), errSilent.Error(), errSilent)
			}
			if quiet >= w.opts.probe {
				ask()
			}
		case <-audit:
			if err := w.audit(ctx); err != nil {
				return err
			}
			heard = time.Now()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// audit reads everything again. What the stream still brings from before is older and
// is dropped by take.
func (w *watcher) audit(ctx context.Context) error {
	kvs, at, err := w.client.scan(ctx, w.ranges)
	if err != nil {
		return err
	}
	if w.opts.WentBack != nil {
		memory, err := w.client.remembers(ctx, w.last)
		if err != nil {
			return err
		}
		if err := w.askWhetherBack(ctx, memory); err != nil {
			return err
		}
	}
	if w.wentBack || w.at.forkedFrom(at) {
		return errForked
	}
	w.handOver(kvs, at)
	return nil
}

func (w *watcher) open(ctx context.Context) (etcdserverpb.Watch_WatchClient, error) {
	w.token, _ = w.client.login.current()
	stream, err := etcdserverpb.NewWatchClient(w.client.etcd.ActiveConnection()).Watch(ctx, grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil {
		return nil, err
	}
	return stream, nil
}

// request sends the requests for all watches, and then one for a sign of life whenever it is
// asked to. It does so in a goroutine of its own, because etcd may not take more requests
// before its answers are read. That the stream has failed is learned from receiving.
func (w *watcher) request(ctx context.Context, stream etcdserverpb.Watch_WatchClient) (ask func()) {
	requests, probes := make([]*etcdserverpb.WatchRequest, len(w.followed)), make(chan struct{}, 1)
	for i, f := range w.followed {
		requests[i] = f.request()
	}
	go func() {
		for _, r := range requests {
			if stream.Send(r) != nil {
				return
			}
		}
		for {
			select {
			case <-probes:
				if stream.Send(progressRequest()) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		select {
		case probes <- struct{}{}:
		default: // the one before is still on its way
		}
	}
}

// maxMessage limits what etcd may send at once; its own limit is that of a fragment.
const maxMessage = 1<<31 - 1

func progressRequest() *etcdserverpb.WatchRequest {
	return &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{
		ProgressRequest: &etcdserverpb.WatchProgressRequest{},
	}}
}

// receive reads the stream in a goroutine of its own until ctx ends.
func receive(ctx context.Context, stream etcdserverpb.Watch_WatchClient) (<-chan *etcdserverpb.WatchResponse, <-chan error) {
	messages, failed := make(chan *etcdserverpb.WatchResponse), make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				failed <- ctx.Err()
				return
			}
		}
	}()
	return messages, failed
}

// take hands over the events of a complete message.
func (w *watcher) take(ctx context.Context, m *etcdserverpb.WatchResponse, events []*mvccpb.Event, of *created) error {
	switch {
	case m.CompactRevision != 0:
		return errCompacted
	case m.Canceled:
		return w.cancelled(ctx, m.CancelReason)
	case m.Header.GetClusterId() != w.at.cluster:
		return errForked
	}
	if of.note(m) && !w.progress {
		w.progress = true
		w.pending.connected(w.at.revision)
	}
	f := of.ids[m.WatchId]
	for f != nil && len(events) > 0 && events[0].Kv.ModRevision <= f.revision {
		events = events[1:]
	}
	if f == nil || len(events) == 0 {
		return nil
	}
	f.revision = events[len(events)-1].Kv.ModRevision
	w.at.revision = max(w.at.revision, f.revision)
	if kv := lastPut(events); kv != nil && kv.ModRevision > w.last.revision {
		w.last = newWitness(newKV(kv))
	}
	w.pending.add(events, w.ranges, w.at.revision)
	return w.divide(events)
}

// cancelled is the error of a watch that etcd has ended.
func (w *watcher) cancelled(ctx context.Context, reason string) error {
	err := cancelled(reason)
	if w.client.cfg.Username != "" && isStaleToken(err) {
		w.client.login.refused(w.token)
		return fmt.Errorf("%w: %w", errForgotten, w.client.explain(ctx, err))
	}
	return w.client.explain(ctx, err)
}

// staleTokens are etcd's words about a token that it does not know, or no longer.
var staleTokens = []error{rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCUserEmpty}

// cancelled is what etcd gives as its reason to end a watch, of which only the text comes
// over the wire.
func cancelled(reason string) error {
	for _, err := range staleTokens {
		if strings.Contains(reason, status.Convert(err).Message()) {
			return err
		}
	}
	code := codes.Unavailable
	switch {
	case strings.Contains(reason, "permission denied"):
		code = codes.PermissionDenied
	case strings.Contains(reason, "auth token"):
		code = codes.Unauthenticated
	}
	if reason == "" {
		reason = "no reason given"
	}
	return status.Error(code, "watch cancelled: "+reason)
}
