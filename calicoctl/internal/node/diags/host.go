package diags

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// nodeContainer is the container in which the programs run.
const nodeContainer = "calico-node"

var errNotInstalled = errors.New("the command is not installed")

// command is something that is asked of the host.
type command struct {
	args []string
	// spare says that a host may do without the program.
	spare bool
}

func ask(line string) command   { return command{args: strings.Fields(line)} }
func spare(line string) command { return command{args: strings.Fields(line), spare: true} }

// commands are asked on the host, or in calico-node's container, which has the host's
// network, when the host lacks the program.
var commands = []command{
	ask("date"),
	ask("hostname"),
	ask("uname -a"),
	ask("uptime"),
	ask("ip -details -statistics link"),
	ask("ip address"),
	ask("ip -4 route show table all"),
	ask("ip -6 route show table all"),
	ask("ip -4 rule"),
	ask("ip -6 rule"),
	ask("ip neighbour"),
	ask("iptables-save -c"),
	ask("ip6tables-save -c"),
	// Of the variants a host has one or both.
	spare("iptables-nft-save -c"),
	spare("ip6tables-nft-save -c"),
	spare("iptables-legacy-save -c"),
	spare("ip6tables-legacy-save -c"),
	spare("nft list ruleset"),
	// felix asks the kernel for these without the programs.
	spare("ipset list"),
	spare("conntrack -L -o extended"),
	spare("conntrack -L -f ipv6 -o extended"),
	ask("ss -tan"),
	// Without arguments of programs, which are nobody's business.
	ask("ps -eo pid,ppid,user,stat,etime,time,rss,nlwp,comm"),
	ask(`sysctl -a -r ^net\.(ipv4|ipv6|netfilter)`),
	ask("docker version"),
	ask("docker info"),
	// Without the commands of containers.
	ask(`docker ps -a --no-trunc --format {{.ID}}\t{{.Image}}\t{{.Status}}\t{{.Names}}\t{{.Networks}}`),
	ask("docker network ls --no-trunc"),
}

// journals are there where systemd is process 1.
var journals = []command{
	ask("journalctl --no-pager -n 5000 -u docker"),
	ask("journalctl --no-pager -n 2000 -u calico-*"),
	ask("journalctl --no-pager -n 2000 -k"),
}

func (c *collector) commands(ctx context.Context) error {
	list := commands
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		list = append(list[:len(list):len(list)], journals...)
	}
	for _, one := range list {
		if err := c.command(ctx, "commands/"+fileName(one.args), one); err != nil {
			return err
		}
	}
	return nil
}

// command runs a command and keeps what it printed.
func (c *collector) command(ctx context.Context, file string, one command) error {
	c.started = time.Now()
	data, err := run(ctx, one.args...)
	if errors.Is(err, errNotInstalled) && c.inside && one.args[0] != "docker" {
		data, err = run(ctx, append([]string{"docker", "exec", nodeContainer}, one.args...)...)
	}
	if errors.Is(err, errNotInstalled) && one.spare {
		err = errAbsent
	}
	return c.keep(file, data, err)
}

// inContainer is asked in calico-node's container.
var inContainer = []command{
	ask("cat /etc/calico/confd/config/bgpd.toml"),
	ask("ps -eo pid,ppid,user,stat,etime,time,rss,nlwp,args"),
	ask("cat /proc/self/mountinfo"),
	ask("iptables --version"),
}

func (c *collector) container(ctx context.Context) error {
	if !c.inside {
		if len(c.cfg.Wanted) > 0 {
			c.started = time.Now()
			return c.keep("container", nil, errors.New("programs should run here, and the container calico-node does not run"))
		}
		return nil
	}
	for _, one := range inContainer {
		full := command{args: append([]string{"docker", "exec", nodeContainer}, one.args...)}
		name := fileName(one.args)
		if strings.HasSuffix(one.args[len(one.args)-1], "bgpd.toml") {
			name = "bgpd.toml"
		}
		if err := c.command(ctx, "container/"+name, full); err != nil {
			return err
		}
	}
	return nil
}

// docker asks the engine about the networks of this project and the containers that
// run it.
func (c *collector) docker(ctx context.Context) error {
	networks, err := run(ctx, "docker", "network", "ls", "-q", "--filter", "driver=calico")
	if ids := strings.Fields(string(networks)); err == nil && len(ids) > 0 {
		if err := c.command(ctx, "docker/networks.json", command{args: append([]string{"docker", "network", "inspect"}, ids...)}); err != nil {
			return err
		}
	}
	names, err := run(ctx, "docker", "ps", "-a", "--format", "{{.Names}}", "--filter", "name=calico")
	if err != nil {
		return nil //nolint:nilerr // "docker ps" has said so before
	}
	for name := range strings.FieldsSeq(string(names)) {
		if err := c.command(ctx, "docker/"+name+".json", ask("docker inspect "+name)); err != nil {
			return err
		}
		if err := c.command(ctx, "docker/"+name+".log", ask("docker logs --timestamps --tail 20000 "+name)); err != nil {
			return err
		}
	}
	return nil
}

// logs copies the log folder, which a host has that is a node.
func (c *collector) logs(context.Context) error {
	_, err := os.Stat(c.cfg.LogDir)
	if errors.Is(err, fs.ErrNotExist) && len(c.cfg.Wanted) == 0 {
		return nil
	}
	return c.folder("logs", c.cfg.LogDir, func(name string) bool { return name == "lock" })
}

// folder copies the files of a folder, but for those that are left out by their name.
func (c *collector) folder(as, dir string, leftOut func(name string) bool) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		c.started = time.Now()
		name, relErr := filepath.Rel(dir, path)
		switch {
		case err != nil || relErr != nil:
			return c.keep(as+"/"+name, nil, errors.Join(err, relErr))
		case !d.Type().IsRegular() || leftOut(d.Name()):
			return nil
		}
		data, err := readEnd(path)
		return c.keep(as+"/"+name, data, err)
	})
}
