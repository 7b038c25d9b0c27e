// Package transfer carries the contents of a datastore into another one: of a file
// that was exported, or of the etcd v2 tree of an old Calico v2.6. It reads everything,
// says what would become of it, writes it resource by resource, and compares in the end.
// All of it can be repeated: what is there already is not written again.
package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// Dump is the contents of a datastore: values by path.
type Dump struct {
	// Source is how messages call it.
	Source string
	Values map[string][]byte
}

// State says how an item stands to the datastore that it is to go to.
type State string

// The states of an item.
const (
	New       State = "new"
	Same      State = "same"
	Different State = "different"
)

// Item is one resource of a dump.
type Item struct {
	Key   model.Key
	Value model.Resource
	State State

	parts map[string][]byte
}

// Problem is a path of a dump that cannot be taken.
type Problem struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// Plan is what would become of a dump.
type Plan struct {
	Items []Item
	// Skipped is what has no place in the new datastore.
	Skipped []Problem
	// Invalid is what has one, but not with its value.
	Invalid []Problem
}

// Count is how many resources of a kind are in which state.
type Count struct {
	Kind      model.Kind `json:"kind"`
	New       int        `json:"new"`
	Same      int        `json:"same"`
	Different int        `json:"different"`
}

// reports are the kinds that running programs write anew by themselves.
var reports = []model.Kind{model.KindHistory, model.KindLiveness, model.KindFelixStatus, model.KindEndpointStatus}

// Read makes resources of a dump. What is wrong with it is in the plan.
func Read(d Dump) Plan {
	var p Plan
	parts := map[model.Key]map[string][]byte{}
	for _, path := range slices.Sorted(maps.Keys(d.Values)) {
		k, ok := model.ParsePath(path)
		fault := model.PathFault(path)
		switch {
		case fault != nil:
			p.Invalid = append(p.Invalid, Problem{path, fault.Error()})
		case !ok:
			p.Skipped = append(p.Skipped, Problem{path, "nothing here uses this key"})
		case slices.Contains(reports, k.Kind()):
			p.Skipped = append(p.Skipped, Problem{path, "a report that running programs write anew"})
		case k.Kind() == model.KindReady:
		default:
			if parts[k] == nil {
				parts[k] = map[string][]byte{}
			}
			parts[k][path] = d.Values[path]
		}
	}
	for k, values := range parts {
		p.add(k, values)
	}
	slices.SortFunc(p.Items, func(a, b Item) int { return model.Compare(a.Key, b.Key) })
	slices.SortFunc(p.Invalid, func(a, b Problem) int { return strings.Compare(a.Path, b.Path) })
	return p
}

// add decodes a resource, and writes it as this version does.
func (p *Plan) add(k model.Key, values map[string][]byte) {
	r, err := store.Read(k, values)
	var parts map[string][]byte
	if err == nil {
		parts, err = model.Encode(k, r)
	}
	if err != nil {
		p.Invalid = append(p.Invalid, Problem{slices.Min(slices.Collect(maps.Keys(values))), err.Error()})
		return
	}
	p.Items = append(p.Items, Item{Key: k, Value: r, State: New, parts: parts})
}

// Compare sets the states of the items by what a datastore holds.
func (p *Plan) Compare(ctx context.Context, c *etcdstore.Client) error {
	there, err := read(ctx, c)
	if err != nil {
		return err
	}
	for i := range p.Items {
		p.Items[i].State = stateOf(p.Items[i], there)
	}
	return nil
}

func stateOf(it Item, there map[string][]byte) State {
	stored := map[string][]byte{}
	for _, path := range model.Paths(it.Key) {
		if value, ok := there[path]; ok {
			stored[path] = value
		}
	}
	if len(stored) == 0 {
		return New
	}
	if r, err := model.Decode(it.Key, stored); err == nil {
		// A value that another version wrote may mean the same.
		if parts, err := model.Encode(it.Key, r); err == nil && maps.EqualFunc(parts, it.parts, bytes.Equal) {
			return Same
		}
	}
	return Different
}

// Counts sums up the states by kind.
func (p *Plan) Counts() []Count {
	var out []Count
	for _, it := range p.Items {
		i := slices.IndexFunc(out, func(c Count) bool { return c.Kind == it.Key.Kind() })
		if i < 0 {
			i = len(out)
			out = append(out, Count{Kind: it.Key.Kind()})
		}
		switch it.State {
		case New:
			out[i].New++
		case Same:
			out[i].Same++
		case Different:
			out[i].Different++
		}
	}
	slices.SortFunc(out, func(a, b Count) int { return strings.Compare(string(a.Kind), string(b.Kind)) })
	return out
}

// In lists the keys of the items in a state.
func (p *Plan) In(state State) []model.Key {
	var out []model.Key
	for _, it := range p.Items {
		if it.State == state {
			out = append(out, it.Key)
		}
	}
	return out
}

// The limits of a transaction, below those of etcd.
const (
	maxOps  = 100
	maxSize = 1 << 20
)

// Write writes the items that are not the same already, in transactions of many. The
// datastore is locked meanwhile, so that nobody works with half of it, and stays so if
// that fails; repeated, it goes on where it was. progress is called now and then.
func (p *Plan) Write(ctx context.Context, c *etcdstore.Client, keepLocked bool, progress func(done, all int)) error {
	if err := setReady(ctx, c, false); err != nil {
		return err
	}
	all := len(p.Items) - len(p.In(Same))
	done := 0
	var writes []etcdstore.Write
	ops, size := 0, 0
	flush := func() error {
		if len(writes) == 0 {
			return nil
		}
		if _, err := c.Commit(ctx, writes...); err != nil {
			return err
		}
		done += len(writes)
		progress(done, all)
		writes, ops, size = nil, 0, 0
		return nil
	}
	for _, it := range p.Items {
		if it.State == Same {
			continue
		}
		n := 0
		for path, value := range it.parts {
			n += len(path) + len(value)
		}
		paths := len(model.Paths(it.Key))
		if ops+paths > maxOps || size+n > maxSize {
			if err := flush(); err != nil {
				return err
			}
		}
		w, err := etcdstore.PutWrite(it.Key, it.Value)
		if err != nil {
			return err
		}
		writes, ops, size = append(writes, w), ops+paths, size+n
	}
	if err := flush(); err != nil {
		return err
	}
	if err := p.verify(ctx, c); err != nil || keepLocked {
		return err
	}
	return setReady(ctx, c, true)
}

// verify reads everything again.
func (p *Plan) verify(ctx context.Context, c *etcdstore.Client) error {
	if err := p.Compare(ctx, c); err != nil {
		return fmt.Errorf("compare what was written: %w", err)
	}
	var faults []error
	for _, it := range p.Items {
		if it.State != Same {
			faults = append(faults, fmt.Errorf("%s is not what was written: someone else writes at the same time", it.Key))
		}
	}
	return errors.Join(faults...)
}

func setReady(ctx context.Context, c *etcdstore.Client, yes bool) error {
	ready := model.Ready(yes)
	_, _, err := c.Apply(ctx, model.ReadyKey{}, &ready)
	return err
}

// pageSize is how many keys are read at a time.
const pageSize = 2000

// read returns all values of the key tree at one revision that are not bound to a
// lease.
func read(ctx context.Context, c *etcdstore.Client) (map[string][]byte, error) {
	out := map[string][]byte{}
	from, end, revision := model.Root, clientv3.GetPrefixRangeEnd(model.Root), int64(0)
	for {
		resp, err := c.Raw().Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		if err != nil {
			return nil, fmt.Errorf("read the datastore: %w", err)
		}
		for _, kv := range resp.Kvs {
			if kv.Lease == 0 {
				out[string(kv.Key)] = kv.Value
			}
		}
		if !resp.More {
			return out, nil
		}
		revision = resp.Header.Revision
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}
