package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	fix, showAll, showProblems bool
	grace                      time.Duration
	output                     string
	host, node                 string
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
			"With --fix, look again after the grace time, and mend what both looks found and what is proven.\n" +
			"An address that a container has is never released. What only the engine of another host can\n" +
			"prove is listed with the node on which to run the command.\n\n" +
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
	flags.DurationVar(&o.grace, "grace", 30*time.Second, "how long after the first look the second one comes")
	flags.BoolVar(&o.showAll, "show-all-ips", false, "list all addresses in use too")
	flags.BoolVar(&o.showProblems, "show-problem-ips", false, "list the addresses with problems (they always are)")
	flags.StringVarP(&o.output, "output", "o", "", "json to print a report, or the name of a `file` to write it to")
	flags.StringVar(&o.host, "docker-host", "", "`address` of Docker's engine (default $DOCKER_HOST, then "+engine.DefaultHost+")")
	flags.StringVar(&o.node, "node", "", "the `node` whose engine that is (default: this host)")
	return cmd
}

// check checks, mends if asked to, and reports. left is how much is wrong afterwards.
func (env *Env) check(ctx context.Context, s *resource.Store, o checkOptions) (left int, err error) {
	if o.fix {
		if err := s.CheckUnlocked(ctx); err != nil {
			return 0, err
		}
	}
	c := &ipamCheck{env: env, ipam: s.IPAM(), checkOptions: o}
	if o.output != "json" {
		c.text = env.Stdout
	} else {
		c.text = io.Discard
	}
	fmt.Fprintln(c.text, "Checking IPAM for inconsistencies...")
	problems, err := c.look(ctx)
	if err != nil {
		return 0, err
	}
	fmt.Fprintln(c.text, c.summary())
	c.add(problems)
	if o.fix {
		if err := c.fix(ctx, problems); err != nil {
			return 0, err
		}
	}
	c.print()
	return c.left(), c.write()
}

// ipamCheck is one run of the command.
type ipamCheck struct {
	checkOptions

	env    *Env
	ipam   *ipam.Client
	text   io.Writer
	report checkReport
}

// look looks once at everything. The engine is asked last: what was in the datastore
// before is in the engine by then.
func (c *ipamCheck) look(ctx context.Context) ([]ipam.Problem, error) {
	inventory, err := c.ipam.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	view, note := c.ask(ctx)
	c.report.Report, c.report.Time = reportName, now.UTC().Truncate(time.Second)
	c.report.Cluster, c.report.Revision = fmt.Sprintf("%x", inventory.Cluster), inventory.Revision
	c.report.Counts, c.report.Engine = inventory.Counts(), note
	c.report.Allocations = nil
	if c.showAll {
		for _, h := range inventory.Holdings() {
			c.report.Allocations = append(c.report.Allocations,
				allocation{Address: h.Addr.String(), Block: h.Block.String(), Handle: h.Owner.Handle, Attrs: h.Owner.Attrs})
		}
	}
	return ipam.Check(inventory, view, now), nil
}

// ask asks the engine.
func (c *ipamCheck) ask(ctx context.Context) (*ipam.Engine, engineNote) {
	host := c.host
	if host == "" {
		host = c.env.Getenv("DOCKER_HOST")
	}
	if host == "" {
		host = engine.DefaultHost
	}
	if !engine.Local(host) && c.node == "" {
		return nil, engineNote{NotAsked: "the engine at " + host + " is not on this host: --node says on which node it is"}
	}
	node, err := nodename.Resolve(c.node, c.env.Getenv)
	if err != nil {
		return nil, engineNote{NotAsked: err.Error()}
	}
	view, err := engine.Ask(ctx, host)
	if err != nil {
		return nil, engineNote{NotAsked: err.Error()}
	}
	return &ipam.Engine{Node: node, Endpoints: view.Endpoints, Addresses: view.Addresses},
		engineNote{Node: node, Containers: len(view.Addresses)}
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

// add notes problems that the report does not have yet.
func (c *ipamCheck) add(problems []ipam.Problem) {
	have := map[ipam.ID]bool{}
	for _, f := range c.report.Problems {
		have[f.ID] = true
	}
	for _, p := range problems {
		if !have[p.ID] {
			c.report.Problems = append(c.report.Problems, finding{Problem: p})
		}
	}
}

// maxRounds bounds how often is mended: what one remedy brings to light is mended in
// the next round, with looks of its own.
const maxRounds = 3

func (c *ipamCheck) fix(ctx context.Context, first []ipam.Problem) error {
	for range maxRounds {
		if !anyRemedy(first) {
			return nil
		}
		fmt.Fprintf(c.text, "Looking again in %s...\n", c.grace)
		if err := pause(ctx, c.grace); err != nil {
			return err
		}
		second, err := c.look(ctx)
		if err != nil {
			return err
		}
		c.keep(second)
		mended, err := c.mend(ctx, ipam.Both(first, second))
		if err != nil || mended == 0 {
			return err
		}
		if first, err = c.look(ctx); err != nil {
			return err
		}
		c.add(first)
	}
	return nil
}

func anyRemedy(problems []ipam.Problem) bool {
	for _, p := range problems {
		if p.Remedy != "" {
			return true
		}
	}
	return false
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keep drops the problems that went away by themselves, or came only now.
func (c *ipamCheck) keep(second []ipam.Problem) {
	still := map[ipam.ID]ipam.Problem{}
	for _, p := range second {
		still[p.ID] = p
	}
	var kept []finding
	for _, f := range c.report.Problems {
		p, ok := still[f.ID]
		switch {
		case f.Mended:
			kept = append(kept, f)
		case ok:
			kept = append(kept, finding{Problem: p, Error: f.Error})
		}
	}
	c.report.Problems = kept
}

func (c *ipamCheck) mend(ctx context.Context, problems []ipam.Problem) (mended int, err error) {
	for _, p := range problems {
		done, err := c.ipam.Mend(ctx, p)
		if ctx.Err() != nil {
			return mended, ctx.Err()
		}
		for i := range c.report.Problems {
			f := &c.report.Problems[i]
			if f.ID != p.ID {
				continue
			}
			if f.Mended, f.Error = done, ""; err != nil {
				f.Error = err.Error()
			}
		}
		if done {
			mended++
		}
	}
	return mended, nil
}

func (c *ipamCheck) left() int {
	n := 0
	for _, f := range c.report.Problems {
		if !f.Mended {
			n++
		}
	}
	return n
}

// print prints the problems for people.
func (c *ipamCheck) print() {
	for _, a := range c.report.Allocations {
		fmt.Fprintf(c.text, "%s in block %s: %s\n", a.Address, a.Block, ipam.Owner{Handle: a.Handle, Attrs: a.Attrs})
	}
	for _, f := range c.report.Problems {
		fmt.Fprintf(c.text, "\n%s: %s\n", f.Kind, f.Text)
		switch {
		case f.Mended:
			fmt.Fprintf(c.text, "  mended: %s\n", f.Remedy)
		case f.Error != "":
			fmt.Fprintf(c.text, "  not mended: %s\n", f.Error)
		case f.Remedy != "":
			fmt.Fprintf(c.text, "  --fix will: %s\n", f.Remedy)
		case f.Advice != "":
			fmt.Fprintf(c.text, "  %s\n", f.Advice)
		}
	}
	found, left := len(c.report.Problems), c.left()
	if found > 0 {
		fmt.Fprintln(c.text)
	}
	fmt.Fprintf(c.text, "Check complete; found %d problems.", found)
	if found != left {
		fmt.Fprintf(c.text, " %d are mended, %d are left.", found-left, left)
	}
	fmt.Fprintln(c.text)
}

// write writes the report, to where it was asked for.
func (c *ipamCheck) write() error {
	if c.output == "" {
		return nil
	}
	if c.report.Problems == nil {
		c.report.Problems = []finding{}
	}
	text, err := json.MarshalIndent(c.report, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if c.output == "json" {
		_, err := c.env.Stdout.Write(text)
		return err
	}
	return os.WriteFile(c.output, text, 0o600)
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
