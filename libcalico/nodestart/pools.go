package nodestart

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

func (p *plan) pools(s settings, c cluster) error {
	if s.noPools {
		p.say("Skipping IP pool configuration")
		return nil
	}
	err := p.pool(s.pool4, c, 4)
	p.say("IPv6 supported on this platform: %t", s.ipv6)
	if s.ipv6 {
		err = errors.Join(err, p.pool(s.pool6, c, 6))
	}
	return err
}

// overHosts refuses a pool, and says the way on.
func overHosts(want poolSettings, family int, covers string) error {
	name := fmt.Sprintf("CALICO_IPV%dPOOL_CIDR", family)
	if want.named {
		return fmt.Errorf("%s=%s covers %s: choose a range that no host has a part of "+
			"(or, to have it all the same, start with NO_DEFAULT_POOLS=true and use calicoctl create --force)", name, want.pool.CIDR, covers)
	}
	return fmt.Errorf("the default IPv%d pool %s covers %s: set %s to a range that no host has a part of, "+
		"or NO_DEFAULT_POOLS=true, and create pools with calicoctl", family, want.pool.CIDR, covers, name)
}

// pool makes the default pool of a family that has none. What the environment asks
// for is said to have no effect when it has none.
func (p *plan) pool(want poolSettings, c cluster, family int) error {
	own := slices.DeleteFunc(slices.Clone(c.pools), func(o *model.IPPool) bool { return o.CIDR.Addr().Is4() != (family == 4) })
	if len(own) > 0 {
		p.withoutEffect(want, own, family)
		return nil
	}
	if want.ipipMode != model.IPIPOff {
		return fmt.Errorf("CALICO_IPV4POOL_IPIP=%s: IP-in-IP is not served yet: pools are routed directly; leave it out, or say off", want.ipipMode)
	}
	if covers := localnet.Overlap(c.taken, want.pool.CIDR); covers != "" {
		return overHosts(want, family, covers)
	}
	p.writes[model.IPPoolKey{CIDR: want.pool.CIDR}] = &want.pool
	p.say("%s", want.natNote)
	p.say("Ensure default IPv%d pool is created. IPIP mode: off", family)
	p.did("Created default IPv%d pool (%s) with NAT outgoing %t. IPIP mode: off", family, want.pool.CIDR, want.pool.Masquerade)
	return nil
}

// withoutEffect says what the environment asks of the default pool in vain, since there are
// pools: what the pool that it is about, if that is there, does not have.
func (p *plan) withoutEffect(want poolSettings, there []*model.IPPool, family int) {
	if want.ipipMode != model.IPIPOff {
		p.warn("CALICO_IPV4POOL_IPIP=%s has no effect: IP-in-IP is not served yet, pools are routed directly", want.ipipMode)
	}
	given := slices.DeleteFunc(slices.Clone(want.given), func(v string) bool { return strings.Contains(v, "POOL_IPIP=") })
	i := slices.IndexFunc(there, func(o *model.IPPool) bool { return o.CIDR == want.pool.CIDR })
	if i >= 0 {
		is := there[i]
		given = slices.DeleteFunc(given, func(v string) bool {
			name, _, _ := strings.Cut(strings.TrimPrefix(v, fmt.Sprintf("CALICO_IPV%dPOOL_", family)), "=")
			return map[string]bool{
				"CIDR": true, "VXLAN": true,
				"BLOCK_SIZE":         is.BlockSize == want.pool.BlockSize,
				"NODE_SELECTOR":      is.NodeSelector == want.pool.NodeSelector,
				"DISABLE_BGP_EXPORT": is.DisableBGPExport == want.pool.DisableBGPExport,
				"NAT_OUTGOING":       is.Masquerade == want.pool.Masquerade,
			}[name]
		})
	}
	if len(given) > 0 {
		p.warn("%s has no effect, since there is a pool already (%s); use calicoctl to change pools", strings.Join(given, ", "), there[max(i, 0)].CIDR)
	}
}
