package daemon

import (
	"maps"
	"slices"

	"calico.internal/felix/internal/iptables"
	"calico.internal/felix/internal/rules"
)

// filters puts chains into the tables, and closes those that must not be used: chains
// that cannot be printed and chains that name a set whose members are not as wanted.
type filters struct {
	chains *chains
	// users are the chains that name sets.
	users map[chainKey]setUser
	// broken are the sets by which chains are closed at the moment, with the reason.
	broken map[string]string
	// closed are the chains that are closed because of a set, with the set.
	closed map[chainKey]string
	// unprintable says of chains why they cannot be printed.
	unprintable map[chainKey]error
}

type chainKey struct {
	family rules.Family
	rules.ChainID
}

// setUser is a chain that names sets.
type setUser struct {
	chain iptables.Chain
	sets  []string
}

func newFilters(c *chains) *filters {
	return &filters{
		chains: c, users: map[chainKey]setUser{}, broken: map[string]string{}, closed: map[chainKey]string{}, unprintable: map[chainKey]error{},
	}
}

func (f *filters) table(k chainKey) *chainTable { return f.chains.tables[k.family][k.Table] }

// printedChain is a chain as it is put into its table, or why it cannot be.
type printedChain struct {
	id    rules.ChainID
	chain iptables.Chain
	sets  []string
	err   error
}

func printChains(family rules.Family, chains []rules.Chain, lacks iptables.Lacks) []printedChain {
	out := make([]printedChain, len(chains))
	for i, c := range chains {
		c, err := lacks.Around(c)
		out[i] = printedChain{id: c.ChainID, sets: setsOf(c), err: err}
		if err == nil {
			out[i].chain, out[i].err = iptables.NewChain(family, c)
		}
	}
	return out
}

func (f *filters) set(family rules.Family, c printedChain) {
	k := chainKey{family, c.id}
	f.forget(k)
	if c.err != nil {
		f.unprintable[k] = c.err
		f.close(k)
		return
	}
	if len(c.sets) > 0 {
		u := setUser{chain: c.chain, sets: c.sets}
		f.users[k] = u
		f.setUser(k, u)
		return
	}
	f.table(k).Set(k.Name, c.chain)
}

// setUser puts a chain that names sets into its table, or closes it.
func (f *filters) setUser(k chainKey, u setUser) {
	if set := f.brokenOf(u.sets); set != "" {
		f.closed[k] = set
		f.close(k)
		return
	}
	delete(f.closed, k)
	f.table(k).Set(k.Name, u.chain)
}

func (f *filters) forget(k chainKey) {
	delete(f.unprintable, k)
	delete(f.users, k)
	delete(f.closed, k)
}

func (f *filters) setHooks(family rules.Family, id rules.ChainID, hooks []rules.Hook) {
	k := chainKey{family, id}
	printed, err := iptables.NewHooks(family, hooks)
	delete(f.unprintable, k)
	if err != nil {
		f.unprintable[k] = err
		return
	}
	f.table(k).Set(id.Name, printed)
}

func (f *filters) remove(family rules.Family, id rules.ChainID) {
	k := chainKey{family, id}
	f.forget(k)
	f.table(k).Delete(id.Name)
}

func (f *filters) close(k chainKey) {
	f.table(k).Set(k.Name, f.chains.standIns(k.family, k.ChainID))
}

// brokenOf is the first broken set of a list, or empty.
func (f *filters) brokenOf(sets []string) string {
	for _, name := range sets {
		if _, broken := f.broken[name]; broken {
			return name
		}
	}
	return ""
}

// closeBySets closes the chains that name a broken set, and opens those that no longer
// do. It reports whether any changed.
func (f *filters) closeBySets(broken map[string]string) (changed bool) {
	before := f.broken
	f.broken = broken
	if sameKeys(before, broken) {
		return false
	}
	for k, u := range f.users {
		f.setUser(k, u)
	}
	return true
}

func sameKeys(a, b map[string]string) bool {
	return maps.EqualFunc(a, b, func(_, _ string) bool { return true })
}

// setsOf lists the sets that a chain's rules name.
func setsOf(c rules.Chain) []string {
	var out []string
	for _, r := range c.Rules {
		for _, s := range r.Match.Sets {
			if !slices.Contains(out, s.Name) {
				out = append(out, s.Name)
			}
		}
	}
	return out
}
