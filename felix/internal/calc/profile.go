package calc

import (
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
	e.setParent(k.Name, res)
}

// setParent takes over a profile as a source of labels; nil when there is none.
func (e *Engine) setParent(name string, res *model.Profile) {
	for _, x := range []*index{e.local, e.sets.index} {
		if res == nil {
			x.deleteParent(name)
		} else {
			x.setParent(name, res.Labels, res.Tags)
		}
	}
	if len(e.doubtful) > 0 {
		e.touchRules()
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
		return &desired.Profile{
			Name: p.name, Missing: true,
			Ingress: denyAll(key, desired.Ingress), Egress: denyAll(key, desired.Egress),
		}, nil
	}
	t := e.translate(key, []desired.Direction{desired.Ingress, desired.Egress}, p.res.InboundRules, p.res.OutboundRules)
	if t.fault != "" {
		p.fault = t.fault + "; it denies what reaches it"
	}
	return &desired.Profile{Name: p.name, Ingress: t.rules[desired.Ingress], Egress: t.rules[desired.Egress]}, t.used
}
