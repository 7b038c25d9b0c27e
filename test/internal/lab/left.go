package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"calico.internal/libcalico/model"
)

// State is what containers and networks make and take away again: on the hosts links, routes, rules,
// sets, ports and the engines' own objects; in etcd all of /calico. Each entry is a sentence that
// names one of them.
type State map[string]bool

// looks are the commands that show what of containers and networks is on a host, one object a line. A node keeps
// its blocks for a while, and so their routes.
var looks = []struct{ what, line string }{
	{"link", `ip -o link | sed -nE 's/^[0-9]+: ((cali|temp)[^:@]*).*/\1/p'`},
	{"route", `(ip route show table all; ip -6 route show table all) | grep -E 'cali|temp' | sort -u || true`},
	{"blackhole", `(ip route; ip -6 route) | grep ^blackhole | grep -v 'proto bird' || true`},
	{"routing rule", `ip rule; ip -6 rule`},
	{"chain or rule", `for t in "iptables-legacy-save" "ip6tables-legacy-save" "iptables-nft-save" "ip6tables-nft-save"; do ` +
		`$t 2>/dev/null | awk -v t="$t" '/^\*/ { table = $0 } /^-A/ || /^:cali/ { sub(/ \[[0-9:]*\]$/, ""); print t, table, $0 }'; done`},
	{"set", `ipset save | sort`},
	{"port", `ss -Hltun | awk '{ print $1, $5 }' | sort -u`},
	{"container", `docker ps -a --format '{{.Names}}'`},
	{"network", `docker network ls --format '{{.Name}} {{.Driver}}'`},
}

// State looks at all hosts and at etcd.
func (l *Lab) State(ctx context.Context) (State, error) {
	found := State{}
	for _, h := range l.Hosts {
		for _, look := range looks {
			out, err := h.On(ctx, look.line)
			if err != nil {
				return nil, err
			}
			for _, line := range lines(out) {
				found[h.Node+": "+look.what+" "+strings.TrimSpace(line)] = true
			}
		}
	}
	keys, err := output(ctx, "docker", "exec", l.etcdContainer(), "etcdctl", "get", "--prefix", "--keys-only", "/calico")
	if err != nil {
		return nil, err
	}
	for _, key := range lines(keys) {
		// Blocks stay with their node; what is in them is looked at below.
		if key != "" && !strings.Contains(key, "/block/") {
			found["etcd: key "+key] = true
		}
	}
	blocks, err := output(ctx, "docker", "exec", l.etcdContainer(), "etcdctl", "get", "--prefix", "--print-value-only", "/calico/ipam/v2/assignment/")
	if err != nil {
		return nil, err
	}
	for _, value := range lines(blocks) {
		if err := found.addresses(value); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// addresses adds those that a block has given out.
func (s State) addresses(value string) error {
	var b model.Block
	if err := json.Unmarshal([]byte(value), &b); err != nil {
		return fmt.Errorf("block %q: %w", value, err)
	}
	a := b.CIDR.Addr()
	for _, attribute := range b.Allocations {
		if attribute != nil {
			s[fmt.Sprintf("etcd: address %s, of %+v", a, b.Attributes[*attribute])] = true
		}
		a = a.Next()
	}
	return nil
}

// Minus names what is in s and not in other.
func (s State) Minus(other State) []string {
	more := maps.Clone(s)
	maps.DeleteFunc(more, func(object string, _ bool) bool { return other[object] })
	return slices.Sorted(maps.Keys(more))
}
