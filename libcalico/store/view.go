package store

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"iter"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"

	"calico.internal/libcalico/model"
)

// Options say what a view holds.
type Options struct {
	// Filter chooses the resources to hold; nil means all.
	Filter func(model.Key) bool
	// KeepLastGood makes a resource of a kind that policy reads keep its last usable value
	// when the stored one has become unusable.
	KeepLastGood bool
	// Facts are the kinds that tell what is, such as which containers run, and not what
	// somebody wants. A store that was restored to an older state lacks some without anybody
	// having deleted them: the view keeps those, with their last value, until they are there
	// again, are deleted, or are released.
	Facts []model.Kind
}

// Event says that a resource changed.
type Event struct {
	Key model.Key
	// Value is nil when the resource was deleted or is not usable.
	Value model.Resource
	// Revision is the one at which the resource changed.
	Revision int64
	// Err says why the latest stored value is not usable. Value may then be the last
	// usable one (see [Options]).
	Err error
}

// View holds the resources of a datastore as of one revision. It belongs to one
// goroutine. The resources that it gives out are not to be changed: they may share what is
// equal among them.
type View struct {
	opts     Options
	objects  map[model.Key]*object
	badPaths map[string]error
	bad      map[model.Key][]string // what cannot be read of resources that are not usable
	// kept are the paths that the datastore lacks of what is kept.
	kept     map[model.Key][]string
	revision int64
	// restoredAt is the revision of the latest snapshot of a restored store.
	restoredAt int64
	inSync     bool
	connected  bool
	held       error
}

// object is one resource: its parts as stored and what they mean.
type object struct {
	// parts are one for almost all resources; there are few ever.
	parts []part
	// decoded is what the stored parts say, as far as they can be read; value is what
	// the view holds: the same, or the last good one, or nil.
	decoded, value model.Resource
	err            error
	// kept says that the datastore lacks some of the resource.
	kept bool
}

// part is what is stored at one path of a resource.
type part struct {
	path string
	// value is forgotten once it is decoded, unless the resource has other parts, which can
	// only be decoded together with it.
	value    []byte
	sum      uint64
	revision int64
}

// seed is that of all sums of values.
var seed = maphash.MakeSeed()

// part is the index of the part at a path, or -1.
func (o *object) part(path string) int {
	return slices.IndexFunc(o.parts, func(p part) bool { return p.path == path })
}

// New makes an empty view.
func New(opts Options) *View {
	return &View{
		opts:     opts,
		objects:  map[model.Key]*object{},
		badPaths: map[string]error{},
		bad:      map[model.Key][]string{},
		kept:     map[model.Key][]string{},
	}
}

// Get returns a resource; ok is false when there is none that can be used.
func (v *View) Get(k model.Key) (r model.Resource, ok bool) {
	o := v.objects[k]
	if o == nil || o.value == nil {
		return nil, false
	}
	return o.value, true
}

// InSync says whether the view has had its first snapshot.
func (v *View) InSync() bool { return v.inSync }

// Revision is the datastore's revision that the view shows.
func (v *View) Revision() int64 { return v.revision }

// Connected says whether the datastore could be reached at the last batch.
func (v *View) Connected() bool { return v.connected }

// Held says why what the datastore holds is not followed; nil when it is.
func (v *View) Held() error { return v.held }

// Quarantined lists the stored values that are not usable, in the order of their
// paths.
func (v *View) Quarantined() []Quarantined {
	list := make([]Quarantined, 0, len(v.bad)+len(v.badPaths))
	for k, unreadable := range v.bad {
		o := v.objects[k]
		list = append(list, Quarantined{Key: k, Path: firstPath(o), Value: o.decoded, Unreadable: unreadable, Err: o.err})
	}
	for path, err := range v.badPaths {
		list = append(list, Quarantined{Path: path, Err: err})
	}
	slices.SortFunc(list, func(a, b Quarantined) int { return strings.Compare(a.Path, b.Path) })
	return list
}

func firstPath(o *object) string {
	return slices.MinFunc(o.parts, func(a, b part) int { return strings.Compare(a.path, b.path) }).path
}

// Apply takes a batch in and tells which resources changed, in an order that depends
// on their keys alone. A resource whose meaning is the same as before gives no event.
func (v *View) Apply(b Batch) []Event {
	switch {
	case b.Err != nil:
		v.connected = false
		return nil
	case b.Held != nil:
		v.connected, v.held = true, b.Held
		return nil
	}
	changed := map[model.Key]struct{}{}
	if b.Restored {
		v.restoredAt = b.Revision
	}
	if b.Snapshot {
		v.dropMissing(b.Puts, b.Restored, changed)
	}
	for _, path := range b.Deletes {
		v.deletePart(path, changed)
	}
	for _, kv := range b.Puts {
		v.putPart(kv, changed)
	}
	v.revision, v.connected, v.held = b.Revision, true, nil
	v.inSync = v.inSync || b.Snapshot
	return v.events(changed, b.Revision)
}

// dropMissing deletes what a snapshot does not hold, but for what is kept.
func (v *View) dropMissing(puts []KV, restored bool, changed map[model.Key]struct{}) {
	held := make(map[string]struct{}, len(puts))
	for _, kv := range puts {
		held[kv.Path] = struct{}{}
	}
	for path := range v.badPaths {
		if _, ok := held[path]; !ok {
			delete(v.badPaths, path)
		}
	}
	missing := func(p part) bool { _, ok := held[p.path]; return !ok }
	for k, o := range v.objects {
		if restored && v.isFact(k) && o.value != nil {
			v.keep(k, o, missing)
		}
		before := len(o.parts)
		o.parts = slices.DeleteFunc(o.parts, func(p part) bool { return missing(p) && !v.keeps(k, o, p.path) })
		if len(o.parts) < before {
			changed[k] = struct{}{}
		}
	}
}

func (v *View) deletePart(path string, changed map[model.Key]struct{}) {
	delete(v.badPaths, path)
	k, ok := model.ParsePath(path)
	if !ok {
		return
	}
	o := v.objects[k]
	if o == nil {
		return
	}
	v.unkeep(k, o, path)
	if i := o.part(path); i >= 0 {
		o.parts = slices.Delete(o.parts, i, i+1)
		changed[k] = struct{}{}
	}
}

func (v *View) putPart(kv KV, changed map[model.Key]struct{}) {
	k, ok := model.ParsePath(kv.Path)
	if !ok {
		if err := model.PathFault(kv.Path); err != nil {
			v.badPaths[kv.Path] = err
		}
		return
	}
	if v.opts.Filter != nil && !v.opts.Filter(k) {
		return
	}
	o := v.objects[k]
	if o == nil {
		o = &object{}
		v.objects[k] = o
	}
	v.unkeep(k, o, kv.Path)
	p := part{path: kv.Path, value: kv.Value, sum: maphash.Bytes(seed, kv.Value), revision: kv.ModRevision}
	i := o.part(kv.Path)
	if i < 0 {
		o.parts = append(o.parts, p)
		changed[k] = struct{}{}
		return
	}
	if o.parts[i].sum == p.sum {
		o.parts[i].revision = p.revision
		return
	}
	o.parts[i] = p
	changed[k] = struct{}{}
}

// events re-reads the changed resources.
func (v *View) events(changed map[model.Key]struct{}, revision int64) []Event {
	keys := sortKeys(changed)
	decoded := v.decode(keys)
	if len(keys) >= manyKeys {
		s := newSharer()
		for _, d := range decoded {
			s.share(d.value)
		}
	}
	var events []Event
	for i, k := range keys {
		if e, ok := v.refresh(k, decoded[i], revision); ok {
			events = append(events, e)
		}
	}
	return events
}

// decoding is what the parts of a resource say.
type decoding struct {
	value      model.Resource
	unreadable []string
	err        error
}

// manyKeys is the number of resources from which all processors decode, as after the
// first snapshot, which takes longer than all else that is done with it, and from which
// resources share what is equal among them.
const manyKeys = 200

// decode reads the stored parts of resources.
func (v *View) decode(keys []model.Key) []decoding {
	out := make([]decoding, len(keys))
	some := func(from, to int) {
		for i := from; i < to; i++ {
			if o := v.objects[keys[i]]; len(o.parts) > 0 {
				out[i] = read(keys[i], o.parts)
			}
		}
	}
	if len(keys) < manyKeys {
		some(0, len(keys))
		return out
	}
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for n := range workers {
		wg.Go(func() { some(n*len(keys)/workers, (n+1)*len(keys)/workers) })
	}
	wg.Wait()
	return out
}

// refresh makes an object's value follow its parts, which say d; ok is false when nothing
// that others can see has changed.
func (v *View) refresh(k model.Key, d decoding, revision int64) (e Event, ok bool) {
	o := v.objects[k]
	unreadableBefore := v.bad[k]
	delete(v.bad, k)
	if len(o.parts) == 0 {
		delete(v.objects, k)
		return Event{Key: k, Revision: revision}, o.value != nil || o.err != nil
	}
	o.forgetValue(k)
	before, errBefore, decodedBefore := o.value, o.err, o.decoded
	o.decoded, o.err = d.value, d.err
	switch {
	case o.err == nil:
		o.value = o.decoded
	case !v.keepsLastGood(k):
		o.value = nil
	}
	if o.err != nil {
		v.bad[k] = d.unreadable
	}
	// Where no older version is in force, what can be read counts.
	sameRest := o.value != nil || sameResource(decodedBefore, o.decoded) && slices.Equal(unreadableBefore, d.unreadable)
	if sameError(errBefore, o.err) && sameResource(before, o.value) && sameRest {
		return Event{}, false
	}
	return Event{Key: k, Value: o.value, Revision: o.revision(), Err: o.err}, true
}

func (v *View) keepsLastGood(k model.Key) bool {
	if !v.opts.KeepLastGood {
		return false
	}
	switch k.Kind() {
	case model.KindPolicy, model.KindProfile, model.KindTier, model.KindNetworkSet,
		model.KindHostEndpoint, model.KindWorkloadEndpoint, model.KindIPPool, model.KindNode:
		return true
	default:
		return false
	}
}

// forgetValue forgets the decoded value of a resource that has but one part.
func (o *object) forgetValue(k model.Key) {
	if len(model.Paths(k)) == 1 {
		o.parts[0].value = nil
	}
}

func (o *object) revision() (highest int64) {
	for _, p := range o.parts {
		highest = max(highest, p.revision)
	}
	return highest
}

// read decodes and checks a resource. Of one that is not usable it gives what can be read.
func read(k model.Key, parts []part) (d decoding) {
	values := make(map[string][]byte, len(parts))
	for _, p := range parts {
		values[p.path] = p.value
	}
	if d.value, d.err = Read(k, values); d.err != nil && d.value == nil {
		d.value, d.unreadable = model.Readable(k, values)
	}
	return d
}

// Read decodes a resource from its stored parts and checks it. When only the check
// fails, the resource is returned together with the error.
func Read(k model.Key, parts map[string][]byte) (model.Resource, error) {
	r, err := model.Decode(k, parts)
	if err != nil {
		return nil, err
	}
	if err := model.Validate(k, r); err != nil {
		return r, fmt.Errorf("%v is not valid: %w", k, err)
	}
	return r, nil
}

func sameError(a, b error) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Error() == b.Error()
}

func sameResource(a, b model.Resource) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return reflect.DeepEqual(a, b)
}

// sortKeys puts keys into the order of [model.Compare], with one path made per key.
func sortKeys[V any](set map[model.Key]V) []model.Key {
	if len(set) <= 1 {
		return slices.Collect(maps.Keys(set))
	}
	type keyed struct {
		key  model.Key
		path string
		rank int
	}
	ranks := map[model.Kind]int{}
	for i, kind := range model.Kinds() {
		ranks[kind] = i
	}
	list := make([]keyed, 0, len(set))
	for k := range set {
		list = append(list, keyed{k, model.Paths(k)[0], ranks[k.Kind()]})
	}
	slices.SortFunc(list, func(a, b keyed) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.path, b.path))
	})
	keys := make([]model.Key, len(list))
	for i, item := range list {
		keys[i] = item.key
	}
	return keys
}

// All yields the resources that are in force, in no order.
func (v *View) All() iter.Seq2[model.Key, model.Resource] {
	return func(yield func(model.Key, model.Resource) bool) {
		for k, o := range v.objects {
			if o.value != nil && !yield(k, o.value) {
				return
			}
		}
	}
}
