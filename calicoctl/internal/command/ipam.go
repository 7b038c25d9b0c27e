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

func newIPAM(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ipam",
		Short: "View and release IP addresses",
		RunE:  group,
		Args:  cobra.ArbitraryArgs,
	}
	cmd.AddCommand(newIPAMShow(env), newIPAMRelease(env))
	return cmd
}

// ipFlag reads the value of --ip.
func ipFlag(text string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return ip, usagef("%q is not an IP address", text)
	}
	return ip, nil
}

func newIPAMShow(env *Env) *cobra.Command {
	var ip string
	blocks := false
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show how much of the pools is in use, or who has an address",
		Long: "Without --ip, show how many addresses each pool has and how many are in use; with\n" +
			"--show-blocks also the blocks of each pool and the nodes that have them. With --ip, show\n" +
			"whether an address is in use, and what is known of its owner.",
		Example: `  # Show the use of all pools and blocks.
  calicoctl ipam show --show-blocks

  # Show who has an address.
  calicoctl ipam show --ip=192.168.1.2`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ip == "" {
				return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
					return showPools(ctx, env.Stdout, s, blocks)
				}))
			}
			if blocks {
				return usagef("--show-blocks and --ip exclude each other")
			}
			addr, err := ipFlag(ip)
			if err != nil {
				return err
			}
			return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
				return showAddress(ctx, env.Stdout, s, addr)
			}))
		},
	}
	cmd.Flags().StringVar(&ip, "ip", "", "the `address` to show")
	cmd.Flags().BoolVar(&blocks, "show-blocks", false, "show the blocks of each pool too")
	return cmd
}

func showAddress(ctx context.Context, w io.Writer, s *resource.Store, ip netip.Addr) error {
	owner, err := s.IPAM().Lookup(ctx, ip)
	if errors.Is(err, ipam.ErrNotAssigned) {
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

func showPools(ctx context.Context, w io.Writer, s *resource.Store, blocks bool) error {
	pools, err := s.IPAM().Usage(ctx)
	if err != nil {
		return err
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

func newIPAMRelease(env *Env) *cobra.Command {
	var ip string
	cmd := &cobra.Command{
		Use:   "release --ip=ADDRESS",
		Short: "Release an address that is marked as in use",
		Long: "Release an address that nothing uses any more although it is marked as in use. An address\n" +
			"that a container still has will be given out a second time, and then neither works: look\n" +
			"at \"calicoctl ipam show --ip\" first.",
		Example: `  calicoctl ipam release --ip=192.168.1.2`,
		Args:    atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ip == "" {
				return usagef("--ip is missing: it names the address to release")
			}
			addr, err := ipFlag(ip)
			if err != nil {
				return err
			}
			return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
				return release(ctx, env.Stdout, s, addr)
			}))
		},
	}
	cmd.Flags().StringVar(&ip, "ip", "", "the `address` to release")
	return cmd
}

func release(ctx context.Context, w io.Writer, s *resource.Store, ip netip.Addr) error {
	free, err := s.IPAM().Release(ctx, ip)
	if err != nil {
		return err
	}
	if len(free) > 0 {
		return fmt.Errorf("IP address %s is not assigned", ip)
	}
	fmt.Fprintf(w, "Successfully released IP address %s\n", ip)
	return nil
}
