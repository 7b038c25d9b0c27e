package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/printer"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/ipam"
)

// showOptions are the flags of "ipam show".
type showOptions struct {
	ip                              string
	blocks, borrowed, configuration bool
	output                          string
}

func newIPAMShow(env *Env) *cobra.Command {
	var o showOptions
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show how much of the pools is in use, or who has an address",
		Long: "Without --ip, show how many addresses each pool has and how many are in use; with\n" +
			"--show-blocks also the blocks of each pool and the nodes that have them. With --ip, show\n" +
			"whether an address is in use, and what is known of its owner. --show-borrowed lists the\n" +
			"addresses that nodes have from the blocks of others, and --show-configuration how addresses are\n" +
			"given out.",
		Example: `  # Show the use of all pools and blocks.
  calicoctl ipam show --show-blocks

  # Show who has an address.
  calicoctl ipam show --ip=192.168.1.2

  # Show which addresses are borrowed.
  calicoctl ipam show --show-borrowed`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			show, err := env.showing(o)
			if err != nil {
				return err
			}
			return executing(env.withStore(cmd, show))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.ip, "ip", "", "the `address` to show")
	flags.BoolVar(&o.blocks, "show-blocks", false, "show the blocks of each pool too")
	flags.BoolVar(&o.borrowed, "show-borrowed", false, "show the addresses that are borrowed from other nodes")
	flags.BoolVar(&o.configuration, "show-configuration", false, "show how addresses are given out")
	flags.StringVarP(&o.output, "output", "o", "", "json for programs")
	mustComplete(cmd, "output", []string{"json"})
	return cmd
}

// showing decides what to show.
func (env *Env) showing(o showOptions) (func(context.Context, *resource.Store) error, error) {
	var chosen []string
	for name, set := range map[string]bool{
		"--ip": o.ip != "", "--show-blocks": o.blocks, "--show-borrowed": o.borrowed, "--show-configuration": o.configuration,
	} {
		if set {
			chosen = append(chosen, name)
		}
	}
	if len(chosen) > 1 {
		slices.Sort(chosen)
		return nil, usagef("%s and %s exclude each other", chosen[1], chosen[0])
	}
	if o.output != "" && o.output != "json" {
		return nil, usagef("unknown output format %q: expected json", o.output)
	}
	asJSON := o.output == "json"
	switch {
	case o.borrowed:
		return func(ctx context.Context, s *resource.Store) error { return showBorrowed(ctx, env, s, asJSON) }, nil
	case o.configuration:
		return func(ctx context.Context, s *resource.Store) error {
			return showConfiguration(ctx, env.Stdout, s, asJSON)
		}, nil
	case o.ip == "":
		return func(ctx context.Context, s *resource.Store) error {
			return showPools(ctx, env.Stdout, s, o.blocks, asJSON)
		}, nil
	}
	addr, err := ipFlag(o.ip)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, s *resource.Store) error {
		return showAddress(ctx, env.Stdout, s, addr, asJSON)
	}, nil
}

func showAddress(ctx context.Context, w io.Writer, s *resource.Store, ip netip.Addr, asJSON bool) error {
	owner, err := s.IPAM().Lookup(ctx, ip)
	free := errors.Is(err, ipam.ErrNotAssigned)
	if asJSON && (free || err == nil) {
		return writeJSON(w, struct {
			Address    string            `json:"address"`
			InUse      bool              `json:"inUse"`
			Handle     string            `json:"handle,omitempty"`
			Attributes map[string]string `json:"attributes,omitempty"`
		}{ip.String(), !free, owner.Handle, owner.Attrs})
	}
	if free {
		fmt.Fprintf(w, "%s is not assigned\n", ip)
		return nil
	}
	if err != nil {
		return err
	}
	if owner.Handle == "" && len(owner.Attrs) == 0 {
		fmt.Fprintf(w, "No attributes defined for IP %s\n", ip)
		return nil
	}
	fmt.Fprintf(w, "IP %s is in use\n", ip)
	if owner.Handle != "" {
		fmt.Fprintf(w, "Handle: %s\n", owner.Handle)
	}
	if len(owner.Attrs) > 0 {
		fmt.Fprintln(w, "Attributes:")
	}
	for _, name := range slices.Sorted(maps.Keys(owner.Attrs)) {
		fmt.Fprintf(w, "  %s: %s\n", name, owner.Attrs[name])
	}
	return nil
}

func showPools(ctx context.Context, w io.Writer, s *resource.Store, blocks, asJSON bool) error {
	pools, err := s.IPAM().Usage(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSON(w, poolsJSON(pools, blocks))
	}
	rows := [][]string{{"GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE"}}
	if blocks {
		rows = [][]string{{"GROUPING", "CIDR", "NODE", "IPS TOTAL", "IPS IN USE", "IPS FREE"}}
	}
	for _, p := range pools {
		rows = append(rows, poolRow(p, blocks))
		if blocks {
			for _, b := range p.Blocks {
				rows = append(rows, blockRow(b))
			}
		}
	}
	return printer.WriteBox(w, rows, len(rows[0])-3)
}

func poolRow(p ipam.PoolUsage, withNode bool) []string {
	row := []string{"IP Pool", p.Pool.String()}
	switch {
	case !p.Pool.IsValid():
		row = []string{"No pool", ""}
	case p.Disabled:
		row[1] += " (disabled)"
	}
	if withNode {
		row = append(row, "")
	}
	return append(row, usageCells(p.Size, p.InUse)...)
}

func blockRow(b ipam.BlockUsage) []string {
	row := []string{"Block", b.CIDR.String(), b.Node}
	if b.Damaged {
		return append(row, fmt.Sprint(b.Size), "damaged", "")
	}
	return append(row, usageCells(big.NewInt(int64(b.Size)), b.InUse)...)
}

// usageCells is the total, used and free addresses as text.
func usageCells(size *big.Int, inUse int) []string {
	used := big.NewInt(int64(inUse))
	free := new(big.Int).Sub(size, used)
	return []string{
		count(size),
		fmt.Sprintf("%s (%s)", count(used), percent(used, size)),
		fmt.Sprintf("%s (%s)", count(free), percent(free, size)),
	}
}

// count writes a number, rounded when it is beyond what people read digit by digit.
func count(n *big.Int) string {
	if n.BitLen() < 50 {
		return n.String()
	}
	return new(big.Float).SetInt(n).Text('e', 4)
}

func percent(part, whole *big.Int) string {
	if whole.Sign() == 0 {
		return "0%"
	}
	ratio, _ := new(big.Rat).SetFrac(part, whole).Float64()
	return fmt.Sprintf("%.0f%%", 100*ratio)
}

// poolJSON is a pool, or what is in none, as programs read it. The size is text, as it
// can be beyond what JSON's numbers hold.
type poolJSON struct {
	CIDR     string      `json:"cidr,omitempty"`
	Disabled bool        `json:"disabled"`
	Total    string      `json:"total"`
	InUse    int         `json:"inUse"`
	Free     string      `json:"free"`
	Blocks   []blockJSON `json:"blocks,omitempty"`
}

type blockJSON struct {
	CIDR     string `json:"cidr"`
	Node     string `json:"node,omitempty"`
	Total    int    `json:"total"`
	InUse    int    `json:"inUse"`
	Borrowed int    `json:"borrowed"`
	Damaged  bool   `json:"damaged,omitempty"`
}

func poolsJSON(pools []ipam.PoolUsage, blocks bool) []poolJSON {
	out := []poolJSON{}
	for _, p := range pools {
		free := new(big.Int).Sub(p.Size, big.NewInt(int64(p.InUse)))
		j := poolJSON{Disabled: p.Disabled, Total: p.Size.String(), InUse: p.InUse, Free: free.String()}
		if p.Pool.IsValid() {
			j.CIDR = p.Pool.String()
		}
		for _, b := range p.Blocks {
			if blocks {
				j.Blocks = append(j.Blocks, blockJSON{b.CIDR.String(), b.Node, b.Size, b.InUse, b.Borrowed, b.Damaged})
			}
		}
		out = append(out, j)
	}
	return out
}

// borrowedIP is an address that a node has from the block of another, or of none.
type borrowedIP struct {
	IP     string `json:"ip"`
	Node   string `json:"borrowingNode"`
	Block  string `json:"block"`
	Owner  string `json:"blockOwner"`
	Type   string `json:"type"`
	Holder string `json:"allocatedTo"`
}

func showBorrowed(ctx context.Context, env *Env, s *resource.Store, asJSON bool) error {
	env.collections.frugal(env)
	w := env.Stdout
	inventory, err := s.IPAM().Inventory(ctx)
	if err != nil {
		return err
	}
	borrowed := []borrowedIP{}
	for h := range inventory.Holdings() {
		node, owner := h.Owner.Attrs[ipam.AttrNode], inventory.OwnerOf(h.Block)
		if node == "" || node == owner {
			continue
		}
		b := borrowedIP{h.Addr.String(), node, h.Block.String(), owner, h.Owner.Attrs[ipam.AttrType], h.Owner.Attrs[ipam.AttrContainer]}
		if b.Type == "" {
			b.Type = "container"
		}
		for _, holder := range []string{h.Owner.Attrs[ipam.AttrEndpoint], h.Owner.Handle} {
			if b.Holder == "" {
				b.Holder = holder
			}
		}
		borrowed = append(borrowed, b)
	}
	if asJSON {
		return writeJSON(w, borrowed)
	}
	if len(borrowed) == 0 {
		fmt.Fprintln(w, "No addresses are borrowed.")
		return nil
	}
	rows := [][]string{{"IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"}}
	for _, b := range borrowed {
		rows = append(rows, []string{b.IP, b.Node, b.Block, b.Owner, b.Type, b.Holder})
	}
	return printer.WriteBox(w, rows, len(rows[0]))
}

func showConfiguration(ctx context.Context, w io.Writer, s *resource.Store, asJSON bool) error {
	c, _, err := s.IPAMConfig(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSON(w, map[string]any{
			"strictAffinity": c.StrictAffinity, "autoAllocateBlocks": c.AutoAllocateBlocks, "maxBlocksPerHost": c.MaxBlocksPerHost,
		})
	}
	limit := fmt.Sprint(c.MaxBlocksPerHost)
	if c.MaxBlocksPerHost == 0 {
		limit = "0 (no limit)"
	}
	return printer.WriteBox(w, [][]string{
		{"PROPERTY", "VALUE"},
		{"StrictAffinity", fmt.Sprint(c.StrictAffinity)},
		{"AutoAllocateBlocks", fmt.Sprint(c.AutoAllocateBlocks)},
		{"MaxBlocksPerHost", limit},
	}, 2)
}
