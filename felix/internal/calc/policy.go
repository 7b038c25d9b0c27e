package calc

import (
	"fmt"
	"math"
	"reflect"
	"slices"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
)

// policy is a policy that the store holds, or that an endpoint still has at the last
// flush.
type policy struct {
	key model.PolicyKey
	// stored is the usable version in the store, rejected what an unusable one says; nil
	// when there is none.
	stored, rejected *model.Policy

	res   *model.Policy // what is in force: stored, or a stand-in for rejected, or nil
	sub   *subscription // its selector, in the local index; nil when res is
	refs  int           // endpoints of this host that have it
	given *desired.Policy
	used  []desired.SetID // sets that given uses
	fault string
}

// stage is when the policy is asked.
func (p *policy) stage() desired.Stage {
	switch {
	case p.res.DoNotTrack:
		return desired.Untracked
	case p.res.PreDNAT:
		return desired.PreDNAT
	}
	return desired.Normal
}

// applies reports whether the policy has a say in a direction.
func (p *policy) applies(d desired.Direction) bool {
	if p.res.PreDNAT && d == desired.Egress {
		return false
	}
	if len(p.res.Types) == 0 {
		return true
	}
	if d == desired.Ingress {
		return slices.Contains(p.res.Types, model.PolicyTypeIngress)
	}
	return slices.Contains(p.res.Types, model.PolicyTypeEgress)
}

// policy returns the record of a policy, made if there is none.
func (e *Engine) policy(k model.PolicyKey) *policy {
	p := e.policies[k]
	if p == nil {
		p = &policy{key: k}
		e.policies[k] = p
	}
	return p
}

// setPolicy takes over a policy; nil when there is none that can be used.
func (e *Engine) setPolicy(k model.PolicyKey, res *model.Policy) {
	p := e.policy(k)
	p.stored = res
	e.renewInput(p)
}

// reject takes over what an unusable version of a policy says; nil when there is none.
func (e *Engine) reject(k model.PolicyKey, rejected *model.Policy) {
	p := e.policy(k)
	p.rejected = rejected
	e.renewInput(p)
}

// renewInput puts in force what is stored of a policy.
func (e *Engine) renewInput(p *policy) {
	e.dirtyPolicies[p] = struct{}{}
	p.fault = ""
	res := p.stored
	if res == nil && p.rejected != nil {
		res = standIn(p.rejected)
	}
	var sel *selector.Selector
	if res != nil {
		var err error
		if sel, err = selector.Parse(res.Selector); err != nil {
			if p.stored != nil {
				p.fault = fmt.Sprintf("selector: %v; it is not in force", err)
			}
			res = nil
		}
	}
	old, oldSub := p.res, p.sub
	p.res, p.sub = res, nil
	if sel != nil && res != nil {
		p.sub = e.local.subscribe(sel, func(s *subscription) {
			if s.users == nil {
				s.users = map[model.PolicyKey]struct{}{}
			}
			s.users[p.key] = struct{}{}
		})
	}
	if oldSub != p.sub {
		e.touchMatches(oldSub)
		e.leave(oldSub, p.key)
	}
	if oldSub != p.sub || !sameRank(old, res) {
		e.touchMatches(p.sub)
	}
}

// standIn is a policy that denies what a rejected one selects, in the directions in which
// it applies, as far as it says.
func standIn(rejected *model.Policy) *model.Policy {
	p := &model.Policy{
		Order: rejected.Order, Selector: rejected.Selector,
		DoNotTrack: rejected.DoNotTrack, PreDNAT: rejected.PreDNAT && !rejected.DoNotTrack,
		ApplyOnForward: rejected.ApplyOnForward,
		InboundRules:   []model.Rule{{Action: model.ActionDeny}},
		OutboundRules:  []model.Rule{{Action: model.ActionDeny}},
	}
	if p.Order != nil && math.IsNaN(*p.Order) {
		p.Order = nil
	}
	for _, t := range rejected.Types {
		if t == model.PolicyTypeIngress || t == model.PolicyTypeEgress {
			p.Types = append(p.Types, t)
		}
	}
	return p
}

// leave ends a policy's use of its selector.
func (e *Engine) leave(s *subscription, k model.PolicyKey) {
	if s == nil {
		return
	}
	delete(s.users, k)
	if len(s.users) == 0 {
		e.local.unsubscribe(s)
	}
}

// sameRank reports whether two versions of a policy look the same to the endpoints that
// have it.
func sameRank(a, b *model.Policy) bool {
	if a == nil || b == nil {
		return a == b
	}
	return compareOrders(a.Order, b.Order) == 0 && slices.Equal(a.Types, b.Types) &&
		a.DoNotTrack == b.DoNotTrack && a.PreDNAT == b.PreDNAT && a.ApplyOnForward == b.ApplyOnForward
}

// flushPolicies recomputes the marked policies and adds those that came out different to
// the changes.
func (e *Engine) flushPolicies(c *desired.Changes) {
	for p := range e.dirtyPolicies {
		old := p.given
		p.given, p.used = e.renew(p)
		switch {
		case p.given == nil && old != nil:
			c.PoliciesDeleted = append(c.PoliciesDeleted, p.key)
		case p.given != nil && !reflect.DeepEqual(old, p.given):
			c.Policies = append(c.Policies, p.given)
		case old != nil:
			p.given = old
		}
		if p.stored == nil && p.rejected == nil && p.refs == 0 {
			delete(e.policies, p.key)
		}
	}
	clear(e.dirtyPolicies)
}

// renew computes the desired policy, nil when no endpoint has it, and the sets it uses.
func (e *Engine) renew(p *policy) (*desired.Policy, []desired.SetID) {
	defer e.releaseAll(p.used)
	if p.res == nil {
		return nil, nil
	}
	p.fault = ""
	if p.refs == 0 {
		return nil, nil
	}
	d := &desired.Policy{Key: p.key, Stage: p.stage()}
	sc := scanner{sets: e.sets, owner: p.key}
	if p.applies(desired.Ingress) {
		d.Directions = append(d.Directions, desired.Ingress)
		d.Ingress = sc.rules(desired.Ingress, p.res.InboundRules)
	}
	if p.applies(desired.Egress) {
		d.Directions = append(d.Directions, desired.Egress)
		d.Egress = sc.rules(desired.Egress, p.res.OutboundRules)
	}
	if sc.err != nil {
		p.fault = fmt.Sprintf("%v; it denies what it selects", sc.err)
		e.releaseAll(sc.used)
		d.Ingress, d.Egress = denyAll(p.key, d.Directions...)
		return d, nil
	}
	return d, sc.used
}

func (e *Engine) releaseAll(ids []desired.SetID) {
	for _, id := range ids {
		e.sets.release(id)
	}
}

// denyAll are the rules, in the directions asked for, of something that cannot be put in
// force as written.
func denyAll(owner model.Key, directions ...desired.Direction) (ingress, egress []desired.Rule) {
	for _, d := range directions {
		deny := []desired.Rule{{Origin: desired.Origin{Owner: owner, Direction: d}, Action: desired.Deny}}
		if d == desired.Ingress {
			ingress = deny
		} else {
			egress = deny
		}
	}
	return ingress, egress
}
