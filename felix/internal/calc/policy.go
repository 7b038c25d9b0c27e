package calc

import (
	"fmt"
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
	// stored is the usable version in the store; nil when there is none.
	stored *model.Policy

	res *model.Policy // what is in force: stored, or a stand-in, or nil
	// tierClosed says that a stand-in is in force because the tier is not usable.
	tierClosed bool

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

// renewInput puts in force what is stored of a policy.
func (e *Engine) renewInput(p *policy) {
	e.dirtyPolicies[p] = struct{}{}
	p.fault = ""
	res := p.stored
	if r, ok := e.rejected[p.key]; ok {
		res = standInPolicy(r)
	}
	if _, p.tierClosed = e.rejectedTier(p.key.Tier); p.tierClosed && res != nil {
		res = denying(res)
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
		if p.stored == nil && p.res == nil && p.refs == 0 {
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
	for _, dir := range []desired.Direction{desired.Ingress, desired.Egress} {
		if p.applies(dir) {
			d.Directions = append(d.Directions, dir)
		}
	}
	t := e.translate(p.key, d.Directions, p.res.InboundRules, p.res.OutboundRules)
	if t.fault != "" {
		p.fault = t.fault + "; it denies what it selects"
	}
	d.Ingress, d.Egress = t.rules[desired.Ingress], t.rules[desired.Egress]
	return d, t.used
}

func (e *Engine) releaseAll(ids []desired.SetID) {
	for _, id := range ids {
		e.sets.release(id)
	}
}

// denyAll are the rules of a direction of something that cannot be put in force as written.
func denyAll(owner model.Key, d desired.Direction) []desired.Rule {
	return []desired.Rule{{Origin: desired.Origin{Owner: owner, Direction: d}, Action: desired.Deny}}
}
