package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"calico.internal/felix/internal/config"
	"calico.internal/felix/internal/conntrack"
	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/ipsets"
	"calico.internal/felix/internal/iptables"
	"calico.internal/felix/internal/routes"
	"calico.internal/felix/internal/rules"
	"calico.internal/felix/internal/sysctls"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/reconcile"
)

// maxRetry bounds the wait before an object that the kernel refused is tried again.
const maxRetry = 10 * time.Second

// ipv6Settings exists where the kernel has IPv6.
const ipv6Settings = sysctls.Root + "/net/ipv6"

// dataplane is everything that felix keeps in the kernel. It belongs to the loop's
// goroutine.
type dataplane struct {
	log     *slog.Logger
	cfg     *config.Config
	backend iptables.Backend
	// ipv6 says whether IPv6 is handled besides IPv4; families lists what is. dropped lists
	// what the kernel has and felix is not to handle.
	ipv6     bool
	families []rules.Family
	dropped  []rules.Family
	renderer *rules.Renderer
	trackers map[rules.Family]*rules.Tracker
	links    *ifmonitor.Links

	iptables *iptables.Targets
	ipsets   *ipsets.Kernel
	netlink  *routes.Kernel
	conns    *conntrack.Cleaner
	settings *sysctls.Target
	handover *handover

	sets       *reconcile.Table[string, ipsets.Spec]
	members    *reconcile.Table[ipsets.Member, struct{}]
	chains     *chains
	addresses  *reconcile.Table[routes.AddrKey, struct{}]
	sysctls    *reconcile.Table[sysctls.Key, string]
	neighbours *reconcile.Table[routes.NeighKey, routes.MAC]
	routes     *reconcile.Table[routes.Key, routes.Route]
	// held is the tables of chains as they stand in order.
	held  *heldChains
	order reconcile.Ordered

	gateways    hostGateways
	host        hostSettings
	hostAddrs   map[string][]netip.Addr
	addressSets map[desired.SetID]*addressSet
	// setIDs are the sets by their names in the kernel, and setUses what rules do with them.
	setIDs  map[string]desired.SetID
	setUses setUses
	// control is where the control plane is, controlMembers what its sets hold, and
	// etcdPorts the ports at which etcd listens on this host.
	control        controlPlane
	controlMembers map[desired.SetID]map[desired.Member]struct{}
	etcdPorts      []uint16
	// bridges are those of Docker's networks.
	bridges []string
	// dockerNames are the interfaces that Docker's rules named when bridges were last looked for.
	dockerNames []string
	filters     *filters
	policies    map[model.PolicyKey]*desired.Policy
	profiles    map[string]*desired.Profile
	workloads   *workloads
}

// newDataplane connects to the kernel. An error says what it lacks.
func newDataplane(ctx context.Context, log *slog.Logger, cfg *config.Config, links *ifmonitor.Links) (*dataplane, error) {
	d := &dataplane{
		log: log, cfg: cfg, links: links, families: []rules.Family{rules.V4},
		trackers:    map[rules.Family]*rules.Tracker{},
		addressSets: map[desired.SetID]*addressSet{}, setIDs: map[string]desired.SetID{}, setUses: setUses{},
		policies: map[model.PolicyKey]*desired.Policy{},
		profiles: map[string]*desired.Profile{},
	}
	_, noIPv6 := os.Stat(ipv6Settings)
	switch {
	case noIPv6 == nil && cfg.IPv6Support:
		d.ipv6, d.families = true, rules.Families[:]
	case noIPv6 == nil:
		d.dropped = []rules.Family{rules.V6}
	case cfg.IPv6Support:
		log.Warn("this host has no IPv6; only IPv4 is handled")
	}
	var err error
	if d.renderer, err = rules.NewRenderer(cfg.Rules()); err != nil {
		return nil, err
	}
	if err := d.open(ctx); err != nil {
		d.close()
		return nil, err
	}
	d.filters = newFilters(d.chains)
	d.workloads = newWorkloads(d)
	for _, f := range d.families {
		d.trackers[f] = rules.NewTracker(d.renderer, f)
		d.setHooks(f, nil)
	}
	d.addControlPlane()
	d.findBridges()
	d.setHostAddrs()
	d.changeChains(func(t *rules.Tracker) rules.ChainChanges { return t.Apply(desired.Changes{}) })
	d.sysctls.Set(sysctls.ForwardIPv4, "1")
	d.setGateways(nil)
	d.lookAtHost()
	return d, nil
}

// open makes the targets and their tables.
func (d *dataplane) open(ctx context.Context) error {
	if err := d.openChains(ctx); err != nil {
		return err
	}
	var err error
	if d.ipsets, err = ipsets.Open(d.families...); err != nil {
		return err
	}
	if d.netlink, err = routes.Open(routes.Config{
		Prefixes: d.cfg.InterfacePrefix, Protocol: d.cfg.DeviceRouteProtocol, RemoveExternal: d.cfg.RemoveExternalRoutes,
		IPv6: d.ipv6 || len(d.dropped) > 0, Interfaces: d.links,
	}); err != nil {
		return err
	}
	var conns connections
	if d.conns, err = conntrack.Open(); err != nil {
		d.log.Warn("connections of addresses that change hands are not removed", logattr.Err, err)
	} else {
		conns = d.conns
	}
	d.settings = sysctls.New(sysctls.Root, sysctls.Host{Own: d.isOwn, Raised: func(ifaces []string) {
		d.log.Info("IPv6 is forwarded from now on; the host keeps the routes that routers advertise to it, by accept_ra=2", "interfaces", strings.Join(ifaces, ","))
	}})
	d.handover = newHandover(d.netlink.Routes(), conns)

	d.sets = reconcile.NewTable(d.ipsets.Sets(), options[string, ipsets.Spec](setsTable, compareStrings))
	d.members = reconcile.NewTable(d.ipsets.Members(), d.memberOptions())
	d.addresses = reconcile.NewTable(d.netlink.Addresses(d.gatewayAddresses()), alone(options[routes.AddrKey, struct{}]("gateways", routes.AddrKey.Compare)))
	d.sysctls = reconcile.NewTable(d.settings, d.guardForwarding(alone(options[sysctls.Key, string]("settings", sysctls.Key.Compare))))
	d.neighbours = reconcile.NewTable(d.netlink.Neighbours(), alone(options[routes.NeighKey, routes.MAC]("neighbours", routes.NeighKey.Compare)))
	d.routes = reconcile.NewTable(d.handover, d.guardRoutes(alone(options[routes.Key, routes.Route]("routes", routes.Key.Compare))))
	d.held = &heldChains{chains: d.chains}
	d.order = reconcile.Ordered{
		d.sets, d.members,
		reconcile.Step(func(context.Context) error { d.closeBrokenSets(); return nil }),
		d.held,
		d.sysctls, d.addresses, d.neighbours, d.routes,
	}
	return nil
}

// memberOptions lets members of sets that stay go at once: whom a label is taken from waits
// for nothing. Where that would only let more pass, the rules come first. Members of a set
// that is to be destroyed go with it, when no chain in the kernel names it any more; without
// them such a chain would mean something else.
func (d *dataplane) memberOptions() reconcile.Options[ipsets.Member, struct{}] {
	opts := options[ipsets.Member, struct{}]("members", ipsets.Member.Compare)
	opts.DeleteEarly = func(m ipsets.Member) bool {
		id, stays := d.setIDs[m.Set]
		return stays && !d.setUses.onlyGives(id)
	}
	return opts
}

// alone is for tables whose objects name no set and no chain.
func alone[K comparable, V any](opts reconcile.Options[K, V]) reconcile.Options[K, V] {
	opts.RefersToNothing = true
	return opts
}

// setsTable is the name of the table of sets.
const setsTable = "sets"

func options[K comparable, V comparable](name string, compare func(a, b K) int) reconcile.Options[K, V] {
	return reconcile.Options[K, V]{
		Name: name, Compare: compare, MaxBackoff: maxRetry,
		Equal: func(a, b V) bool { return a == b },
	}
}

func compareStrings(a, b string) int { return strings.Compare(a, b) }

func (d *dataplane) openChains(ctx context.Context) error {
	var err error
	if d.backend, err = iptables.Detect(ctx, d.cfg.IptablesBackend); err != nil {
		return err
	}
	d.log.Info("using iptables", "variant", d.backend.Variant, "because", d.backend.Why)
	if d.backend.OtherInUse {
		d.log.Warn("Docker's chains stand in both variants of iptables; set IptablesBackend if this is the wrong one", "variant", d.backend.Variant)
	}
	if d.iptables, err = iptables.Open(d.backend, d.standIn); err != nil {
		return err
	}
	d.iptables.Woke = wokeIn(d.log)
	targets := map[rules.Family]map[rules.Table]*iptables.Target{}
	for _, f := range d.families {
		if targets[f], err = d.openFamily(f); err != nil {
			return err
		}
	}
	d.chains = newChains(targets, d.standIn)
	d.chains.gate = d
	d.chains.apart = d.backend.Variant == iptables.NFT
	for _, f := range d.families {
		lacks, err := d.iptables.Lacks(f)
		if err != nil {
			d.log.Warn("it is not known what the kernel lacks", logattr.Err, err)
		}
		d.chains.lack(f, lacks)
	}
	d.chains.read(ctx)
	return nil
}

// wokeIn logs tables that were woken.
func wokeIn(log *slog.Logger) func(rules.Family, rules.Table) {
	return func(f rules.Family, t rules.Table) {
		log.Warn("a table of iptables was dormant, so that no packet met its rules; felix woke it", "table", chainTableName(f, t))
	}
}

func (d *dataplane) openFamily(f rules.Family) (map[rules.Table]*iptables.Target, error) {
	out := map[rules.Table]*iptables.Target{}
	for _, t := range rules.Tables {
		target, err := d.iptables.Target(f, t)
		if err != nil {
			for _, opened := range out {
				opened.Close()
			}
			return nil, fmt.Errorf("table %s: %w", t, err)
		}
		out[t] = target
	}
	return out, nil
}

// standIn is what takes the place of a chain at fault.
func (d *dataplane) standIn(f rules.Family, id rules.ChainID) iptables.Chain {
	c, err := iptables.NewChain(f, d.renderer.StandIn(id))
	if err != nil { // for which no frame could be printed either
		d.log.Error("a chain that is at fault stays without a stand-in", "chain", id.Name, logattr.Err, err)
	}
	return c
}

// close ends the connections to the kernel and leaves everything that is in it.
func (d *dataplane) close() {
	if d.chains != nil {
		d.chains.close()
	}
	if d.iptables != nil {
		d.iptables.Close()
	}
	if d.ipsets != nil {
		d.ipsets.Close()
	}
	if d.netlink != nil {
		d.netlink.Close()
	}
	if d.conns != nil {
		d.conns.Close()
	}
}

// update takes over a change of what is desired.
func (d *dataplane) update(c desired.Changes) {
	for _, s := range c.SetsAdded {
		d.addSet(s)
	}
	for _, delta := range c.SetsChanged {
		d.changeSet(delta)
	}
	for _, p := range c.Policies {
		d.setPolicy(p.Key, p)
	}
	for _, p := range c.Profiles {
		d.setProfile(p.Name, p)
	}
	for _, k := range c.PoliciesDeleted {
		d.setPolicy(k, nil)
	}
	for _, name := range c.ProfilesDeleted {
		d.setProfile(name, nil)
	}
	if !concernsSetsOnly(c) {
		d.changeChains(func(t *rules.Tracker) rules.ChainChanges { return t.Apply(c) })
		d.workloads.update(c)
	}
	for _, s := range c.SetsDeleted {
		d.deleteSet(s)
	}
}

// setPolicy takes over a policy; nil stands for none.
func (d *dataplane) setPolicy(k model.PolicyKey, p *desired.Policy) {
	if old := d.policies[k]; old != nil {
		d.setUses.count(old.Ingress, -1)
		d.setUses.count(old.Egress, -1)
		delete(d.policies, k)
	}
	if p != nil {
		d.setUses.count(p.Ingress, 1)
		d.setUses.count(p.Egress, 1)
		d.policies[k] = p
	}
}

// setProfile does the same for a profile.
func (d *dataplane) setProfile(name string, p *desired.Profile) {
	if old := d.profiles[name]; old != nil {
		d.setUses.count(old.Ingress, -1)
		d.setUses.count(old.Egress, -1)
		delete(d.profiles, name)
	}
	if p != nil {
		d.setUses.count(p.Ingress, 1)
		d.setUses.count(p.Egress, 1)
		d.profiles[name] = p
	}
}

// concernsSetsOnly reports a change, such as that of a label, which only changes members.
func concernsSetsOnly(c desired.Changes) bool {
	c.SetsAdded, c.SetsChanged, c.SetsDeleted = nil, nil, nil
	return c.IsEmpty()
}

// changeChains has chains rendered and printed, the families at the same time, and puts
// them into the tables. One that cannot be printed is replaced by a rule that drops, and
// reported.
func (d *dataplane) changeChains(render func(*rules.Tracker) rules.ChainChanges) {
	var wg sync.WaitGroup
	set, gone := make([][]printedChain, len(d.families)), make([][]rules.ChainID, len(d.families))
	for i, f := range d.families {
		wg.Go(func() {
			c := render(d.trackers[f])
			set[i], gone[i] = printChains(f, c.Set, d.chains.lacks[f]), c.Delete
		})
	}
	wg.Wait()
	for i, f := range d.families {
		for _, c := range set[i] {
			d.filters.set(f, c)
		}
		for _, id := range gone[i] {
			d.filters.remove(f, id)
		}
	}
}

// setHooks replaces the hooks old by those of the present renderer.
func (d *dataplane) setHooks(f rules.Family, old []rules.Hook) {
	byChain := map[rules.ChainID][]rules.Hook{}
	for _, h := range d.renderer.Hooks() {
		byChain[h.ChainID] = append(byChain[h.ChainID], h)
	}
	for id, hooks := range byChain {
		d.filters.setHooks(f, id, hooks)
	}
	for _, h := range old {
		if _, still := byChain[h.ChainID]; !still {
			d.filters.remove(f, h.ChainID)
		}
	}
}

// configure takes over parameters that can change while felix runs.
func (d *dataplane) configure(cfg *config.Config) error {
	before := d.cfg
	d.cfg = cfg
	renderer, err := rules.NewRenderer(d.rulesConfig())
	if err != nil {
		d.cfg = before
		return err
	}
	oldHooks := d.renderer.Hooks()
	d.renderer = renderer
	d.changeChains(func(t *rules.Tracker) rules.ChainChanges { return t.Reconfigure(renderer) })
	d.renderBridges()
	for _, f := range d.families {
		d.setHooks(f, oldHooks)
	}
	for _, s := range d.addressSets {
		d.declareSet(s)
	}
	d.netlink.Configure(cfg.DeviceRouteProtocol, cfg.RemoveExternalRoutes)
	for _, one := range d.workloads.byKey {
		d.workloads.want(one)
	}
	d.routes.Resync()
	return nil
}

// pass brings the kernel to what is desired.
func (d *dataplane) pass(ctx context.Context) error {
	err := d.order.Apply(ctx)
	// Docker's rules may name another bridge than when the tables were read before.
	found := d.rulesNameOthers() && d.findBridges()
	if d.closeBrokenSets() || found {
		// A set was mended by what was deleted last.
		err = errors.Join(err, d.order.Apply(ctx))
	}
	return err
}

// statuses are the states of all tables.
func (d *dataplane) statuses() []reconcile.Status {
	out := []reconcile.Status{d.sets.Status(), d.members.Status()}
	for t := range d.chains.all() {
		out = append(out, t.Status())
	}
	return append(out, d.sysctls.Status(), d.addresses.Status(), d.neighbours.Status(), d.routes.Status())
}
