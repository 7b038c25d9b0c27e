package calc

import (
	"fmt"
	"reflect"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
)

// profile is a profile that the store holds or that an endpoint of this host names.
type profile struct {
	name  string
	res   *model.Profile
	refs  int // endpoints of this host that name it
	given *desired.Profile
	used  []desired.SetID
	fault string
}

// profile returns the record of a profile, made if there is none.
func (e *Engine) profile(name string) *profile {
	p := e.profiles[name]
	if p == nil {
		p = &profile{name: name}
		e.profiles[name] = p
	}
	return p
}

// setProfile takes over a profile's rules, tags and labels; nil when there is none that
// can be used.
func (e *Engine) setProfile(k model.ProfileKey, res *model.Profile) {
	p := e.profile(k.Name)
	p.res = res
	e.dirtyProfiles[p] = struct{}{}
	for _, x := range []*index{e.local, e.sets.index} {
		if res == nil {
			x.deleteParent(k.Name)
		} else {
			x.setParent(k.Name, res.Labels, res.Tags)
		}
	}
}

// flushProfiles recomputes the marked profiles and adds those that came out different to
// the changes.
func (e *Engine) flushProfiles(c *desired.Changes) {
	for p := range e.dirtyProfiles {
		old := p.given
		p.given, p.used = e.renewProfile(p)
		switch {
		case p.given == nil && old != nil:
			c.ProfilesDeleted = append(c.ProfilesDeleted, p.name)
		case p.given != nil && !reflect.DeepEqual(old, p.given):
			c.Profiles = append(c.Profiles, p.given)
		case old != nil:
			p.given = old
		}
		if p.res == nil && p.refs == 0 {
			delete(e.profiles, p.name)
		}
	}
	clear(e.dirtyProfiles)
}

// renewProfile computes the desired profile, nil when no endpoint names it, and the sets
// it uses.
func (e *Engine) renewProfile(p *profile) (*desired.Profile, []desired.SetID) {
	defer e.releaseAll(p.used)
	p.fault = ""
	key := model.ProfileKey{Name: p.name}
	switch {
	case p.refs == 0:
		return nil, nil
	case p.res == nil:
		d := &desired.Profile{Name: p.name, Missing: true}
		d.Ingress, d.Egress = denyAll(key, desired.Ingress, desired.Egress)
		return d, nil
	}
	d := &desired.Profile{Name: p.name}
	sc := scanner{sets: e.sets, owner: key}
	d.Ingress = sc.rules(desired.Ingress, p.res.InboundRules)
	d.Egress = sc.rules(desired.Egress, p.res.OutboundRules)
	if sc.err != nil {
		p.fault = fmt.Sprintf("%v; it denies what reaches it", sc.err)
		e.releaseAll(sc.used)
		d.Ingress, d.Egress = denyAll(key, desired.Ingress, desired.Egress)
		return d, nil
	}
	return d, sc.used
}
