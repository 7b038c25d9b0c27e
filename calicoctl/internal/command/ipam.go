package command

import (
	"net/netip"

	"github.com/spf13/cobra"
)

func newIPAM(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ipam",
		Short: "View and release IP addresses",
		RunE:  group,
		Args:  cobra.ArbitraryArgs,
	}
	cmd.AddCommand(newIPAMShow(env), newIPAMRelease(env), newIPAMCheck(env), newIPAMSplit(env), newIPAMConfigure(env))
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
