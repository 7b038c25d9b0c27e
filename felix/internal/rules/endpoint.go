package rules

import (
	"calico.internal/felix/internal/desired"
)

// Endpoint renders the two chains of a workload endpoint.
func (r *Renderer) Endpoint(e *desired.Endpoint) []Chain {
	return []Chain{r.endpointChain(e, desired.Ingress), r.endpointChain(e, desired.Egress)}
}

// endpointChain is everything that a packet to (Ingress) or from (Egress) a workload has
// to pass. An allowed packet returns with the accept mark set, so that it meets the
// other end's chain too when that is on this host.
func (r *Renderer) endpointChain(e *desired.Endpoint, d desired.Direction) Chain {
	c := Chain{ChainID: ChainID{Filter, endpointChain(d, e.Interface)}}
	c.Rules = make([]Rule, 0, endpointRules(e, d))
	if !e.Up {
		c.add(r.deny("The endpoint is inactive"))
		return c
	}
	c.add(r.connections()...)
	c.add(Rule{Action: clearMark(r.marks.accept | r.marks.pass)})
	if d == desired.Egress {
		c.add(Rule{Action: jump(chainWorkloadGuard)})
	}
	r.addTiers(&c, e.Tiers, d, true)
	c.add(r.profiles(e, d)...)
	c.add(r.deny("No policy or profile allowed it"))
	return c
}

// endpointRules is about the number of rules in an endpoint's chain.
func endpointRules(e *desired.Endpoint, d desired.Direction) int {
	const frame, perTier, perProfile = 8, 3, 2
	n := frame + perTier*len(e.Tiers) + perProfile*len(e.Profiles)
	for _, t := range e.Tiers {
		policies := len(t.Policies(d))
		n += policies + policies/returnEvery
	}
	return n
}

// profiles asks the endpoint's profiles in their order.
func (r *Renderer) profiles(e *desired.Endpoint, d desired.Direction) []Rule {
	var list []Rule
	for _, name := range e.Profiles {
		list = append(list, Rule{Action: jump(profileChain(d, name))}, r.returnAccepted())
	}
	return list
}

// connections lets packets of known connections pass before any policy is asked.
func (r *Renderer) connections() []Rule {
	known := Match{Conn: Established | Related}
	var list []Rule
	if r.cfg.FilterAllow == Accept {
		list = append(list, Rule{Match: known, Action: do(Accept)})
	} else {
		list = append(list, Rule{Match: known, Action: setMark(r.marks.accept)}, Rule{Match: known, Action: do(Return)})
	}
	if !r.cfg.NoInvalidCheck {
		list = append(list, Rule{Match: Match{Conn: Invalid}, Action: do(Drop)})
	}
	return list
}

// addTiers asks the tiers that have a policy in the direction. decide says whether a packet
// on which a tier's policies did not decide is dropped, as far as the tier wants that. The
// pass mark is clear at the beginning.
func (r *Renderer) addTiers(c *Chain, tiers []desired.Tier, d desired.Direction, decide bool) {
	first := true
	for _, t := range tiers {
		if len(t.Policies(d)) == 0 {
			continue
		}
		if !first {
			c.add(Rule{Action: clearMark(r.marks.pass), Comment: "Tier " + t.Name})
		}
		first = false
		r.addTier(c, t, d)
		if decide && !t.PassByDefault {
			drop := r.deny("No policy of tier " + t.Name + " decided")
			drop.Match = isClear(r.marks.pass)
			c.add(drop)
		}
	}
}

// returnEvery is the number of policies after which a packet that one of them decided on
// leaves the chain, without looking at the rest.
const returnEvery = 5

// addTier asks the policies of a tier in their order. One that allows sets the accept mark,
// one that passes sets the pass mark; either skips the rest of the tier.
func (r *Renderer) addTier(c *Chain, t desired.Tier, d desired.Direction) {
	policies := t.Policies(d)
	for i, k := range policies {
		ask := Rule{Action: jump(policyChain(d, k))}
		if i > 0 {
			ask.Match = isClear(r.marks.accept | r.marks.pass)
		}
		c.add(ask)
		if i%returnEvery == returnEvery-1 || i == len(policies)-1 {
			c.add(r.returnAccepted())
		}
	}
}

func (r *Renderer) returnAccepted() Rule {
	return Rule{Match: isSet(r.marks.accept), Action: do(Return)}
}

func (r *Renderer) deny(comment string) Rule {
	return Rule{Action: do(r.cfg.FilterDeny), Comment: comment}
}

// Policy renders the chains of a policy in a family: one for each direction in which it
// applies, in the table of its stage.
func (r *Renderer) Policy(f Family, p *desired.Policy) []Chain {
	list := make([]Chain, len(p.Directions))
	for i, id := range PolicyChains(p) {
		list[i].ChainID = id
		list[i].add(r.ruleList(f, id.Table, p.Rules(p.Directions[i]))...)
	}
	return list
}

// tableOf is the table in which policies of a stage are asked.
func tableOf(s desired.Stage) Table {
	switch s {
	case desired.Untracked:
		return Raw
	case desired.PreDNAT:
		return Mangle
	case desired.Normal:
	}
	return Filter
}

// Profile renders the chains of a profile in a family.
func (r *Renderer) Profile(f Family, p *desired.Profile) []Chain {
	in := Chain{ChainID: ChainID{Filter, profileChain(desired.Ingress, p.Name)}}
	out := Chain{ChainID: ChainID{Filter, profileChain(desired.Egress, p.Name)}}
	in.add(r.ruleList(f, Filter, p.Ingress)...)
	out.add(r.ruleList(f, Filter, p.Egress)...)
	return []Chain{in, out}
}
