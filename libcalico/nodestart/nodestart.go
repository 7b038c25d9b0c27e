package nodestart

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nodename"
	"calico.internal/libcalico/nodestart/address"
	"calico.internal/libcalico/wholefile"
)

// maxTries bounds the repetitions when other hosts start, and write the same defaults, or
// addresses, at the same moment: of those one gets on at a time. Between two is a pause.
const (
	maxTries     = 500
	longestPause = 50 * time.Millisecond
)

// Config is the world around a start-up.
type Config struct {
	// Getenv reads the environment, which has all settings.
	Getenv func(string) string
	// Out gets what is found and done, a line each.
	Out io.Writer
	// Version is written as the cluster's.
	Version string
	// RunDir gets the file nodename, and is where the programs have their sockets; LogDir is
	// that of their logs, empty when they have none.
	RunDir, LogDir string
	// EnvFile gets the variables for the other programs; empty: none does.
	EnvFile string
	// Supervisor is the program that runs the others and reports too, which the node's object
	// then names beside them; empty when nobody does.
	Supervisor string
	// StateDir is where the host keeps what it remembers of itself.
	StateDir string
	// Running names what shows that this host has containers, as [localnet.Running] does.
	Running func() ([]string, error)
	Store   etcdstore.Config
	// Check decides and says everything, and writes nothing, neither to etcd nor to the disk.
	Check bool
	// Force moves the node's name to this host, also while another one that has it lives. The
	// variable CALICO_FORCE_NAME=true does so too.
	Force bool
	// NoWait says that WAIT_FOR_DATASTORE has no effect: when etcd is away that is an error at
	// once ([etcdstore.ErrUnavailable]), for who can start from the record then.
	NoWait bool
}

// Outcome is what a start-up came to.
type Outcome struct {
	// Name is the node's.
	Name string
	// Host is which host this is; without an ID when it cannot be kept.
	Host model.Identity
	// IPv4 and IPv6 are the node's addresses, and IPv4Net and IPv6Net their networks; invalid
	// where it has none.
	IPv4, IPv6       netip.Addr
	IPv4Net, IPv6Net netip.Prefix
	// Missing are those of the addresses that this host does not have now.
	Missing []netip.Addr
	// Programs are those that must run on this host, sorted: some of bgpd, confd, felix and
	// libnetwork.
	Programs []string
	// Backend is the kind of BGP as it was asked for: gobgp, bird (the same) or none.
	Backend string
	// Held says why nothing was written: what etcd holds is not the truth, or locked. The
	// programs start, and hold what is in force. Empty when all is well.
	Held string
	// Changed says that something was written to etcd.
	Changed bool
	// LogLevel is that of the start-up: debug, info, warning, error, fatal or panic.
	LogLevel string
	// PollInterval is how often [Look] is to be called; 0: never.
	PollInterval time.Duration
}

// start is a start-up at work.
type start struct {
	cfg Config
	s   settings
	out printer
	// early is what is said before anything else.
	early  []string
	client *etcdstore.Client
	name   nodename.Name
	host   model.Identity
	record hostrecord.Record
	// member says that the host was a node before.
	member     bool
	interfaces []address.Interface
}

// printer prints the lines that a level lets through.
type printer struct {
	to    io.Writer
	level string
}

func (p printer) say(lines ...string) {
	for _, line := range lines {
		warning := strings.HasPrefix(line, "WARNING: ")
		if p.level == "debug" || p.level == "info" || p.level == "warning" && warning {
			fmt.Fprintln(p.to, line)
		}
	}
}

func (p printer) warn(format string, args ...any) { p.say("WARNING: " + fmt.Sprintf(format, args...)) }

// Run finds out who this host is and writes it to the store. Of its errors,
// [etcdstore.ErrUnavailable] says that etcd is away, for which there is [FromRecord], and
// [*NameTakenError] that another host has the name.
func Run(ctx context.Context, cfg Config) (Outcome, error) {
	st, err := begin(cfg)
	if err != nil {
		return Outcome{}, err
	}
	st.out.say(st.early...)
	if st.client, err = etcdstore.New(cfg.Store); err != nil {
		return Outcome{}, err
	}
	defer st.client.Close() //nolint:errcheck // nothing is buffered
	if err := st.awaitStore(ctx); err != nil {
		return Outcome{}, err
	}
	p, changed, err := st.write(ctx)
	if err != nil {
		return Outcome{}, err
	}
	o := st.outcome(p)
	o.Changed = changed
	if cfg.Check {
		st.out.say("Checked: nothing was written")
		return o, nil
	}
	if o.Held == "" {
		st.remember(o, p.guid)
	}
	if err := st.leaveName(o.Name); err != nil {
		return o, err
	}
	st.out.say("Using node name: " + o.Name)
	return o, nil
}

// begin reads what there is to know without etcd.
func begin(cfg Config) (*start, error) {
	s, err := readHost(cfg)
	if err != nil {
		return nil, err
	}
	s.supervisor = cfg.Supervisor
	st := &start{cfg: cfg, s: s, out: printer{cfg.Out, s.logLevel}}
	st.early = []string{"Early log level set to " + s.logLevel, "Loading config from environment"}
	if st.name, err = nodename.Find("", cfg.Getenv); err != nil {
		return nil, err
	}
	if st.name.Host != "" {
		st.early = append(st.early, "NODENAME environment not specified - using the host's name, "+st.name.Node)
	}
	record, found, err := hostrecord.Read(cfg.StateDir)
	if err != nil {
		st.early = append(st.early, fmt.Sprintf("WARNING: %v; so this host counts as one that has been part of a cluster, whose id it does not know", err))
	}
	// One that is there and cannot be read may be that of a member.
	st.record, st.member = record, err != nil || found && record.Member()
	identity := hostrecord.Identity
	if cfg.Check {
		identity = hostrecord.Peek
	}
	if st.host, err = identity(cfg.StateDir, cfg.Getenv); err != nil {
		st.early = append(st.early, fmt.Sprintf("WARNING: this host has no identity, so that another one of the same name is not noticed: %v", err))
	}
	if st.interfaces, err = address.Host(); err != nil {
		return nil, err
	}
	return st, st.directories()
}

// directories makes those that the programs share with the host, and says when they do not.
func (st *start) directories() error {
	for _, d := range []struct {
		dir, lost string
		needed    bool
	}{
		{st.cfg.RunDir, "'calicoctl node status' may provide incomplete status information", true},
		{st.cfg.LogDir, "'calicoctl node diags' will not be able to collect logs", false},
	} {
		if d.dir == "" {
			continue
		}
		if !st.cfg.Check {
			if err := os.MkdirAll(d.dir, 0o755); err != nil && d.needed {
				return err
			}
		}
		if inContainer(d.dir, "/") {
			st.early = append(st.early, fmt.Sprintf("WARNING: %s was not mounted, %s", d.dir, d.lost))
		}
	}
	return nil
}

// awaitStore waits for etcd when the environment asks for that.
func (st *start) awaitStore(ctx context.Context) error {
	if !st.s.waitForStore || st.cfg.NoWait {
		st.out.say("Skipping datastore connection test")
		return nil
	}
	st.out.say("Checking datastore connection")
	for {
		err := st.client.Ping(ctx)
		if err == nil {
			st.out.say("Datastore connection verified", "Datastore is ready")
			return nil
		}
		if errors.Is(err, etcdstore.ErrUnauthorized) {
			return fmt.Errorf("Connection to the datastore is unauthorized: %w", err) //nolint:staticcheck // ST1005: the original's message
		}
		if ctx.Err() != nil {
			return err
		}
		st.out.say(fmt.Sprintf("Hit error connecting to datastore - retry: %v", err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// outcome is what a plan says.
func (st *start) outcome(p *plan) Outcome {
	o := st.settled(Outcome{Name: p.name, Held: p.held})
	o.IPv4, o.IPv4Net, o.IPv6, o.IPv6Net = p.node.IPv4, p.node.IPv4Net, p.node.IPv6, p.node.IPv6Net
	if p.held != "" { // what is stored is not this host's
		o.IPv4, o.IPv4Net, o.IPv6, o.IPv6Net = st.record.IPv4, st.record.IPv4Net, st.record.IPv6, st.record.IPv6Net
	}
	o.Missing = missing(o, st.interfaces)
	return o
}

// settled adds what the environment and the host say.
func (st *start) settled(o Outcome) Outcome {
	o.Host, o.Programs, o.Backend = st.host, st.s.programs, st.s.backend
	o.LogLevel, o.PollInterval = st.s.logLevel, st.s.poll
	return o
}

// missing are the addresses of an outcome that no interface has.
func missing(o Outcome, interfaces []address.Interface) []netip.Addr {
	var out []netip.Addr
	for _, a := range []netip.Addr{o.IPv4, o.IPv6} {
		if _, err := address.Find(interfaces, a); a.IsValid() && err != nil {
			out = append(out, a)
		}
	}
	return out
}

// remember keeps what the host needs to start without etcd.
func (st *start) remember(o Outcome, guid string) {
	err := hostrecord.Update(st.cfg.StateDir, func(r *hostrecord.Record) {
		r.Name, r.ClusterGUID, r.Lost = o.Name, guid, false
		r.IPv4, r.IPv4Net, r.IPv6, r.IPv6Net = o.IPv4, o.IPv4Net, o.IPv6, o.IPv6Net
		r.Programs, r.Backend = o.Programs, o.Backend
	})
	if err != nil {
		st.out.warn("this host will not know its cluster again when etcd loses it, nor start without etcd: %v", err)
	}
	if inContainer(st.cfg.StateDir, "/") {
		st.out.warn("what this host remembers is lost with its container, and when etcd loses its data too, "+
			"the host does not know its cluster again: mount a directory of the host's there (docker run -v %[1]s:%[1]s)", st.cfg.StateDir)
	}
}

// overlayfs is the number of the file system of containers' own layers.
const overlayfs = 0x794c7630

// inContainer says whether a directory is on the own layer of the container whose root is
// given.
func inContainer(dir, root string) bool {
	var fs syscall.Statfs_t
	var own, other syscall.Stat_t
	return syscall.Statfs(root, &fs) == nil && fs.Type == overlayfs &&
		syscall.Stat(root, &own) == nil && syscall.Stat(dir, &other) == nil && own.Dev == other.Dev
}

// leaveName tells the other programs of this host its name.
func (st *start) leaveName(name string) error {
	files := map[string]string{
		filepath.Join(st.cfg.RunDir, "nodename"): name + "\n",
		st.cfg.EnvFile:                           "export NODENAME=" + name + "\n",
		st.s.nodenameFile:                        name + "\n",
	}
	for path, text := range files {
		if path == "" {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := wholefile.Write(path, 0o644, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// NewGUID is a random cluster id of 32 hexadecimal digits.
func NewGUID() string {
	id := make([]byte, 16)
	// crypto/rand never fails (Go 1.24).
	_, _ = rand.Read(id)
	return hex.EncodeToString(id)
}
