package command

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// identifiers are what, besides its name, tells a resource from others of its kind.
type identifiers struct {
	node, orchestrator, workload, scope string

	namespaces
}

func (id *identifiers) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&id.node, "node", "n", "", "the `node` of a bgpPeer, hostEndpoint or workloadEndpoint")
	f.StringVar(&id.orchestrator, "orchestrator", "", "the `orchestrator` of a workloadEndpoint")
	f.StringVar(&id.workload, "workload", "", "the `workload` of a workloadEndpoint")
	f.StringVar(&id.scope, "scope", "", "the `scope` of a bgpPeer: global or node")
	id.namespaces.flags(cmd)
}

// used lists the flags that were given.
func (id *identifiers) used() []string {
	var out []string
	for _, f := range []struct{ name, value string }{
		{"node", id.node}, {"orchestrator", id.orchestrator}, {"workload", id.workload}, {"scope", id.scope},
	} {
		if f.value != "" {
			out = append(out, f.name)
		}
	}
	return out
}

// identifiersOf lists the flags that identify a kind.
func identifiersOf(kind model.Kind) []string {
	switch kind {
	case model.KindBGPPeer:
		return []string{"node", "scope"}
	case model.KindHostEndpoint:
		return []string{"node"}
	case model.KindWorkloadEndpoint:
		return []string{"node", "orchestrator", "workload"}
	default:
		return nil
	}
}

func (id *identifiers) check(kind *dialect.Kind) error {
	for _, f := range id.used() {
		if !slices.Contains(identifiersOf(kind.Model), f) {
			return usagef("--%s does not identify resources of kind %s", f, kind.Name)
		}
	}
	if err := id.namespaces.check(kind); err != nil {
		return err
	}
	scopes := []string{"global", "node"}
	if id.scope != "" && !slices.Contains(scopes, id.scope) {
		return usagef("Unrecognized scope '%s', must be one of: global, node", id.scope)
	}
	if id.scope == "global" && id.node != "" {
		return usagef("no BGP Peer node name should be specified when scope is global")
	}
	return nil
}

// kindNamed finds the kind that a user means.
func (env *Env) kindNamed(name string) (*dialect.Kind, error) {
	if err := env.preferDialect(); err != nil {
		return nil, err
	}
	k, ok := env.registry.ByAlias(name)
	switch {
	case !ok && strings.Contains(name, ","):
		return nil, usagef("'%s' is a list of resource types, and here it is one at a time", name)
	case !ok:
		return nil, usagef("Resource type '%s' is not supported%s", name, tree.DidYouMean(name, env.registry.Aliases()))
	}
	return k, nil
}

// kindsNamed finds the kinds of a list with commas, each once.
func (env *Env) kindsNamed(list string) ([]*dialect.Kind, error) {
	var kinds []*dialect.Kind
	for name := range strings.SplitSeq(list, ",") {
		kind, err := env.kindNamed(strings.TrimSpace(name))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds, nil
}

// name is a name as a user gives it, in the form that keys have it.
type name struct {
	text string
	cidr netip.Prefix
	addr netip.Addr
}

func parseName(kind model.Kind, text string) (name, error) {
	n := name{text: text}
	var err error
	switch kind {
	case model.KindIPPool:
		if n.cidr, err = netip.ParsePrefix(text); err != nil {
			return n, usagef("%q does not name a pool: expected its network, such as 192.168.0.0/16", text)
		}
	case model.KindBGPPeer:
		if n.addr, err = netip.ParseAddr(text); err != nil {
			return n, usagef("%q does not name a BGP peer: expected its IP address", text)
		}
	default:
	}
	return n, nil
}

// key is the key of one resource, for which all identifiers are needed.
func (id *identifiers) key(kind *dialect.Kind, n name) (model.Key, error) {
	if kind.NameOf != nil {
		return id.nameKey(kind, n.text), nil
	}
	for _, f := range []struct{ name, value string }{
		{"node", id.node}, {"orchestrator", id.orchestrator}, {"workload", id.workload},
	} {
		needed := slices.Contains(identifiersOf(kind.Model), f.name) && kind.Model != model.KindBGPPeer
		if needed && f.value == "" {
			return nil, usagef("insufficient identifiers, missing '%s'", f.name)
		}
	}
	switch kind.Model {
	case model.KindBGPPeer:
		if id.node == "" && id.scope != "global" {
			return nil, usagef("insufficient identifiers, missing '%s'", cmp.Or(id.scope, "scope"))
		}
		return model.BGPPeerKey{Node: id.node, IP: n.addr}, nil
	case model.KindHostEndpoint:
		return model.HostEndpointKey{Node: id.node, Name: n.text}, nil
	case model.KindWorkloadEndpoint:
		return model.WorkloadEndpointKey{Node: id.node, Orchestrator: id.orchestrator, Workload: id.workload, Name: n.text}, nil
	case model.KindIPPool:
		return model.IPPoolKey{CIDR: n.cidr}, nil
	case model.KindNode:
		return model.NodeKey{Name: n.text}, nil
	case model.KindPolicy:
		return model.NewPolicyKey("", n.text), nil
	case model.KindProfile:
		return model.ProfileKey{Name: n.text}, nil
	default:
		return nil, usagef("Resource type '%s' is not supported", kind.Name)
	}
}

// keys is the keys of the resources that names mean, each of which may be in any tier if it
// is a policy's; ok is false when one has to be looked for.
func (id *identifiers) keys(kind *dialect.Kind, names []name) (keys []model.Key, ok bool) {
	for _, n := range names {
		k, err := id.key(kind, n)
		if err != nil {
			return nil, false
		}
		if name, isName := k.(dialect.NameKey); isName {
			if kind.KeyOf == nil {
				return nil, false
			}
			if k, ok = kind.KeyOf(name.Namespace, name.Name); !ok {
				return nil, false
			}
		}
		keys = append(keys, k)
	}
	return keys, len(keys) > 0
}

// scoped is what the identifiers say of where resources stand.
func (id *identifiers) scoped() model.Scope {
	return model.Scope{Node: id.node, Orchestrator: id.orchestrator, Workload: id.workload}
}

// matches reports whether a key has the identifiers that were given; one that was not
// given matches all.
func (id *identifiers) matches(k model.Key) bool {
	is := func(want, got string) bool { return want == "" || want == got }
	switch k := k.(type) {
	case model.BGPPeerKey:
		scope := "global"
		if k.Node != "" {
			scope = "node"
		}
		return is(id.node, k.Node) && is(id.scope, scope)
	case model.HostEndpointKey:
		return is(id.node, k.Node)
	case model.WorkloadEndpointKey:
		return is(id.node, k.Node) && is(id.orchestrator, k.Orchestrator) && is(id.workload, k.Workload)
	}
	return true
}

// called reports whether a key has a name.
func (n name) called(k model.Key) bool {
	switch k := k.(type) {
	case model.BGPPeerKey:
		return k.IP == n.addr
	case model.IPPoolKey:
		return k.CIDR == n.cidr
	}
	return nameOf(k) == n.text
}

// nameOf is the name by which commands call a resource.
func nameOf(k model.Key) string {
	switch k := k.(type) {
	case model.BGPPeerKey:
		return k.IP.String()
	case model.HostEndpointKey:
		return k.Name
	case model.IPPoolKey:
		return k.CIDR.String()
	case model.NodeKey:
		return k.Name
	case model.PolicyKey:
		return k.Name
	case model.ProfileKey:
		return k.Name
	case model.WorkloadEndpointKey:
		return k.Name
	}
	return strings.TrimSpace(k.String())
}
