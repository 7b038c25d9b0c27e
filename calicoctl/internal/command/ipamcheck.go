package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/engine"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/nodename"
)

// exitBroken is the status of a check that could not be made, since exitFailed says
// that it found something.
const exitBroken = 2

// checkOptions are the flags of "ipam check".
type checkOptions struct {
	fix, force, showAll, showProblems bool
	grace                             time.Duration
	output                            string
	engineOptions
}

// engineOptions are the flags that say which engine is asked, and whose it is.
type engineOptions struct {
	host, node, runDir string
}

func (o *engineOptions) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.host, "docker-host", "", "`address` of Docker's engine (default $DOCKER_HOST, then "+engine.DefaultHost+")")
	flags.StringVar(&o.node, "node", "", "the `node` whose engine that is (default: this host)")
	flags.StringVar(&o.runDir, "run-dir", runDirectory, "`directory` of the services' sockets")
}

// checkReport is what "ipam check -o json" prints.
type checkReport struct {
	Report   string      `json:"report"` // reportName
	Cluster  string      `json:"cluster"`
	Revision int64       `json:"revision"`
	Time     time.Time   `json:"time"`
	Counts   ipam.Counts `json:"counts"`
	Engine   engineNote  `json:"engine"`
	Problems []finding   `json:"problems"`
	// Allocations are all addresses in use, with --show-all-ips.
	Allocations []allocation `json:"allocations,omitempty"`
}

// The lists of a report, by which it is written.
const (
	problemsField    = "problems"
	allocationsField = "allocations"
)

// reportName is in every report, so that a file that is none is told from one.
const reportName = "calicoctl ipam check"

// engineNote says which engine was asked, or why none was.
type engineNote struct {
	Node       string `json:"node,omitempty"`
	Containers int    `json:"addresses"`
	NotAsked   string `json:"notAsked,omitempty"`
}

// finding is a problem with what became of it.
type finding struct {
	ipam.Problem

	Mended bool `json:"mended,omitempty"`
	// Error says why it was not.
	Error string `json:"error,omitempty"`

	looks int // in a row that have found it
}

type allocation struct {
	Address string            `json:"address"`
	Block   string            `json:"block"`
	Handle  string            `json:"handle,omitempty"`
	Attrs   map[string]string `json:"attributes,omitempty"`
}

func newIPAMCheck(env *Env) *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check that blocks, handles, endpoints, nodes and containers agree",
		Long: "Compare all that the datastore says about addresses: blocks, their nodes, handles, endpoints\n" +
			"and pools; and, if Docker's engine answers on this host, the containers that run here. Every\n" +
			"inconsistency is listed.\n\n" +
			"With --fix, look again after the grace time, and mend what both looks found and what is proven:\n" +
			"again and again until nothing proven is left, or what is left is said to be and why.\n" +
			"An address that a container has is never released. The engine is believed only if it is proven\n" +
			"to be this node's: it is the one that the plugin here serves, or it has a network or an endpoint\n" +
			"that the datastore has of this node. What a pair of interfaces shows to be alive is alive, whatever\n" +
			"the engine says; and if more than half of the node's endpoints would go, that needs --force too.\n" +
			"What only the engine of another host can prove is listed with the node on which to run the command.\n" +
			"A lock that is set meanwhile stops it.\n\n" +
			"Exit status: 0 when nothing is wrong (any more), 1 when something is, 2 when the check failed.",
		Example: `  # List all inconsistencies.
  calicoctl ipam check

  # Mend them, as far as it is proven what is right.
  calicoctl ipam check --fix

  # Write a report, from which leaked addresses can be released.
  calicoctl ipam check -o report.json
  calicoctl ipam release --from-report=report.json`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.output != "" && o.output != "json" && !strings.ContainsAny(o.output, "./") {
				return usagef("unknown output %q: expected json, or the name of a file such as report.json", o.output)
			}
			if o.force && !o.fix {
				return usagef("--force is for --fix")
			}
			left := 0
			err := env.withStore(cmd, func(ctx context.Context, s *resource.Store) (err error) {
				left, err = env.check(ctx, s, o)
				return err
			})
			switch {
			case err != nil:
				fmt.Fprintln(env.Stderr, executing(err))
				return &statusError{exitBroken}
			case left > 0:
				return &statusError{exitFailed}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.fix, "fix", false, "mend what is proven, after a second look")
	flags.BoolVar(&o.force, "force", false, "with --fix: believe the engine also if more than half of the node's endpoints would go")
	flags.DurationVar(&o.grace, "grace", 30*time.Second, "how long after the first look the second one comes")
	flags.BoolVar(&o.showAll, "show-all-ips", false, "list all addresses in use too")
	flags.BoolVar(&o.showProblems, "show-problem-ips", false, "list the addresses with problems (they always are)")
	flags.StringVarP(&o.output, "output", "o", "", "json to print a report, or the name of a `file` to write it to")
	o.engineOptions.flags(cmd)
	return cmd
}

// check checks, mends if asked to, and reports. left is how much is wrong afterwards.
func (env *Env) check(ctx context.Context, s *resource.Store, o checkOptions) (left int, err error) {
	if o.fix {
		if err := s.CheckUnlocked(ctx); err != nil {
			return 0, err
		}
	}
	env.collections.frugal(env)
	c := &ipamCheck{env: env, ipam: s.IPAM(), checkOptions: o}
	if o.output != "json" {
		c.text = env.Stdout
	} else {
		c.text = io.Discard
	}
	fmt.Fprintln(c.text, "Checking IPAM for inconsistencies...")
	l, err := c.look(ctx)
	if err != nil {
		return 0, err
	}
	fmt.Fprintln(c.text, c.summary())
	if !o.fix {
		return c.publish(l.inventory, func(yield func(finding) bool) {
			for p := range l.problems() {
				if !yield(finding{Problem: p}) {
					return
				}
			}
		})
	}
	if l, err = c.fix(ctx, l); err != nil {
		return 0, err
	}
	return c.publish(l.inventory, c.all(l))
}

// ipamCheck is one run of the command.
type ipamCheck struct {
	checkOptions

	env    *Env
	ipam   *ipam.Client
	text   io.Writer
	report checkReport
	// findings are what --fix has found so far that is proven, and what became of it.
	findings []finding
	mended   int // in the rounds before
}

// looked is one look at everything.
type looked struct {
	inventory *ipam.Inventory
	seen      ipam.Seen
	at        time.Time
}

// problems are what is wrong, made one by one: there may be one for each address.
func (l looked) problems() iter.Seq[ipam.Problem] { return ipam.Find(l.inventory, l.seen, l.at) }

// look looks once at everything. The engine is asked last: what was in the datastore
// before is in the engine by then.
func (c *ipamCheck) look(ctx context.Context) (looked, error) {
	inventory, err := c.ipam.Inventory(ctx)
	if err != nil {
		return looked{}, err
	}
	now := time.Now()
	seen, note := c.see(ctx, inventory)
	c.report.Report, c.report.Time = reportName, now.UTC().Truncate(time.Second)
	c.report.Cluster, c.report.Revision = fmt.Sprintf("%x", inventory.Cluster), inventory.Revision
	c.report.Counts, c.report.Engine = inventory.Counts(), note
	return looked{inventory, seen, now}, nil
}

// see finds out what containers have: by the kernel, which is looked at last, since what it
// shows to be alive is, and by the engine.
func (c *ipamCheck) see(ctx context.Context, i *ipam.Inventory) (seen ipam.Seen, note engineNote) {
	view, at, err := c.ask(ctx)
	if err == nil {
		seen.Engine, note.Node, note.Containers = view, view.Node, len(view.Addresses)
		if node, id := engine.Served(ctx, c.runDir); node == view.Node {
			seen.Served = id
		}
		if err = i.Recognize(seen); err != nil {
			err = fmt.Errorf("Docker's engine at %s is not believed: %w", at, err) //nolint:staticcheck // ST1005: a name
		}
	}
	if c.env.Sandboxes != nil {
		var failed error
		seen.Sandboxes, failed = c.env.Sandboxes()
		err = errors.Join(err, failed)
	}
	if err != nil { // half of what there is to see proves no death
		return ipam.Seen{Sandboxes: seen.Sandboxes}, engineNote{NotAsked: err.Error()}
	}
	seen.Sure = c.force
	return seen, note
}

// ask asks the engine.
func (c *ipamCheck) ask(ctx context.Context) (e *ipam.Engine, at string, err error) {
	at = cmp.Or(c.host, c.env.Getenv("DOCKER_HOST"), engine.DefaultHost)
	if !engine.Local(at) && c.node == "" {
		return nil, at, fmt.Errorf("the engine at %s is not on this host: --node says on which node it is", at)
	}
	node, err := nodename.Resolve(c.node, c.env.Getenv)
	if err != nil {
		return nil, at, err
	}
	view, err := engine.Ask(ctx, at)
	if err != nil {
		return nil, at, err
	}
	e = &ipam.Engine{
		Node: node, ID: view.ID, Networks: view.Networks,
		Endpoints: map[string]ipam.Container{}, Addresses: map[netip.Addr]ipam.Container{},
	}
	for id, container := range view.Endpoints {
		e.Endpoints[id] = ipam.Container(container)
	}
	for a, container := range view.Addresses {
		e.Addresses[a] = ipam.Container(container)
	}
	return e, at, nil
}

func (c *ipamCheck) summary() string {
	n := c.report.Counts
	text := fmt.Sprintf("Found %d pools, %d blocks, %d addresses in use, %d handles, %d endpoints and %d nodes.",
		n.Pools, n.Blocks, n.Addresses, n.Handles, n.Endpoints, n.Nodes)
	if e := c.report.Engine; e.NotAsked != "" {
		return text + "\nContainers were not compared: " + e.NotAsked
	}
	return text + fmt.Sprintf("\nContainers on node %s have %d addresses.", c.report.Engine.Node, c.report.Engine.Containers)
}

// readReport reads a report that "ipam check" has written.
func readReport(path string) (*checkReport, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r checkReport
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("report %s: %w", path, err)
	}
	if r.Report != reportName {
		return nil, fmt.Errorf("report %s: %w", path, errors.New("not written by calicoctl ipam check -o"))
	}
	return &r, nil
}
