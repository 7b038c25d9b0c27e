package resource

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// Mode says which objects a write is for.
type Mode int

// The modes of a write.
const (
	// Create is for objects that do not exist yet.
	Create Mode = iota
	// CreateMissing is like Create, but leaves alone what exists.
	CreateMissing
	// Apply is for all objects.
	Apply
	// Replace is for objects that exist.
	Replace
	// overwrite is for objects that exist and are given with all that they have.
	overwrite
)

// deed is what a mode makes of an object.
type deed int

const (
	refuse deed = iota
	skip
	create
	// replace keeps what the object's dialect has no word for, and replaceWhole nothing.
	replace
	replaceWhole
)

// deeds is what the modes make of an object that exists, and of one that is missing.
var deeds = map[Mode]struct{ existing, missing deed }{
	Create:        {refuse, create},
	CreateMissing: {skip, create},
	Apply:         {replace, create},
	Replace:       {replace, refuse},
	overwrite:     {replaceWhole, refuse},
}

func (m Mode) deed(exists bool) deed {
	if exists {
		return deeds[m].existing
	}
	return deeds[m].missing
}

// decide says what is to be done for an object, or what stands against it.
func decide(mode Mode, o manifest.Object, old stored, exists bool) (step, error) {
	st := step{object: o, old: old.value}
	deed := mode.deed(exists)
	if exists && deed != refuse {
		if err := keepsName(o, old.value); err != nil {
			return st, err
		}
	}
	switch {
	case deed == skip:
		st.did = Skipped
		return st, nil
	case deed == refuse && exists:
		return st, existsAs(o, old.value)
	case deed == refuse:
		return st, Missing(o.Shown())
	case deed == create && len(o.IfNew) > 0:
		return st, o.IfNew
	case deed != replaceWhole:
		if err := st.carry(old.value); err != nil {
			return st, err
		}
		o = st.object
	}
	warnings, err := unserved(o, old.value)
	if err != nil {
		return st, err
	}
	st.warnings, st.did = warnings, Configured
	if deed == create {
		st.did = Created
		if o.Revision != 0 {
			st.warnings = append(st.warnings, fmt.Sprintf("%s:%d:%d: metadata.resourceVersion: %s: the object is new, and gets one by being written",
				o.File, o.Pos.Line, o.Pos.Column, o.Shown()))
		}
		st.warnings = append(st.warnings, dropIdentity(o)...)
		stamp(o.Value, time.Now())
	}
	if isSettings(o.Key.Kind()) {
		return decideSettings(st, o, old, exists)
	}
	return decideWrite(st, o, old, exists)
}

// carry makes of the object, as its document has it, what is to be stored in place of old
// (nil: nothing). The object that was given stays as it is: a step may be planned again.
func (st *step) carry(old model.Resource) error {
	o := &st.object
	if old != nil {
		if err := fixed(*o, old); err != nil {
			return err
		}
	}
	value, lost, err := o.Kind.Carry(o.Key, old, o.Value)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Shown(), err)
	}
	if p, ok := value.(*model.IPPool); ok && !p.Deleting.IsZero() {
		kept := *p
		kept.Deleting = time.Time{} // whoever writes a pool means to keep it
		value = &kept
	}
	o.Value, st.lost = value, lost
	if old == nil || isSettings(o.Key.Kind()) || reflect.DeepEqual(old, value) || model.Validate(o.Key, old) != nil {
		return nil
	}
	if err := model.Validate(o.Key, value); err != nil {
		return fmt.Errorf("%s: with what is stored and apiVersion %s does not show: %w", o.Shown(), o.Kind.APIVersion, err)
	}
	return nil
}

// AllowLoss lets writes lose what has lost its place, with a warning.
func (s *Store) AllowLoss() { s.allowLoss = true }

// refuseLoss refuses to lose what is stored and the object's dialect cannot show, unless
// that is asked for.
func (s *Store) refuseLoss(st *step) error {
	if len(st.lost) == 0 {
		return nil
	}
	msg := fmt.Sprintf("%s: apiVersion %s cannot show %s, and it is not clear which rule that belongs to now",
		st.object.Shown(), st.object.Kind.APIVersion, strings.Join(st.lost, ", "))
	if s.allowLoss {
		st.warnings = append(st.warnings, msg+"; it is lost")
		return nil
	}
	return errors.New(msg + ": change one rule at a time, or lose it by --force")
}

// decideWrite plans the write of an object; whether it may be written is decided.
func decideWrite(st step, o manifest.Object, old stored, exists bool) (step, error) {
	if reflect.DeepEqual(old.value, o.Value) { // as with most objects of a file that is applied again
		st.did = Unchanged
		return st, nil
	}
	parts, err := model.Encode(o.Key, o.Value)
	if err != nil {
		return st, err
	}
	if same(o.Key, old.value, parts) {
		st.did = Unchanged
		return st, nil
	}
	if exists && o.Revision != 0 && o.Revision != old.revision {
		return st, outdated(o, old)
	}
	for path, value := range parts {
		st.size += len(path) + len(value)
	}
	st.ops = len(model.Paths(o.Key))
	var w etcdstore.Write
	if exists {
		w, err = etcdstore.UpdateWrite(o.Key, o.Value, old.revision)
	} else {
		w, err = etcdstore.CreateWrite(o.Key, o.Value)
	}
	st.writes = []etcdstore.Write{w}
	return st, err
}

// same says whether what is stored encodes to the same parts.
func same(k model.Key, old model.Resource, parts map[string][]byte) bool {
	if old == nil {
		return false
	}
	before, err := model.Encode(k, old)
	return err == nil && maps.EqualFunc(before, parts, bytes.Equal)
}

// unserved refuses what nothing acts on yet, but where it is stored already: then it
// stays, and there is a warning.
func unserved(o manifest.Object, old model.Resource) (warnings []string, err error) {
	stored := manifest.UnservedBy(old)
	var faults []error
	for _, u := range manifest.UnservedBy(o.Value) {
		if slices.Contains(stored, u) {
			warnings = append(warnings, fmt.Sprintf("%s: %s (it is stored so already, and stays)", o.Shown(), u))
		} else {
			faults = append(faults, fmt.Errorf("%s: %s", o.Shown(), u))
		}
	}
	return warnings, errors.Join(faults...)
}

// outdated is the error about an object whose author saw another revision than is
// stored.
func outdated(o manifest.Object, old stored) error {
	return fmt.Errorf("update conflict: %s has changed since revision %d; it is at %d: get it anew, or leave out resourceVersion",
		o.Shown(), o.Revision, old.revision)
}

// fixed refuses a change of what must stay as it is for the life of a resource.
func fixed(o manifest.Object, old model.Resource) error {
	before, ok1 := old.(*model.IPPool)
	after, ok2 := o.Value.(*model.IPPool)
	if !ok1 || !ok2 || o.Kind.NameOf == nil {
		return nil // other dialects keep the size
	}
	if a, b := blockSize(before), blockSize(after); a != b {
		return fmt.Errorf("%s: spec.blockSize: is %d and cannot become %d", o.Shown(), a, b)
	}
	return nil
}

func blockSize(p *model.IPPool) int {
	switch {
	case p.BlockSize != 0:
		return p.BlockSize
	case p.CIDR.Addr().Is4():
		return model.DefaultBlockSizeV4
	}
	return model.DefaultBlockSizeV6
}
