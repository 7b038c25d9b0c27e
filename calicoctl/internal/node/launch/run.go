package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"calico.internal/calicoctl/internal/node/checksystem"
	"calico.internal/calicoctl/internal/node/hostplugin"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/nodestart/address"
)

// DefaultTimeout is how long the start-up may take, and the programs after it.
const DefaultTimeout = time.Minute

// launcher starts the container of a node and knows when it is ready.
type launcher struct {
	out io.Writer
	// programs are those that must become ready.
	programs []string
	logDir   string
	limit    time.Duration
}

func newLauncher(out io.Writer, o Options, etcd etcdstore.Config) launcher {
	var env []string
	open, _ := environment(o, etcd)
	for _, v := range open {
		env = append(env, v.String())
	}
	return launcher{out: out, programs: programsOf(env), logDir: o.LogDir, limit: o.Timeout}
}

// Run looks whether this host can be a node as the options have it, and changes nothing
// until that is so. Then it prepares the host, starts the container in place of one that runs,
// and ends when every program in it is ready; it returns their names. If they do not become
// ready, the former container runs again.
func Run(ctx context.Context, w io.Writer, o Options, etcd etcdstore.Config) (ready []string, err error) {
	done, err := begin()
	if err != nil {
		return nil, err
	}
	defer done()
	l := newLauncher(w, o, etcd)
	s := swap{names: nodeNames, out: w, policy: "always", ready: l.begin, serves: l.serves}
	if err := look(ctx, w, o, etcd); err != nil {
		return nil, err
	}
	s.plugin = pluginOf(w, o, etcd)
	if err := s.mend(ctx); err != nil {
		return nil, err
	}
	if err := Prepare(ctx, w, o.LogDir); err != nil {
		return nil, err
	}
	undo, err := WriteSecrets(Secrets(o, etcd))
	if err != nil {
		return nil, fmt.Errorf("the container's secrets: %w", err)
	}
	if o.Force {
		if err := takeName(ctx, w, o, etcd); err != nil {
			return nil, errors.Join(err, undo())
		}
	}
	command := Command(o, etcd)
	fmt.Fprintf(w, "Running the following command to start calico-node:\n\n%s\n\n", Shell(command))
	if o.InitSystem {
		done() // it lasts as long as the container
		return nil, foreground(ctx, w, command)
	}
	s.create = func(ctx context.Context, name string) error {
		_, err := docker(ctx, createCommand(command, name)...)
		return err
	}
	if err := s.run(ctx); err != nil {
		return nil, errors.Join(err, undo())
	}
	if !o.onHost() && !o.DisableDockerNetworking && hostplugin.Recommended(ctx) {
		fmt.Fprintf(w, "Recommended: --plugin=host, which makes Docker's plugin a service of this host: %s.\n", hostplugin.Why)
	}
	if !o.DisableDockerNetworking {
		adviseNames(ctx, w)
	}
	return l.programs, nil
}

// adviseNames says what keeps containers from finding others by name on all hosts.
func adviseNames(ctx context.Context, w io.Writer) {
	engine, err := askEngine(ctx)
	if err != nil {
		return // it has just started a container: whatever it is, it is no matter of names
	}
	f := checksystem.NamesOfContainers(os.DirFS("/"), engine.scope() == "global")
	if f.State != checksystem.OK {
		fmt.Fprintf(w, "Recommended: %s: %s.\n", f.Cure, f.Found)
	}
}

// createCommand makes of a command that runs a container one that creates it, under another
// name and without a restart policy.
func createCommand(run []string, name string) []string {
	args := []string{"create"}
	for _, w := range run[2:] {
		switch {
		case w == "-d" || strings.HasPrefix(w, "--restart="):
		case strings.HasPrefix(w, "--name="):
			args = append(args, "--name="+name)
		default:
			args = append(args, w)
		}
	}
	return args
}

// serves waits until all programs of a container that runs are ready.
func (l launcher) serves(ctx context.Context, c *container) error {
	l.programs, l.out, l.limit = programsOf(c.Config.Env), io.Discard, serveLimit
	return l.waitReady(ctx)
}

// look finds out whether a node can run here as it is asked for; it changes nothing.
func look(ctx context.Context, w io.Writer, o Options, etcd etcdstore.Config) error {
	if err := checkEngine(ctx); err != nil {
		return err
	}
	if o.onHost() {
		if err := (hostplugin.Service{}).Check(); err != nil {
			return err
		}
	}
	interfaces, err := address.Host()
	if err != nil {
		return err
	}
	if err := checkAddresses(o, interfaces); err != nil {
		return err
	}
	own, err := ownContainers(ctx, o.InitSystem)
	if err != nil {
		return err
	}
	if err := checkPort(os.DirFS("/proc"), o, own); err != nil {
		return err
	}
	img, err := findImage(ctx, w, o.Image)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "Image %s is here, version %s.\n", o.Image, img.version())
	return checkStartUp(ctx, w, o, etcd)
}

// checkEngine makes sure that there is an engine that can run a node.
func checkEngine(ctx context.Context) error {
	info, err := askEngine(ctx)
	switch {
	case errors.Is(err, errNoDocker):
		return err
	case err != nil:
		return fmt.Errorf("the Docker engine does not answer; start it and run this again: %w", err)
	case info.has("rootless"):
		return errors.New("this engine runs without root's rights, and its containers cannot have the host's network: use the engine of root (DOCKER_HOST, or docker context use)")
	}
	return nil
}

// ownContainers are the first processes of containers that a new one would replace. One that
// goes when it is stopped could not be put back, and is refused unless an init system asks.
func ownContainers(ctx context.Context, initSystem bool) ([]int, error) {
	var own []int
	for _, name := range []string{ContainerName, previousName} {
		c, err := inspect(ctx, name)
		switch {
		case err != nil:
			return nil, err
		case c != nil && c.HostConfig.AutoRemove && !initSystem:
			return nil, errInit
		case c != nil && c.State.Running && c.State.Pid != 0:
			own = append(own, c.State.Pid)
		}
	}
	return own, nil
}

// errInit says that an init system has the container.
var errInit = errors.New("the container calico-node goes when it is stopped (--rm): an init system runs it, and would start it again. " +
	"Stop it there first, such as by systemctl disable --now calico-node")

// foreground runs the container as a child, as an init system wants it.
func foreground(ctx context.Context, w io.Writer, command []string) error {
	if c, err := inspect(ctx, ContainerName); err != nil {
		return err
	} else if c != nil {
		fmt.Fprintln(w, "Removing old calico-node container.")
		if _, err := docker(ctx, "stop", ContainerName); err != nil {
			return err
		}
		if err := remove(ctx, ContainerName); err != nil {
			return err
		}
	}
	return attend(ctx, w, command)
}

// orderly is how long a client may take to end when it is told to: the engine gives a
// container 10 s.
const orderly = 15 * time.Second

// attend runs a client of the engine that has a container attached. When ctx ends it gets TERM,
// which it hands on: one that is killed leaves the container running, which nobody then has.
func attend(ctx context.Context, w io.Writer, command []string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = w, w
	// A terminal's signal reaches this process, and the client by it: twice would make the end hurry.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = orderly
	return cmd.Run()
}

// takeName makes the node's name this host's, whoever has it.
func takeName(ctx context.Context, w io.Writer, o Options, etcd etcdstore.Config) error {
	args := CheckCommand(o, etcd, SecretsFile, volumes(o))[1:]
	args = slices.DeleteFunc(args, func(w string) bool { return w == "--check" })
	said, err := docker(ctx, args...)
	if err != nil {
		return fmt.Errorf("the name %s cannot be taken: %w\n%s", o.Name, err, quote(said))
	}
	fmt.Fprintf(w, "The name %s is this host's.\n", o.Name)
	return nil
}
