package command

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/printer"
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
	// Wanted are the programs that should run there; empty when its start-up does not tell.
	Wanted []string `json:"wanted,omitempty"`
	// Missing are those of them that do not report.
	Missing []string `json:"missing,omitempty"`
	// LastReport is when felix last reported.
	LastReport time.Time `json:"lastReport,omitzero"`
}

// statusOfAll writes how all nodes are, and says whether all of them are ready.
func (env *Env) statusOfAll(cmd *cobra.Command, w io.Writer, asJSON bool) (healthy bool, err error) {
	err = env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
		nodes, err := readNodes(ctx, s)
		if err != nil {
			return err
		}
		healthy = !slices.ContainsFunc(nodes, func(n *nodeStatus) bool { return n.State != nodeIsReady })
		if asJSON {
			return writeJSON(w, nodes)
		}
		return printer.WriteTable(w, nodeRows(nodes))
	})
	return healthy, err
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
			n.Missing = unreported(n.Wanted, n.Programs)
			n.State = stateOf(n.Missing, n.Programs)
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
	n.State, n.Wanted = nodeIsDown, node.Programs
	if node.IPv4.IsValid() {
		n.IPv4 = node.IPv4.String()
	}
	if node.IPv6.IsValid() {
		n.IPv6 = node.IPv6.String()
	}
}

// unreported are the programs of a node that should report, and do not: it has ended, hangs, or
// does not reach etcd. Of a node whose start-up does not tell which run there, it is felix at most.
func unreported(wanted []string, programs map[string]*model.Liveness) (out []string) {
	if len(wanted) == 0 {
		wanted = []string{"felix"}
	}
	for _, name := range wanted {
		if programs[name] == nil {
			out = append(out, name)
		}
	}
	return out
}

// stateOf sums up the programs of a node. One of which none reports is down.
func stateOf(missing []string, programs map[string]*model.Liveness) string {
	if len(programs) == 0 {
		return nodeIsDown
	}
	for _, p := range programs {
		if p == nil || !p.Ready {
			return nodeIsDegraded
		}
	}
	if len(missing) > 0 {
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
			row = append(row, programCell(n.Programs[p], slices.Contains(n.Missing, p)))
		}
		version, since := "", ""
		if felix := n.Programs["felix"]; felix != nil {
			version, since = felix.Version, felix.Started.UTC().Format(time.RFC3339)
		}
		rows = append(rows, append(row, version, since))
	}
	return rows
}

func programCell(p *model.Liveness, missing bool) string {
	switch {
	case p == nil && missing:
		return "down"
	case p == nil:
		return "-"
	case p.Ready:
		return "ready"
	}
	return "not ready"
}
