package transfer

import (
	"maps"
	"slices"
	"strings"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// item is one resource of a source.
type item struct {
	key   model.Key
	value model.Resource
	parts map[string][]byte
}

func (it item) size() (n int) {
	for path, value := range it.parts {
		n += len(path) + len(value)
	}
	return n
}

// Problem is a path of a source that is not taken.
type Problem struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// newItem decodes a resource, and writes it as this version does.
func newItem(k model.Key, values map[string][]byte) (item, error) {
	r, err := store.Read(k, values)
	if err != nil {
		return item{}, err
	}
	parts, err := model.Encode(k, r)
	return item{key: k, value: r, parts: parts}, err
}

// items calls f for the resources of a source whose kind is wanted: those that stand at one
// path in the order of the source, then the others; and bad for those that cannot be read.
func (s Source) items(wanted func(model.Kind) bool, f func(item) error, bad func(path string, why error)) error {
	spread := map[model.Key]map[string][]byte{} // resources of several paths
	err := s.each(func(path string, value []byte) error {
		k, ok := model.ParsePath(path)
		if !ok || model.PathFault(path) != nil || !wanted(k.Kind()) {
			return nil
		}
		if len(model.Paths(k)) == 1 {
			return emit(k, map[string][]byte{path: value}, f, bad)
		}
		if spread[k] == nil {
			spread[k] = map[string][]byte{}
		}
		spread[k][path] = value
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range slices.SortedFunc(maps.Keys(spread), model.Compare) {
		if err := emit(k, spread[k], f, bad); err != nil {
			return err
		}
	}
	return nil
}

func emit(k model.Key, values map[string][]byte, f func(item) error, bad func(string, error)) error {
	it, err := newItem(k, values)
	if err != nil {
		bad(slices.Min(slices.Collect(maps.Keys(values))), err)
		return nil
	}
	return f(it)
}

// paths finds what a source says by its paths alone: those that no resource can be made of,
// its blocks, and the version that whoever writes what it holds must have; empty when any
// will do.
func (p *Plan) paths(s Source) error {
	err := s.each(func(path string, value []byte) error {
		k, ok := model.ParsePath(path)
		fault := model.PathFault(path)
		switch {
		case k == (model.MinVersionKey{}):
			p.Needs = strings.TrimSpace(string(value))
		case fault != nil:
			p.Invalid = append(p.Invalid, Problem{path, fault.Error()})
		case !ok:
			p.Skipped = append(p.Skipped, Problem{path, "nothing here uses this key"})
		case isReport(k):
			p.Skipped = append(p.Skipped, Problem{path, "a report that running programs write anew"})
		}
		if block, isBlock := k.(model.BlockKey); isBlock && fault == nil {
			p.blocks = append(p.blocks, block.CIDR)
		}
		return nil
	})
	slices.SortFunc(p.Skipped, comparePaths)
	return err
}

// The kinds, by how they are brought in.
var (
	// derived follow from blocks.
	derived = []model.Kind{model.KindBlockAffinity, model.KindHandle}
	// many are facts of which there may be so many that they are read again and again
	// instead of being held in memory.
	many = []model.Kind{model.KindWorkloadEndpoint, model.KindDockerNetwork}
	// facts tell what is, such as which containers run, and not what somebody wants.
	facts = slices.Concat([]model.Kind{model.KindNode, model.KindBlock, model.KindAcceptedGUID}, derived, many)
	// never come from a source as they are.
	never = slices.Concat([]model.Kind{model.KindReady, model.KindLock, model.KindMinVersion}, reports)
)

func isOf(kinds []model.Kind) func(model.Kind) bool {
	return func(k model.Kind) bool { return slices.Contains(kinds, k) }
}

// isPlain tells the kinds that are held in memory: what is wanted, and nodes.
func isPlain(k model.Kind) bool {
	return !slices.Contains(facts, k) && !slices.Contains(never, k) || k == model.KindNode || k == model.KindAcceptedGUID
}

// isIntent tells the kinds by which somebody says what is wanted.
func isIntent(k model.Kind) bool { return !slices.Contains(facts, k) && !slices.Contains(never, k) }
