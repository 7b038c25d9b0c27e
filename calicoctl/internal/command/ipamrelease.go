package command

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/ipam"
)

func newIPAMRelease(env *Env) *cobra.Command {
	var ip string
	var force bool
	var reports []string
	var o checkOptions
	var out outputFlag
	cmd := &cobra.Command{
		Use:   "release (--ip=ADDRESS | --from-report=FILE...)",
		Short: "Release addresses that are marked as in use",
		Long: "Release an address that nothing uses any more although it is marked as in use. An address\n" +
			"that a container still has will be given out a second time, and then neither works: one that\n" +
			"an endpoint has, or a container of this host by its kernel, is refused unless --force is given.\n\n" +
			"With --from-report, release the leaked addresses of a report that \"calicoctl ipam check -o\n" +
			"FILE\" has written, also those of which it could not prove that no container has them. Of each,\n" +
			"only what has leaked still, and to the same owner, is released.",
		Example: `  calicoctl ipam release --ip=192.168.1.2

  # Release all leaked addresses.
  calicoctl ipam check -o report.json
  calicoctl ipam release --from-report=report.json`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			switch {
			case force && ip == "":
				return usagef("--force is for --ip")
			case ip == "" && len(reports) == 0:
				return usagef("--ip is missing: it names the address to release")
			case ip != "" && len(reports) > 0:
				return usagef("--ip and --from-report exclude each other")
			case ip != "":
				addr, err := ipFlag(ip)
				if err != nil {
					return err
				}
				return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
					return env.release(ctx, s, addr, ipam.Force(force), out)
				}))
			}
			return executing(env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
				return env.releaseReported(ctx, s, reports, o, out)
			}))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&ip, "ip", "", "the `address` to release")
	flags.StringArrayVar(&reports, "from-report", nil, "a `file` that \"ipam check -o\" has written; may be repeated")
	flags.BoolVar(&force, "force", false, "release the address also if an endpoint or a container has it")
	out.flag(cmd)
	o.engineOptions.flags(cmd)
	return cmd
}

// released is the result of "ipam release" for programs.
type released struct {
	Released []netip.Addr `json:"released"`
	// Reported is how many addresses the reports name.
	Reported int `json:"reported,omitempty"`
}

func (env *Env) release(ctx context.Context, s *resource.Store, ip netip.Addr, force ipam.Force, out outputFlag) error {
	err := s.CheckUnlocked(ctx)
	if err == nil {
		err = env.ofNoContainer(ip, force)
	}
	if err == nil {
		err = s.IPAM().ReleaseUnused(ctx, ip, force)
	}
	switch {
	case errors.Is(err, ipam.ErrNotAssigned):
		return fmt.Errorf("IP address %s is not assigned", ip)
	case errors.Is(err, ipam.ErrInUse):
		return fmt.Errorf("%w: if it were released, a second container could get it, and then neither works; "+
			"remove the container or its endpoint, or release it all the same with --force", err)
	case err != nil:
		return err
	}
	if out.json() {
		return writeJSON(env.Stdout, released{Released: []netip.Addr{ip}})
	}
	fmt.Fprintf(env.Stdout, "Successfully released IP address %s\n", ip)
	return nil
}

// ofNoContainer refuses an address that a container of this host has by its kernel.
func (env *Env) ofNoContainer(ip netip.Addr, force ipam.Force) error {
	if env.Sandboxes == nil || force == ipam.Forced {
		return nil
	}
	sandboxes, err := env.Sandboxes()
	for _, s := range sandboxes {
		if slices.Contains(s.Addrs, ip) {
			return fmt.Errorf("%w by a container of this host: it is routed to %s", ipam.ErrInUse, s.Link)
		}
	}
	return err
}

// releaseReported releases what reports found and another look finds still.
func (env *Env) releaseReported(ctx context.Context, s *resource.Store, files []string, o checkOptions, out outputFlag) error {
	if err := s.CheckUnlocked(ctx); err != nil {
		return err
	}
	c := &ipamCheck{env: env, ipam: s.IPAM(), checkOptions: o}
	l, err := c.look(ctx)
	if err != nil {
		return err
	}
	var reported []ipam.Problem
	for _, file := range files {
		r, err := readReport(file)
		if err != nil {
			return err
		}
		if r.Cluster != c.report.Cluster {
			return fmt.Errorf("report %s is about another datastore (%s, and this is %s)", file, r.Cluster, c.report.Cluster)
		}
		for _, f := range r.Problems {
			if f.Kind == ipam.ProblemLeakedAddress && !f.Mended {
				reported = append(reported, f.Problem)
			}
		}
	}
	leaked := ipam.Both(reported, slices.Collect(l.problems()))
	done := released{Released: []netip.Addr{}, Reported: len(reported)}
	for _, p := range leaked {
		mended, err := s.IPAM().Mend(ctx, p, ipam.Forced) // the user has decided
		if err != nil {
			return err
		}
		if !mended {
			continue
		}
		done.Released = append(done.Released, p.Addr)
		if !out.json() {
			fmt.Fprintf(env.Stdout, "Released IP address %s\n", p.Addr)
		}
	}
	if out.json() {
		return writeJSON(env.Stdout, done)
	}
	n := len(done.Released)
	fmt.Fprintf(env.Stdout, "Successfully released %d of %d reported IP addresses\n", n, len(reported))
	if n < len(reported) {
		fmt.Fprintln(env.Stdout, "The others are in use, or were released before.")
	}
	return nil
}
