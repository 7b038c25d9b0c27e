package resource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
	"calico.internal/libcalico/store"
)

// use is what speaks against the deletion of an object.
type use struct {
	// by says who uses the object, cure what to do about it, and effect what comes of a
	// deletion all the same.
	by, cure, effect string
}

// users finds who uses objects that are to be deleted.
type users struct {
	store *Store
	found map[model.Key]stored
	// going are the objects themselves: they do not count as users.
	going map[model.Key]bool

	uses map[model.Key]use
	// still are the conditions under which an object remains without users.
	still map[model.Key][]etcdstore.Write
}

// users finds who uses objects; found is what is stored of them.
func (s *Store) users(ctx context.Context, objects []manifest.Object, found map[model.Key]stored) (*users, error) {
	u := &users{
		store: s, found: found, going: map[model.Key]bool{},
		uses: map[model.Key]use{}, still: map[model.Key][]etcdstore.Write{},
	}
	kinds := map[model.Kind][]model.Key{}
	for _, o := range objects {
		u.going[o.Key] = true
		kinds[o.Key.Kind()] = append(kinds[o.Key.Kind()], o.Key)
	}
	for kind, look := range map[model.Kind]func(context.Context, []model.Key) error{
		model.KindNode: u.ofNodes, model.KindIPPool: u.ofPools, model.KindProfile: u.ofProfiles,
		model.KindNetworkSet: u.ofSets, model.KindTier: u.ofTiers, model.KindWorkloadEndpoint: u.ofEndpoints,
	} {
		if keys := kinds[kind]; len(keys) > 0 {
			if err := look(ctx, keys); err != nil {
				return nil, err
			}
		}
	}
	return u, nil
}

// judge refuses the deletion of what is in use, or with force says what will come of it.
func (u *users) judge(objects []manifest.Object, force bool) []error {
	var faults []error
	for _, o := range objects {
		use, used := u.uses[o.Key]
		switch {
		case !used:
		case force:
			u.store.warnOnce(fmt.Sprintf("%s %s: %s", o.Key, use.by, use.effect))
		default:
			faults = append(faults, use.refusal(o.Key))
		}
	}
	return faults
}

func (u use) refusal(k model.Key) error {
	return fmt.Errorf("%s %s; %s, or use --force", k, u.by, u.cure)
}

// whole is what is stored, valid or not.
type whole struct {
	entries  []etcdstore.Entry
	revision int64
}

func (s *Store) whole(ctx context.Context, kind model.Kind, match func(model.Key) bool) (whole, error) {
	entries, revision, bad, err := s.etcd.List(ctx, kind, match)
	return whole{withBad(entries, bad), revision}, err
}

// wholeOf is what is stored of a node of a kind.
func (s *Store) wholeOf(ctx context.Context, prefix string, kind model.Kind) (whole, error) {
	entries, revision, bad, err := s.etcd.ListUnder(ctx, []string{prefix}, func(k model.Key) bool { return k.Kind() == kind })
	return whole{withBad(entries, bad), revision}, err
}

func withBad(entries []etcdstore.Entry, bad []store.Quarantined) []etcdstore.Entry {
	for _, b := range bad {
		if b.Key != nil {
			entries = append(entries, entryOf(b))
		}
	}
	return entries
}

func entryOf(b store.Quarantined) etcdstore.Entry { return etcdstore.Entry{Key: b.Key, Value: b.Value} }

// ofNodes finds nodes that live, or have endpoints.
func (u *users) ofNodes(ctx context.Context, keys []model.Key) error {
	for _, k := range keys {
		node := k.(model.NodeKey).Name
		lives, err := u.store.wholeOf(ctx, livenessPrefix(node), model.KindLiveness)
		if err != nil {
			return err
		}
		workloads, err := u.store.wholeOf(ctx, workloadPrefix(node), model.KindWorkloadEndpoint)
		if err != nil {
			return err
		}
		u.still[k] = []etcdstore.Write{
			etcdstore.StillWrite(k, livenessPrefix(node), lives.revision),
			etcdstore.StillWrite(k, workloadPrefix(node), workloads.revision),
		}
		var programs []string
		for _, e := range lives.entries {
			programs = append(programs, e.Key.(model.LivenessKey).Program)
		}
		endpoints := 0
		for _, e := range workloads.entries {
			if !u.going[e.Key] {
				endpoints++
			}
		}
		if use, used := useOfNode(programs, endpoints); used {
			u.uses[k] = use
		}
	}
	return nil
}

func useOfNode(programs []string, endpoints int) (use, bool) {
	has := counted(endpoints, "endpoint", "endpoints")
	u := use{effect: "its endpoints go with it, and what runs there is cut off"}
	switch alive := "is alive (" + strings.Join(slices.Sorted(slices.Values(programs)), ", ") + ")"; {
	case len(programs) > 0 && endpoints > 0:
		u.by, u.cure = alive+" and has "+has, "stop calico-node there first"
	case len(programs) > 0:
		u.by, u.cure = alive, "stop calico-node there first"
	case endpoints > 0:
		u.by, u.cure = "has "+has, "remove its containers first, if the host is still there"
	default:
		return u, false
	}
	return u, true
}

// ofEndpoints finds workload endpoints whose containers live: those on nodes whose felix
// does, unless it says that one is not up.
func (u *users) ofEndpoints(ctx context.Context, keys []model.Key) error {
	felix := map[string]whole{} // by node
	for _, k := range keys {
		key := k.(model.WorkloadEndpointKey)
		alive := model.LivenessKey{Node: key.Node, Program: "felix"}
		if _, known := felix[key.Node]; !known {
			found, err := u.store.wholeOf(ctx, model.Paths(alive)[0], model.KindLiveness)
			if err != nil {
				return err
			}
			felix[key.Node] = found
		}
		status, err := u.store.etcd.Get(ctx, model.EndpointStatusKey(key))
		if err != nil && !errors.Is(err, etcdstore.ErrNotFound) && !errors.Is(err, etcdstore.ErrUnreadable) {
			return err
		}
		same, err := etcdstore.CheckWrite(model.EndpointStatusKey(key), status.Revision)
		if err != nil {
			return err
		}
		lives := felix[key.Node]
		u.still[k] = []etcdstore.Write{same, etcdstore.StillWrite(k, model.Paths(alive)[0], lives.revision)}
		said, ok := status.Value.(*model.EndpointStatus)
		if down := ok && said.Status != model.EndpointUp; len(lives.entries) > 0 && !down && u.found[k].value != nil {
			u.uses[k] = use{
				by: "is on a node that is alive" + containerOf(u.found[k].value), cure: "remove its container instead",
				effect: "its container is cut off, if it still runs",
			}
		}
	}
	return nil
}

// containerName is the annotation in which the plugin says which container has an endpoint.
const containerName = "org.projectcalico.docker.container-name"

// containerOf names the container of an endpoint, where that is known.
func containerOf(v model.Resource) string {
	if meta := model.MetadataOf(v); meta != nil && meta.Annotations[containerName] != "" {
		return " (container " + meta.Annotations[containerName] + ")"
	}
	return ""
}

func livenessPrefix(node string) string {
	path := model.Paths(model.LivenessKey{Node: node, Program: "felix"})[0]
	return path[:strings.LastIndexByte(path, '/')+1]
}

func workloadPrefix(node string) string {
	path := model.Paths(model.WorkloadEndpointKey{Node: node, Orchestrator: "o", Workload: "w", Name: "e"})[0]
	return strings.TrimSuffix(path, "o/w/endpoint/e")
}

// ofPools finds pools with addresses in use. That none comes into use is up to
// [Store.deletePool]: it marks the pool first.
func (u *users) ofPools(ctx context.Context, keys []model.Key) error {
	for _, k := range keys {
		cidr := k.(model.IPPoolKey).CIDR
		n, err := u.store.ipam.InUse(ctx, cidr)
		if err != nil {
			return err
		}
		if n > 0 {
			u.uses[k] = useOfPool(n, u.found[k].value)
		}
	}
	return nil
}

func useOfPool(addresses int, pool model.Resource) use {
	u := use{
		by:     "has " + counted(addresses, "address", "addresses") + " in use",
		cure:   "disable it (spec.disabled) and move its containers to another pool first",
		effect: "what is in use stays, and keeps its routes, until its container ends",
	}
	if p, ok := pool.(*model.IPPool); ok && p.Masquerade {
		u.effect += "; the pool's NAT for what goes outside is gone"
	}
	return u
}

// naming is an endpoint of a node that names some of the profiles in question, or none.
type naming struct {
	node     string
	profiles []model.Key
}

// ofProfiles finds profiles that endpoints name.
func (u *users) ofProfiles(ctx context.Context, keys []model.Key) error {
	prefixes := slices.Concat(model.ListPrefixes(model.KindWorkloadEndpoint), model.ListPrefixes(model.KindHostEndpoint))
	endpoints, revision, err := etcdstore.Gather(ctx, u.store.etcd, prefixes, func(e etcdstore.Entry) (naming, bool) {
		return u.naming(e, keys)
	})
	if err != nil {
		return err
	}
	on := map[model.Key]map[string]int{} // endpoints by node
	for _, e := range endpoints {
		for _, k := range e.profiles {
			if on[k] == nil {
				on[k] = map[string]int{}
			}
			on[k][e.node]++
		}
	}
	for _, k := range keys {
		if len(endpoints) <= maxStill {
			u.still[k] = stillAll(k, revision, model.KindWorkloadEndpoint)
		}
		if on := on[k]; len(on) > 0 {
			u.uses[k] = useOfProfile(on)
		}
	}
	return nil
}

// naming is what an endpoint names of some profiles; ok is false for what is no endpoint.
func (u *users) naming(e etcdstore.Entry, profiles []model.Key) (n naming, ok bool) {
	var names []string
	switch k := e.Key.(type) {
	case model.WorkloadEndpointKey:
		n.node = k.Node
		if v, ok := e.Value.(*model.WorkloadEndpoint); ok {
			names = v.Profiles
		}
	case model.HostEndpointKey:
		n.node = k.Node
		if v, ok := e.Value.(*model.HostEndpoint); ok {
			names = v.Profiles
		}
	default:
		return n, false
	}
	if u.going[e.Key] || u.going[model.NodeKey{Name: n.node}] {
		return n, true
	}
	for _, k := range profiles {
		if slices.Contains(names, k.(model.ProfileKey).Name) {
			n.profiles = append(n.profiles, k)
		}
	}
	return n, true
}

func useOfProfile(on map[string]int) use {
	n := 0
	for _, more := range on {
		n += more
	}
	return use{
		by: fmt.Sprintf("is named by %s on %s",
			counted(n, "endpoint", "endpoints"), someOf(slices.Sorted(maps.Keys(on)), "node", "nodes")),
		cure:   "remove these containers, or the profile from the endpoints, first",
		effect: "what no policy allows is now dropped for them",
	}
}

// ofSets finds network sets that rules select.
func (u *users) ofSets(ctx context.Context, keys []model.Key) error {
	selecting := map[model.Key][]string{}
	rules, oldest := 0, int64(0)
	for _, kind := range []model.Kind{model.KindPolicy, model.KindProfile} {
		holders, err := u.store.whole(ctx, kind, func(k model.Key) bool { return !u.going[k] })
		if err != nil {
			return err
		}
		if rules += len(holders.entries); oldest == 0 {
			oldest = holders.revision
		}
		for _, e := range holders.entries {
			selectors := selectorsOf(e.Value)
			for _, k := range keys {
				if u.selected(k, selectors) {
					selecting[k] = append(selecting[k], e.Key.String())
				}
			}
		}
	}
	for _, k := range keys {
		if rules <= maxStill {
			u.still[k] = stillAll(k, oldest, model.KindPolicy, model.KindProfile)
		}
		if by := selecting[k]; len(by) > 0 {
			u.uses[k] = use{
				by: "is selected by rules of " + someOf(by, "other", "others"), cure: "change these rules first",
				effect: "they match its networks no more",
			}
		}
	}
	return nil
}

// selected says whether one of the selectors chooses a network set that has networks.
func (u *users) selected(k model.Key, selectors []*selector.Selector) bool {
	set, ok := u.found[k].value.(*model.NetworkSet)
	return ok && len(set.Nets) > 0 &&
		slices.ContainsFunc(selectors, func(s *selector.Selector) bool { return s.Match(selector.Map(set.Labels)) })
}

// selectorsOf is the selectors of a resource's rules.
func selectorsOf(v model.Resource) []*selector.Selector {
	var rules []model.Rule
	switch v := v.(type) {
	case *model.Policy:
		rules = slices.Concat(v.InboundRules, v.OutboundRules)
	case *model.Profile:
		rules = slices.Concat(v.InboundRules, v.OutboundRules)
	}
	var out []*selector.Selector
	for _, r := range rules {
		for _, text := range []string{r.Source.Selector, r.Source.NotSelector, r.Destination.Selector, r.Destination.NotSelector} {
			if s, err := selector.Parse(text); err == nil && text != "" {
				out = append(out, s)
			}
		}
	}
	return out
}

// ofTiers finds tiers with policies in them.
func (u *users) ofTiers(ctx context.Context, keys []model.Key) error {
	policies, err := u.store.whole(ctx, model.KindPolicy, func(k model.Key) bool {
		policy, ok := k.(model.PolicyKey)
		return ok && !u.going[k] && slices.Contains(keys, model.Key(model.TierKey{Name: policy.Tier}))
	})
	if err != nil {
		return err
	}
	holds := map[model.Key][]string{}
	for _, e := range policies.entries {
		tier := model.TierKey{Name: e.Key.(model.PolicyKey).Tier}
		holds[tier] = append(holds[tier], e.Key.String())
	}
	for _, k := range keys {
		path := model.Paths(model.PolicyKey{Tier: k.(model.TierKey).Name, Name: "p"})[0]
		u.still[k] = []etcdstore.Write{etcdstore.StillWrite(k, path[:strings.LastIndexByte(path, '/')+1], policies.revision)}
		if names := holds[k]; len(names) > 0 {
			u.uses[k] = use{
				by: "holds " + someOf(names, "other", "others"), cure: "delete these policies first",
				effect: "they are now asked after all other tiers, and what they do not decide is dropped",
			}
		}
	}
	return nil
}

// stillAll are the conditions that nothing of some kinds was written after a revision.
func stillAll(k model.Key, revision int64, kinds ...model.Kind) []etcdstore.Write {
	var out []etcdstore.Write
	for _, kind := range kinds {
		for _, prefix := range model.ListPrefixes(kind) {
			out = append(out, etcdstore.StillWrite(k, prefix, revision))
		}
	}
	return out
}

// counted is a number with its noun.
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// fewNames is how many names a message lists.
const fewNames = 3

// someOf lists names, or the first few and how many more of what they name there are.
func someOf(names []string, one, many string) string {
	shown := names[:min(len(names), fewNames)]
	last := shown[len(shown)-1]
	if more := len(names) - len(shown); more > 0 {
		last = counted(more, "more "+one, "more "+many)
	} else {
		shown = shown[:len(shown)-1]
	}
	if len(shown) == 0 {
		return last
	}
	return strings.Join(shown, ", ") + " and " + last
}
