package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// Resolve finds the keys of objects of which only a name is known. unknown are those
// that do not exist.
func (s *Store) Resolve(ctx context.Context, objects []manifest.Object) (known, unknown []manifest.Object, err error) {
	objects, there, err := s.resolve(ctx, objects)
	for i, o := range objects {
		if there[i] {
			known = append(known, o)
		} else {
			unknown = append(unknown, o)
		}
	}
	return known, unknown, err
}

// resolve is Resolve with the objects in their order: there is false for those that have a
// name that nothing has.
func (s *Store) resolve(ctx context.Context, objects []manifest.Object) (out []manifest.Object, there []bool, err error) {
	out, there = slices.Clone(objects), make([]bool, len(objects))
	var faults []error
	index := map[*dialect.Kind]map[dialect.NameKey][]model.Key{}
	for i, o := range objects {
		name, ok := o.Key.(dialect.NameKey)
		if !ok {
			there[i] = true
			continue
		}
		names := index[name.Of]
		if names == nil {
			if names, err = s.names(ctx, name.Of, namesOf(name.Of, objects)); err != nil {
				return nil, nil, err
			}
			index[name.Of] = names
		}
		switch keys := names[name]; len(keys) {
		case 0:
		case 1:
			out[i].Key, there[i] = keys[0], true
		default:
			faults = append(faults, fmt.Errorf("%s is the name of several resources: %s; one that apiVersion v1 has can be named so, by --api-version=v1",
				name, joinKeys(keys)))
		}
	}
	return out, there, errors.Join(faults...)
}

func joinKeys(keys []model.Key) string {
	words := make([]string, len(keys))
	for i, k := range keys {
		words[i] = k.String()
	}
	return strings.Join(words, ", ")
}

// names is the keys of resources of a kind by their names, also of those that are not
// valid: of all that have one of the wanted names.
func (s *Store) names(ctx context.Context, kind *dialect.Kind, wanted []dialect.NameKey) (map[dialect.NameKey][]model.Key, error) {
	entries, bad, err := s.withNames(ctx, kind, wanted)
	if err != nil {
		return nil, err
	}
	for _, b := range bad {
		entries = append(entries, etcdstore.Entry{Key: b.Key, Value: b.Value})
	}
	names := make(map[dialect.NameKey][]model.Key, len(entries))
	for _, e := range entries {
		if e.Key.Kind() != kind.Model || !kind.OwnedBy(e.Key) { // of a raw setting that cannot be read, the kind is another
			continue
		}
		namespace, name := kind.NameOf(e.Key, e.Value)
		n := dialect.NameKey{Of: kind, Namespace: namespace, Name: name}
		names[n] = append(names[n], e.Key)
	}
	return names, nil
}

// checkNames finds names that another resource of the kind has: what identifies a
// resource in the store cannot be changed under its name.
func (s *Store) checkNames(ctx context.Context, steps []step, on *rests) []error {
	index := map[*dialect.Kind]map[dialect.NameKey][]model.Key{}
	faults := s.checkTierNames(ctx, steps, on)
	for _, st := range steps {
		kind := st.object.Kind
		if kind.NameOf == nil || len(st.writes) == 0 || !st.takesName() {
			continue
		}
		names := index[kind]
		if names == nil {
			var err error
			if sharesNames(kind.Model) {
				err = s.addFew(ctx, on, st.object.Key, model.ListPrefixes(kind.Model))
			}
			if err == nil {
				names, err = s.names(ctx, kind, namesOf(kind, objectsOf(steps)))
			}
			if err != nil {
				return []error{err}
			}
			index[kind] = names
		}
		name, _ := st.object.Shown().(dialect.NameKey)
		keys := names[name]
		if len(keys) > 0 && !slices.Contains(keys, st.object.Key) {
			faults = append(faults, clashOf(st.object.Key, "%s is the name of %s, which cannot become %s: delete it first, or use another name",
				name, joinKeys(keys), st.object.Key))
		}
		names[name] = []model.Key{st.object.Key}
	}
	return faults
}

// checkTierNames finds new policies of the dialect v1, which has no tiers, with the name of
// one in another tier: in v3 a name is one policy's. The tiers are looked at after the
// lists that the writes depend on, since a tier may be new too.
func (s *Store) checkTierNames(ctx context.Context, steps []step, on *rests) []error {
	var made []string
	var of model.Key
	for _, st := range steps {
		if k, ok := st.object.Key.(model.PolicyKey); ok && st.object.Kind.NameOf == nil && st.did == Created {
			made, of = append(made, k.Name), k
		}
	}
	if len(made) == 0 {
		return nil
	}
	if err := s.addFew(ctx, on, of, model.ListPrefixes(model.KindPolicy)); err != nil {
		return []error{err}
	}
	tiers, err := s.tiers(ctx)
	if err != nil {
		return []error{err}
	}
	var others []model.Key
	for _, tier := range tiers {
		for _, name := range made {
			if tier != model.DefaultTier {
				others = append(others, model.NewPolicyKey(tier, name))
			}
		}
	}
	entries, bad, err := s.etcd.GetAll(ctx, others)
	if err != nil {
		return []error{err}
	}
	var faults []error
	for _, b := range bad {
		entries = append(entries, etcdstore.Entry{Key: b.Key})
	}
	for _, e := range entries {
		faults = append(faults, clashOf(model.NewPolicyKey("", e.Key.(model.PolicyKey).Name), "the name is that of %s, and projectcalico.org/v3 could not tell them apart: use another name", e.Key))
	}
	return faults
}

// sharesNames is true for kinds of which two resources could have one name, because it is
// not their key.
func sharesNames(kind model.Kind) bool {
	switch kind {
	case model.KindIPPool, model.KindBGPPeer, model.KindHostEndpoint, model.KindPolicy:
		return true
	default:
		return false
	}
}

// takesName says whether a resource comes to have a name that it did not have.
func (st step) takesName() bool {
	o := st.object
	if st.old == nil {
		return true
	}
	oldNamespace, oldName := o.Kind.NameOf(o.Key, st.old)
	namespace, name := o.Kind.NameOf(o.Key, o.Value)
	return oldNamespace != namespace || oldName != name
}

// keepsName refuses what would give an object that is stored under a name of its own
// another one: whoever writes the other name may not know of that object. What has no name
// of its own may be given one that is good for a new object. old is nil if it cannot be read.
func keepsName(o manifest.Object, old model.Resource) error {
	was, is, same := shownNames(o, old)
	if same {
		return nil
	}
	if meta := model.MetadataOf(old); meta != nil && meta.V3Name != "" {
		return fmt.Errorf("%s: %s is there already, and is called %s: change it under that name, or delete %s first", is, o.Key, was, was)
	}
	if faults := o.IfNew.About("metadata.name"); len(faults) > 0 {
		return faults
	}
	return nil
}

// existsAs is [Exists], which also says under which name if that is another.
func existsAs(o manifest.Object, old model.Resource) error {
	was, is, same := shownNames(o, old)
	if same {
		return Exists(o.Shown())
	}
	return fmt.Errorf("resource already exists: %s of %s, and is called %s: change it under that name, or delete %s first%w",
		o.Key, is, was, was, silent{etcdstore.ErrExists})
}

// shownNames is what an object is called as it is stored, and as it is given. Where its
// dialect has no names but keys these are the same.
func shownNames(o manifest.Object, old model.Resource) (was, is model.Key, same bool) {
	is = o.Shown()
	if o.Kind.NameOf == nil {
		return is, is, true
	}
	namespace, name := o.Kind.NameOf(o.Key, old)
	was = dialect.NameKey{Of: o.Kind, Namespace: namespace, Name: name}
	return was, is, was == is
}
