package calc

import (
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// unusable is a stored value that cannot be used.
type unusable struct {
	err      error
	revision int64
	// lastGood says that an older version is in force in its place.
	lastGood bool
}

// remnant is what an unusable value of which there is no older version says, as far as it
// can be read.
type remnant struct {
	value model.Resource // nil when nothing can be read
	// unreadable are the fields that cannot be, as the value names them.
	unreadable []string
	// invalid are the fields that can be read, but not used, as manifests name them.
	invalid []string
}

func newRemnant(q store.Quarantined) remnant {
	r := remnant{value: q.Value, unreadable: q.Unreadable}
	for _, f := range model.Faults(q.Err) {
		field, _, _ := strings.Cut(f.Field, "[")
		r.invalid = append(r.invalid, field)
	}
	return r
}

// knows reports whether a field can be read and used. stored is its name in the value,
// field that in manifests.
func (r remnant) knows(stored, field string) bool {
	return r.value != nil && !slices.Contains(r.invalid, field) &&
		!slices.ContainsFunc(r.unreadable, func(name string) bool { return strings.EqualFold(name, stored) })
}

// ApplyQuarantine takes over the list of values that the store holds but cannot use. Those
// of which an older version is in force change nothing; of the others, what can be read
// decides what is closed. The list is the whole one; call this after Apply, when it may
// have changed.
func (e *Engine) ApplyQuarantine(list []store.Quarantined) {
	found := map[model.Key]struct{}{}
	for _, q := range list {
		u, ours := e.unusable[q.Key]
		if !ours || u.lastGood {
			continue
		}
		found[q.Key] = struct{}{}
		if _, known := e.rejected[q.Key]; !known {
			e.rejected[q.Key] = newRemnant(q)
			e.standIn(q.Key)
		}
	}
	maps.DeleteFunc(e.rejected, func(k model.Key, _ remnant) bool { _, still := found[k]; return !still })
}

// standIn puts in force what stands in the place of an unusable value.
func (e *Engine) standIn(k model.Key) {
	r := e.rejected[k]
	switch k := k.(type) {
	case model.PolicyKey:
		e.renewInput(e.policy(k))
	case model.TierKey:
		e.touchTier(k.Name)
	case model.ProfileKey:
		if p, ok := r.value.(*model.Profile); ok {
			e.setParent(k.Name, p)
		}
	case model.IPPoolKey:
		e.setPool(k, e.standInPool(k, r))
	case model.NetworkSetKey:
		e.doubt(k, r)
	case model.WorkloadEndpointKey:
		e.doubt(k, r)
	case model.HostEndpointKey:
		e.doubt(k, r)
		if k.Node == e.node {
			e.closeHost(k, r)
		}
	}
}

// withdraw forgets what stands in the place of a value, of which there is news.
func (e *Engine) withdraw(k model.Key) {
	delete(e.rejected, k)
	if _, ok := e.doubtful[k]; ok {
		delete(e.doubtful, k)
		e.touchRules()
	}
}

// standInPolicy is a policy that denies what a rejected one selects, in the directions in
// which it applies, as far as it says; nil when its selector cannot be read.
func standInPolicy(r remnant) *model.Policy {
	rejected, ok := r.value.(*model.Policy)
	if !ok || !r.knows("selector", "spec.selector") {
		return nil
	}
	p := denying(rejected)
	p.PreDNAT = p.PreDNAT && !p.DoNotTrack
	p.ApplyOnForward = p.ApplyOnForward || !r.knows("apply_on_forward", "spec.applyOnForward")
	if !r.knows("order", "spec.order") {
		p.Order = new(math.Inf(-1)) // before whatever allows
	}
	p.Types = slices.DeleteFunc(p.Types, func(t string) bool {
		return t != model.PolicyTypeIngress && t != model.PolicyTypeEgress
	})
	return p
}

// denying is a policy that applies where another does, and denies.
func denying(of *model.Policy) *model.Policy {
	return &model.Policy{
		Order: of.Order, Selector: of.Selector, Types: slices.Clone(of.Types),
		DoNotTrack: of.DoNotTrack, PreDNAT: of.PreDNAT, ApplyOnForward: of.ApplyOnForward,
		InboundRules:  []model.Rule{{Action: model.ActionDeny}},
		OutboundRules: []model.Rule{{Action: model.ActionDeny}},
	}
}

// rejectedTier is what can be read of an unusable tier.
func (e *Engine) rejectedTier(name string) (r remnant, unusable bool) {
	r, unusable = e.rejected[model.TierKey{Name: name}]
	return r, unusable
}

// rejectedOrder is the rank of an unusable tier: the first, when that cannot be read, so
// that its policies deny what they select whatever others allow.
func rejectedOrder(name string, r remnant) float64 {
	t, ok := r.value.(*model.Tier)
	if !ok || !r.knows("order", "spec.order") {
		return math.Inf(-1)
	}
	return orderOf(name, t)
}

// touchTier has the policies of a tier renewed where the tier turned unusable, or usable,
// and marks the endpoints that have them.
func (e *Engine) touchTier(name string) {
	_, closed := e.rejectedTier(name)
	for _, p := range e.policies {
		if p.key.Tier != name {
			continue
		}
		if p.tierClosed != closed {
			e.renewInput(p)
		}
		e.touchMatches(p.sub)
	}
}

// closeHost puts a host endpoint in force that lets nothing pass but failsafe ports: on the
// interface, or the addresses, of an unusable one. When neither can be read, it is on all
// interfaces that no other host endpoint names or has the addresses of. Policies for
// forwarded packets that select its labels stay in force. When these cannot be read, its own
// or those that it has from profiles, any policy might be among these.
func (e *Engine) closeHost(k model.HostEndpointKey, r remnant) {
	closed := &model.HostEndpoint{}
	now := endpoint{key: k, res: closed, rev: e.unusable[k].revision, closed: true}
	now.unlabelled = !r.knows("labels", "metadata.labels") || !r.knows("profile_ids", "spec.profiles")
	if value, ok := r.value.(*model.HostEndpoint); ok {
		if r.knows("name", "spec.interfaceName") {
			closed.Interface = value.Interface
		}
		if r.knows("expected_ipv4_addrs", "spec.expectedIPs") {
			closed.ExpectedIPv4Addrs = value.ExpectedIPv4Addrs
		}
		if r.knows("expected_ipv6_addrs", "spec.expectedIPs") {
			closed.ExpectedIPv6Addrs = value.ExpectedIPv6Addrs
		}
		if !now.unlabelled {
			closed.Labels, closed.Profiles = value.Labels, value.Profiles
		}
	}
	if closed.Interface == "" && len(closed.ExpectedIPv4Addrs)+len(closed.ExpectedIPv6Addrs) == 0 {
		closed.Interface, now.anywhere = "*", true
	}
	e.guard(now)
}

// standInPool is a pool with the range that its key has. Whether it is masqueraded stays as
// it was in the kernel when that cannot be read.
func (e *Engine) standInPool(k model.IPPoolKey, r remnant) *model.IPPool {
	p := &model.IPPool{CIDR: k.CIDR}
	if value, ok := r.value.(*model.IPPool); ok && r.knows("masquerade", "spec.nat-outgoing") {
		p.Masquerade = value.Masquerade
	} else {
		p.Masquerade = slices.Contains(e.masquerading, k.CIDR.Masked())
	}
	return p
}

// UnreadablePools reports whether there are pools of which it is not known whether they are
// masqueraded.
func (e *Engine) UnreadablePools() bool {
	for k, r := range e.rejected {
		if k.Kind() == model.KindIPPool && !r.knows("masquerade", "spec.nat-outgoing") {
			return true
		}
	}
	return false
}

// AdoptMasquerading says which pools were masqueraded when felix started.
func (e *Engine) AdoptMasquerading(pools []netip.Prefix) {
	e.masquerading = pools
	for k := range e.rejected {
		if k.Kind() == model.KindIPPool {
			e.standIn(k)
		}
	}
}

// doubt says that the addresses of an unusable endpoint or network set are not known: a
// rule that lets more pass when it does not know them must not be used.
func (e *Engine) doubt(k model.Key, r remnant) {
	e.doubtful[k] = doubt{remnant: r, anyLabels: k.Kind() == model.KindNetworkSet && !r.knows("labels", "metadata.labels")}
	e.touchRules()
}

// doubt is an endpoint or a network set whose addresses are not known.
type doubt struct {
	remnant

	// anyLabels says that its labels are not known either, so that any selector may choose
	// it. Of an endpoint of which that is so none counts as one that does: its own host lets
	// nothing of it pass.
	anyLabels bool
}

// touchRules marks all policies and profiles.
func (e *Engine) touchRules() {
	for _, p := range e.policies {
		e.dirtyPolicies[p] = struct{}{}
	}
	for _, p := range e.profiles {
		e.dirtyProfiles[p] = struct{}{}
	}
}

// opens names what is not known of the first rule that would let more pass without it; nil
// when there is none. A rule that allows only what a set holds does not: without a member
// it allows less.
func (e *Engine) opens(rules []desired.Rule) model.Key {
	if len(e.doubtful) == 0 {
		return nil
	}
	for _, r := range rules {
		for _, m := range []desired.Match{r.Source, r.Destination} {
			var ids []desired.SetID
			if r.Action == desired.Deny || r.Action == desired.Pass {
				ids = append(ids, slices.Concat(m.Sets, m.NamedPorts)...)
			}
			if r.Action == desired.Allow || r.Action == desired.Pass {
				ids = append(ids, slices.Concat(m.NotSets, m.NotNamedPorts)...)
			}
			for _, id := range ids {
				if k := e.lacks(e.sets.all[id]); k != nil {
					return k
				}
			}
		}
	}
	return nil
}

// lacks names an endpoint or network set whose addresses may be missing in a set.
func (e *Engine) lacks(set *addrSet) model.Key {
	for _, k := range slices.SortedFunc(maps.Keys(e.doubtful), model.Compare) {
		if d := e.doubtful[k]; d.mayFill(e.sets.index, k, set) {
			return k
		}
	}
	return nil
}

// mayFill reports whether a set may hold addresses of what is not known.
func (d doubt) mayFill(x *index, k model.Key, set *addrSet) bool {
	if set.sub == nil {
		for p := range namedPortsOf(d.value) {
			if p == set.port {
				return true
			}
		}
		for _, p := range portsOf(d.value) {
			if p.Name == set.port.name {
				return true
			}
		}
		return false
	}
	if d.anyLabels {
		return true
	}
	if !d.knows("labels", "metadata.labels") {
		return false
	}
	it := &item{key: k, res: d.value}
	for _, name := range profilesOf(d.value) {
		if p := x.parents[name]; p != nil {
			it.parents = append(it.parents, p)
		}
	}
	return set.sub.sel.Match(it)
}

// consequence says what an unusable value leads to.
func (e *Engine) consequence(k model.Key, u unusable) string {
	if u.lastGood {
		return "its last valid version stays in force"
	}
	switch k := k.(type) {
	case model.WorkloadEndpointKey:
		return "its traffic is dropped"
	case model.HostEndpointKey:
		if k.Node != e.node {
			return "its addresses are not known here"
		}
		if ep := e.endpoints[k]; ep != nil && ep.closed {
			text := closedWhere(ep.res) + " closed but for failsafe ports"
			if ep.given != nil && len(ep.given.WorkloadsOnly) > 0 {
				text += ", and of what is forwarded there only packets of workloads pass"
			}
			return text
		}
	case model.ProfileKey:
		return "it denies what reaches it"
	case model.PolicyKey:
		if p := e.policies[k]; p != nil && p.res != nil {
			return "it denies what it selects"
		}
	case model.TierKey:
		if _, closed := e.rejectedTier(k.Name); closed {
			return "its policies deny what they select"
		}
	case model.NetworkSetKey:
		return "its networks are not known; policies that would let more pass without them deny what they select"
	case model.IPPoolKey:
		return "its range counts as a pool's all the same, and whether it is masqueraded stays as it was"
	}
	return "it is not in force"
}

// closedWhere names what a host endpoint without a readable value closes.
func closedWhere(r model.Resource) string {
	switch h, _ := r.(*model.HostEndpoint); {
	case h != nil && h.Interface == "*":
		return "all interfaces of this host that no other host endpoint is on are"
	case h != nil && h.Interface != "":
		return "interface " + h.Interface + " is"
	}
	return "the interface that has its addresses is"
}

// NotInForce lists the policies that the store holds and that nothing stands in for, since
// what they select cannot be read, sorted.
func (e *Engine) NotInForce() []model.PolicyKey {
	var list []model.PolicyKey
	for k, u := range e.unusable {
		key, ok := k.(model.PolicyKey)
		if p := e.policies[key]; ok && !u.lastGood && (p == nil || p.res == nil) {
			list = append(list, key)
		}
	}
	slices.SortFunc(list, func(a, b model.PolicyKey) int { return model.Compare(a, b) })
	return list
}
