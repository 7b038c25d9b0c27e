package command

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/model"
)

// The states of a node.
const (
	nodeIsReady     = "ready"
	nodeIsDegraded  = "degraded"
	nodeIsDown      = "down"
	nodeIsLeftovers = "not registered"
)

// nodeStatus is a node by what its programs keep in the datastore while they live.
type nodeStatus struct {
	Name     string                     `json:"name"`
	State    string                     `json:"state"`
	IPv4     string                     `json:"ipv4,omitempty"`
	IPv6     string                     `json:"ipv6,omitempty"`
	Programs map[string]*model.Liveness `json:"programs"`
	// LastReport is when felix last reported.
	LastReport time.Time `json:"lastReport,omitzero"`
}

// statusOfAll shows how all nodes are. It ends with 1 when one is not ready.
func (env *Env) statusOfAll(cmd *cobra.Command, asJSON bool) error {
	return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
		nodes, err := readNodes(ctx, s)
		if err != nil {
			return err
		}
		if asJSON {
			err = writeJSON(env.Stdout, nodes)
		} else {
			err = env.table(nodeRows(nodes))
		}
		healthy := !slices.ContainsFunc(nodes, func(n *nodeStatus) bool { return n.State != nodeIsReady })
		if err == nil && !healthy {
			return &statusError{code: exitFailed}
		}
		return err
	}))
}

func readNodes(ctx context.Context, s *resource.Store) ([]*nodeStatus, error) {
	nodes := map[string]*nodeStatus{}
	find := func(name string) *nodeStatus {
		if nodes[name] == nil {
			nodes[name] = &nodeStatus{Name: name, State: nodeIsLeftovers, Programs: map[string]*model.Liveness{}}
		}
		return nodes[name]
	}
	for _, kind := range []model.Kind{model.KindNode, model.KindLiveness, model.KindFelixStatus} {
		entries, _, err := s.List(ctx, kind, nil)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			switch k := e.Key.(type) {
			case model.NodeKey:
				find(k.Name).register(e.Value)
			case model.LivenessKey:
				find(k.Node).Programs[k.Program], _ = e.Value.(*model.Liveness)
			case model.FelixStatusKey:
				if r, ok := e.Value.(*model.FelixStatus); ok && nodes[k.Node] != nil && r.Time.After(nodes[k.Node].LastReport) {
					nodes[k.Node].LastReport = r.Time
				}
			}
		}
	}
	out := make([]*nodeStatus, 0, len(nodes))
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		n := nodes[name]
		if n.State != nodeIsLeftovers {
			n.State = stateOf(n.Programs)
		}
		out = append(out, n)
	}
	return out, nil
}

func (n *nodeStatus) register(r model.Resource) {
	node, ok := r.(*model.Node)
	if !ok {
		return
	}
	n.State = nodeIsDown
	if node.IPv4.IsValid() {
		n.IPv4 = node.IPv4.String()
	}
	if node.IPv6.IsValid() {
		n.IPv6 = node.IPv6.String()
	}
}

// stateOf sums up the programs of a node. One that runs none is down; felix is always
// needed, of the others those that are there.
func stateOf(programs map[string]*model.Liveness) string {
	if len(programs) == 0 {
		return nodeIsDown
	}
	for _, p := range programs {
		if p == nil || !p.Ready {
			return nodeIsDegraded
		}
	}
	if programs["felix"] == nil {
		return nodeIsDegraded
	}
	return nodeIsReady
}

func nodeRows(nodes []*nodeStatus) [][]string {
	heading := []string{"NODE", "STATE", "IPV4", "IPV6"}
	for _, p := range nodePrograms {
		heading = append(heading, strings.ToUpper(p))
	}
	rows := [][]string{append(heading, "VERSION", "SINCE")}
	for _, n := range nodes {
		row := []string{n.Name, n.State, n.IPv4, n.IPv6}
		for _, p := range nodePrograms {
			row = append(row, programCell(n.Programs[p]))
		}
		version, since := "", ""
		if felix := n.Programs["felix"]; felix != nil {
			version, since = felix.Version, felix.Started.UTC().Format(time.RFC3339)
		}
		rows = append(rows, append(row, version, since))
	}
	return rows
}

func programCell(p *model.Liveness) string {
	switch {
	case p == nil:
		return "-"
	case p.Ready:
		return "ready"
	}
	return "not ready"
}
