package command

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/printer"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/model"
)

func newIPAMSplit(env *Env) *cobra.Command {
	var text, name string
	var dryRun bool
	var out outputFlag
	cmd := &cobra.Command{
		Use:   "split NUMBER (--cidr=CIDR | --name=NAME)",
		Short: "Split a pool into several smaller ones",
		Long: "Replace a pool by NUMBER pools (a power of 2) of equal size with the same settings, in one\n" +
			"transaction. Blocks and addresses in use are not touched: they are in one of the new pools\n" +
			"then. With --dry-run, only show what would be done.",
		Example: `  # Show what splitting a pool into 4 would do.
  calicoctl ipam split 4 --cidr=192.168.0.0/16 --dry-run

  # Do it.
  calicoctl ipam split 4 --cidr=192.168.0.0/16`,
		Args: atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if len(args) == 0 {
				return usagef("NUMBER is missing: into how many pools to split")
			}
			n, err := strconv.Atoi(args[0])
			if err != nil {
				return usagef("%q is not a number of pools", args[0])
			}
			if (text == "") == (name == "") {
				return usagef("which pool to split is said by one of --cidr and --name")
			}
			var cidr netip.Prefix
			if text != "" {
				if cidr, err = netip.ParsePrefix(text); err != nil || cidr != cidr.Masked() {
					return usagef("%q is not the CIDR of a pool", text)
				}
			}
			return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
				if name != "" {
					if cidr, err = poolNamed(ctx, s, name); err != nil {
						return err
					}
				}
				return env.split(ctx, s, cidr, n, dryRun, out)
			}))
		},
	}
	cmd.Flags().StringVar(&text, "cidr", "", "the `CIDR` of the pool")
	cmd.Flags().StringVar(&name, "name", "", "the `name` of the pool, as the v3 API has it")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be done")
	out.flag(cmd)
	return cmd
}

// poolNamed finds a pool by its name in the v3 API.
func poolNamed(ctx context.Context, s *resource.Store, name string) (netip.Prefix, error) {
	entries, _, _, err := s.Etcd().List(ctx, model.KindIPPool, nil)
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, e := range entries {
		if p, ok := e.Value.(*model.IPPool); ok && p.V3Name == name {
			return p.CIDR, nil
		}
	}
	return netip.Prefix{}, resource.MissingName("ipPool", name)
}

func (env *Env) split(ctx context.Context, s *resource.Store, cidr netip.Prefix, n int, dryRun bool, out outputFlag) error {
	plan, err := s.PlanSplit(ctx, cidr, n)
	if err != nil {
		return err
	}
	pools, err := s.IPAM().Usage(ctx)
	if err != nil {
		return err
	}
	type part struct {
		CIDR   string `json:"cidr"`
		Blocks int    `json:"blocks"`
		InUse  int    `json:"inUse"`
	}
	var parts []part
	rows := [][]string{{"POOL", "BLOCKS", "IPS IN USE"}}
	for _, p := range plan.Parts {
		blocks, inUse := 0, 0
		for _, u := range pools {
			for _, b := range u.Blocks {
				if p.CIDR.Contains(b.CIDR.Addr()) {
					blocks, inUse = blocks+1, inUse+b.InUse
				}
			}
		}
		parts = append(parts, part{p.CIDR.String(), blocks, inUse})
		rows = append(rows, []string{p.CIDR.String(), strconv.Itoa(blocks), strconv.Itoa(inUse)})
	}
	do := plan.Do
	if dryRun {
		do = plan.Try
	}
	if out.json() {
		if err := do(ctx, s); err != nil {
			return err
		}
		return writeJSON(env.Stdout, struct {
			Pool   string `json:"pool"`
			Parts  []part `json:"parts"`
			DryRun bool   `json:"dryRun"`
		}{cidr.String(), parts, dryRun})
	}
	if err := printer.WriteBox(env.Stdout, rows, 1); err != nil {
		return err
	}
	if err := do(ctx, s); err != nil {
		return err
	}
	if dryRun {
		fmt.Fprintf(env.Stdout, "Pool %s would be split into these %d pools. Nothing was changed.\n", cidr, n)
		return nil
	}
	fmt.Fprintf(env.Stdout, "Successfully split pool %s into these %d pools\n", cidr, n)
	return nil
}
