package command

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/model"
)

// maxBlocks is the greatest limit of blocks that can be meant: all blocks of a /6 of IPv4.
const maxBlocks = 1 << 20

func newIPAMConfigure(env *Env) *cobra.Command {
	var strict string
	var limit int
	var out outputFlag
	cmd := &cobra.Command{
		Use:   "configure",
		Short: "Configure how addresses are given out",
		Long: "Set how addresses are given out. With strict affinity a node uses its own blocks only, and\n" +
			"borrows no address from the blocks of others. A node claims no more blocks than\n" +
			"--max-blocks-per-host of each family, and then borrows, unless affinity is strict; 0 means\n" +
			"no limit. What is in use already stays so.",
		Example: `  # Let no node borrow addresses.
  calicoctl ipam configure --strictaffinity=true

  # Limit nodes to 20 blocks each.
  calicoctl ipam configure --max-blocks-per-host=20`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			setLimit := cmd.Flags().Changed("max-blocks-per-host")
			on, err := strconv.ParseBool(strict)
			switch {
			case strict == "" && !setLimit:
				return usagef("nothing to configure: say --strictaffinity or --max-blocks-per-host")
			case strict != "" && err != nil:
				return usagef("--strictaffinity is %q: expected true or false", strict)
			case limit < 0 || limit > maxBlocks:
				return usagef("--max-blocks-per-host is %d: expected 0 (no limit) to %d", limit, maxBlocks)
			}
			return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
				var now model.IPAMConfig
				err := s.ChangeIPAMConfig(ctx, func(c *model.IPAMConfig) {
					if strict != "" {
						c.StrictAffinity = on
					}
					if setLimit {
						c.MaxBlocksPerHost = limit
					}
					now = *c
				})
				if err != nil {
					return err
				}
				if out.json() {
					return writeJSON(env.Stdout, struct {
						StrictAffinity     bool `json:"strictAffinity"`
						AutoAllocateBlocks bool `json:"autoAllocateBlocks"`
						MaxBlocksPerHost   int  `json:"maxBlocksPerHost"`
					}{now.StrictAffinity, now.AutoAllocateBlocks, now.MaxBlocksPerHost})
				}
				if strict != "" {
					fmt.Fprintf(env.Stdout, "Successfully set StrictAffinity to: %t\n", on)
				}
				if setLimit {
					fmt.Fprintf(env.Stdout, "Successfully set MaxBlocksPerHost to: %d\n", limit)
				}
				return nil
			}))
		},
	}
	cmd.Flags().StringVar(&strict, "strictaffinity", "", "`true or false`: whether nodes use their own blocks only")
	cmd.Flags().IntVar(&limit, "max-blocks-per-host", 0, "the `number` of blocks that a node may have; 0 means no limit")
	out.flag(cmd)
	mustComplete(cmd, "strictaffinity", []string{"true", "false"})
	return cmd
}
