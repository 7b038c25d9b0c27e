package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/version"
)

// ErrTooOld says that the store has something in it that this program would lose if it
// wrote, or that a write would put such a thing in while older programs live. Reading is
// allowed to all.
var ErrTooOld = errors.New("a newer version is needed")

// TooOldError says that this program may not write to the store. It Is [ErrTooOld].
type TooOldError struct {
	// Need is the version that the store is for, and Own this program's.
	Need, Own string
}

// Error says what to do.
func (e *TooOldError) Error() string {
	return fmt.Sprintf("this store is for %s and later; this is %s: upgrade this program (it can read the store, and writes nothing)", e.Need, e.Own)
}

// Unwrap is ErrTooOld.
func (*TooOldError) Unwrap() error { return ErrTooOld }

// OlderNodesError says that a write would shut out programs that live. It Is [ErrTooOld].
type OlderNodesError struct {
	Need string
	// Programs are those that are older, and Versions what they are, in the same order.
	Programs []model.LivenessKey
	Versions []string
}

// Error names the nodes.
func (e *OlderNodesError) Error() string {
	texts := make([]string, len(e.Programs))
	for i, p := range e.Programs {
		texts[i] = fmt.Sprintf("node %s (%s is %s)", p.Node, p.Program, e.Versions[i])
	}
	return fmt.Sprintf("it needs %s on all nodes, and older is %s: upgrade that first, or stop it", e.Need, strings.Join(texts, ", "))
}

// Unwrap is ErrTooOld.
func (*OlderNodesError) Unwrap() error { return ErrTooOld }

// Needs says that whoever is older than a version must not write to the store from now on,
// because what this writes has a field whose loss would change traffic. The transaction
// raises [model.MinVersionKey] to it. It is refused, by an [*OlderNodesError], while a
// program that is older lives on any node.
func (w Write) Needs(v string) Write {
	w.needs = v
	return w
}

var minVersionPath = model.Paths(model.MinVersionKey{})[0]

// floor is the version that the store asks of those who write, as this client last saw it.
// Every transaction that writes has a condition on the key's revision, so that a program
// which slept while it was raised learns of it at its next write, without having asked.
type floor struct {
	mu sync.Mutex
	// rev is the key's revision; 0 when it is not there.
	rev  int64
	need string
}

func (f *floor) get() (rev int64, need string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rev, f.need
}

// learn takes over what was read of the key.
func (f *floor) learn(resp *clientv3.GetResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rev, f.need = 0, ""
	for _, kv := range resp.Kvs {
		f.rev, f.need = kv.ModRevision, strings.TrimSpace(string(kv.Value))
	}
}

// Version is the version of the program, as others see it.
func (c *Client) Version() string { return c.cfg.Version }

// MayWrite is a [*TooOldError] when the store is for newer programs, as it is now: any write
// would be refused so.
func (c *Client) MayWrite(ctx context.Context) error {
	if _, _, err := c.readFloor(ctx); err != nil {
		return err
	}
	_, err := c.mayWrite(ctx)
	return err
}

// mayWrite refuses when the store is for newer programs. It asks again before it does.
func (c *Client) mayWrite(ctx context.Context) (rev int64, err error) {
	rev, need := c.floor.get()
	if need == "" || version.AtLeast(c.cfg.Version, need) {
		return rev, nil
	}
	if rev, need, err = c.readFloor(ctx); err != nil {
		return 0, err
	}
	if need != "" && !version.AtLeast(c.cfg.Version, need) {
		return 0, &TooOldError{Need: need, Own: c.cfg.Version}
	}
	return rev, nil
}

func (c *Client) readFloor(ctx context.Context) (rev int64, need string, err error) {
	err = c.do(ctx, 0, func(ctx context.Context) error {
		resp, err := c.etcd.Get(ctx, minVersionPath)
		if err == nil {
			c.floor.learn(resp)
		}
		return err
	})
	rev, need = c.floor.get()
	return rev, need, err
}

// txn is a transaction that may write. All of them go through here.
func (c *Client) txn(ctx context.Context, cmps []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	for {
		rev, err := c.mayWrite(ctx)
		if err != nil {
			return nil, err
		}
		guarded := append(slices.Clip(cmps), clientv3.Compare(clientv3.ModRevision(minVersionPath), "=", rev))
		resp, err := c.bareTxn(ctx, guarded, then, append(slices.Clip(otherwise), clientv3.OpGet(minVersionPath)))
		if err != nil || resp.Succeeded {
			return resp, err
		}
		last := len(resp.Responses) - 1
		now := (*clientv3.GetResponse)(resp.Responses[last].GetResponseRange())
		resp.Responses = resp.Responses[:last]
		c.floor.learn(now)
		if at, _ := c.floor.get(); at == rev {
			return resp, nil // it is one of the caller's conditions that failed
		}
	}
}

// bareTxn is a transaction that programs of any version may do.
func (c *Client) bareTxn(ctx context.Context, cmps []clientv3.Cmp, then, otherwise []clientv3.Op) (resp *clientv3.TxnResponse, err error) {
	err = c.do(ctx, 0, func(ctx context.Context) (err error) {
		resp, err = c.etcd.Txn(ctx).If(cmps...).Then(then...).Else(otherwise...).Commit()
		return err
	})
	return resp, err
}

// transact does a planned transaction. A program shows that it lives whatever its version
// is: that is how the others know of it.
func (c *Client) transact(ctx context.Context, plans []plan, cmps []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	writes := func(p plan) bool { return len(p.ops) > 0 && p.key.Kind() != model.KindLiveness }
	if slices.ContainsFunc(plans, writes) {
		return c.txn(ctx, cmps, then, otherwise)
	}
	return c.bareTxn(ctx, cmps, then, otherwise)
}

// raiseTries is how often raising is tried while programs start all the time.
const raiseTries = 5

// raise adds to writes what raises the store's version to what they need. raised is false
// when that is not necessary.
func (c *Client) raise(ctx context.Context, writes []Write) (all []Write, raised bool, err error) {
	need := ""
	for _, w := range writes {
		if w.needs != "" && (need == "" || !version.AtLeast(need, w.needs)) {
			need = w.needs
		}
	}
	if need == "" {
		return writes, false, nil
	}
	rev, have, err := c.readFloor(ctx)
	if err != nil || have != "" && version.AtLeast(have, need) {
		return writes, false, err
	}
	if !version.AtLeast(c.cfg.Version, need) {
		return nil, false, &TooOldError{Need: need, Own: c.cfg.Version}
	}
	at, err := c.nobodyOlder(ctx, need)
	if err != nil {
		return nil, false, err
	}
	k, v := model.MinVersionKey{}, &model.Setting{Of: model.KindMinVersion, Value: need}
	var w Write
	if rev == 0 {
		w, err = CreateWrite(k, v)
	} else {
		w, err = UpdateWrite(k, v, rev)
	}
	if err != nil {
		return nil, false, err
	}
	all = append(slices.Clip(writes), w)
	for _, prefix := range model.ListPrefixes(model.KindLiveness) {
		all = append(all, StillWrite(k, prefix, at))
	}
	return all, true, nil
}

// nobodyOlder makes sure that all programs that live are of a version, and returns the
// revision at which they are.
func (c *Client) nobodyOlder(ctx context.Context, need string) (int64, error) {
	alive, at, bad, err := c.List(ctx, model.KindLiveness, nil)
	if err != nil {
		return 0, err
	}
	older := &OlderNodesError{Need: need}
	add := func(k model.Key, v string) {
		key, _ := k.(model.LivenessKey)
		older.Programs, older.Versions = append(older.Programs, key), append(older.Versions, v)
	}
	for _, e := range alive {
		if l, _ := e.Value.(*model.Liveness); !version.AtLeast(l.Version, need) {
			add(e.Key, l.Version)
		}
	}
	for _, q := range bad {
		add(q.Key, "of a version that cannot be read")
	}
	if len(older.Programs) > 0 {
		return 0, older
	}
	return at, nil
}

// lostRace says whether a transaction failed only because somebody else raised the version,
// or a program started, meanwhile.
func lostRace(err error) bool {
	conflict, ok := errors.AsType[*ConflictError](err)
	return ok && !slices.ContainsFunc(conflict.Keys, func(k model.Key) bool { return k != model.MinVersionKey{} })
}
