package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/model"
)

// policyPrefix is where policies are stored.
const policyPrefix = model.PrefixV1 + "policy/"

// notInForce names the policies that the store holds and that nothing stands in for; empty
// when there are none.
func (l *loop) notInForce() string {
	if !l.quarantined {
		return ""
	}
	var names []string
	for _, k := range l.engine.NotInForce() {
		names = append(names, k.String())
	}
	for _, q := range l.view.Quarantined() {
		if q.Key == nil && strings.HasPrefix(q.Path, policyPrefix) {
			names = append(names, q.Path)
		}
	}
	return strings.Join(names, ", ")
}

// adoptMasquerading tells the calculation which pools are masqueraded in the kernel, if
// there is one of which the store does not say it: NAT stays as it is then.
func (l *loop) adoptMasquerading(ctx context.Context) error {
	if !l.engine.UnreadablePools() {
		return nil
	}
	pools, err := l.dp.masquerading(ctx)
	if err != nil {
		return err
	}
	l.engine.AdoptMasquerading(pools)
	return nil
}

// masquerading are the pools that the kernel masquerades.
func (d *dataplane) masquerading(ctx context.Context) ([]netip.Prefix, error) {
	members, err := d.ipsets.Members().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the pools that are masqueraded: %w", err)
	}
	names := map[string]bool{}
	for _, f := range d.families {
		names[rules.SetName(f, desired.SetMasqPools)] = true
	}
	var pools []netip.Prefix
	for m := range members {
		if names[m.Set] {
			pools = append(pools, m.Net)
		}
	}
	return pools, nil
}
