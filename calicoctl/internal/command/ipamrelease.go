package command

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/ipam"
)

func newIPAMRelease(env *Env) *cobra.Command {
	var ip string
	var reports []string
	var o checkOptions
	var out outputFlag
	cmd := &cobra.Command{
		Use:   "release (--ip=ADDRESS | --from-report=FILE...)",
		Short: "Release addresses that are marked as in use",
		Long: "Release an address that nothing uses any more although it is marked as in use. An address\n" +
			"that a container still has will be given out a second time, and then neither works: look\n" +
			"at \"calicoctl ipam show --ip\" first.\n\n" +
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
					return env.release(ctx, s, addr, out)
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
	out.flag(cmd)
	flags.StringVar(&o.host, "docker-host", "", "`address` of Docker's engine, as for \"ipam check\"")
	flags.StringVar(&o.node, "node", "", "the `node` whose engine that is (default: this host)")
	return cmd
}

// released is the result of "ipam release" for programs.
type released struct {
	Released []netip.Addr `json:"released"`
	// Reported is how many addresses the reports name.
	Reported int `json:"reported,omitempty"`
}

func (env *Env) release(ctx context.Context, s *resource.Store, ip netip.Addr, out outputFlag) error {
	if err := s.CheckUnlocked(ctx); err != nil {
		return err
	}
	free, err := s.IPAM().Release(ctx, ip)
	if err != nil {
		return err
	}
	if len(free) > 0 {
		return fmt.Errorf("IP address %s is not assigned", ip)
	}
	if out.json() {
		return writeJSON(env.Stdout, released{Released: []netip.Addr{ip}})
	}
	fmt.Fprintf(env.Stdout, "Successfully released IP address %s\n", ip)
	return nil
}

// releaseReported releases what reports found and another look finds still.
func (env *Env) releaseReported(ctx context.Context, s *resource.Store, files []string, o checkOptions, out outputFlag) error {
	if err := s.CheckUnlocked(ctx); err != nil {
		return err
	}
	c := &ipamCheck{env: env, ipam: s.IPAM(), checkOptions: o}
	now, err := c.look(ctx)
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
	leaked := ipam.Both(reported, now)
	done := released{Released: []netip.Addr{}, Reported: len(reported)}
	for _, p := range leaked {
		p.Remedy = "release " + p.Addr.String() // the user has decided
		mended, err := s.IPAM().Mend(ctx, p)
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
