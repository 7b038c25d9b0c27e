package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"calico.internal/calicoctl/internal/node/hostplugin"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/nodestart"
)

const stopped = `calico-node is stopped. On this host traffic flows on, and what is forbidden stays so. Until it runs again
- containers on Calico's networks cannot be started, and stopping or removing one takes up to a minute,
- changes of policies, and new containers elsewhere, do not reach this host,
- other hosts keep their routes to its containers for two minutes; after that only this host reaches them.
It runs again by calicoctl node run, by docker start calico-node, and when the engine is started anew.
`

// pluginServes is added where the plugin is not in the container.
const pluginServes = `The plugin is a service of this host (` + hostplugin.ServiceUnit + `) and serves on, since Docker's engine would wait for it:
containers on Calico's networks are stopped and removed at once, and starts fail after 10 s with an error that names felix.
`

// Stop ends the programs of this host in order.
func Stop(ctx context.Context, w io.Writer) error {
	done, err := begin()
	if err != nil {
		return err
	}
	defer done()
	return stop(ctx, w)
}

func stop(ctx context.Context, w io.Writer) error {
	c, err := inspect(ctx, ContainerName)
	switch {
	case err != nil:
		return err
	case c == nil:
		fmt.Fprintln(w, "There is no container calico-node on this host.")
		return nil
	case c.HostConfig.AutoRemove:
		return errInit
	case !c.State.Running:
		fmt.Fprintln(w, "calico-node is stopped already.")
		return nil
	}
	if _, err := docker(ctx, "stop", ContainerName); err != nil {
		return err
	}
	fmt.Fprint(w, stopped)
	if valueOf(c.Config.Env, nodestart.PluginVariable) == nodestart.PluginOnHost {
		fmt.Fprint(w, pluginServes)
	}
	return nil
}

// Purge stops calico-node and takes away what it left on this host: containers' routes,
// rules, sets, learned routes, and what the host remembers of itself; not the logs. With
// force it does so, too, while containers are on Calico's networks, which it cuts off.
// image is used when there is no container any more.
func Purge(ctx context.Context, w io.Writer, image string, force bool) error {
	done, err := begin()
	if err != nil {
		return err
	}
	defer done()
	sandboxes, err := localnet.Sandboxes()
	if err != nil {
		return err
	}
	if len(sandboxes) > 0 && !force {
		return fmt.Errorf("containers run on Calico's networks here (%s): they would be cut off; stop them first, or use --force", nameAll(sandboxes))
	}
	c, err := inspect(ctx, ContainerName)
	if err != nil {
		return err
	}
	if c != nil {
		image = c.Image
	}
	found, err := findImage(ctx, w, image)
	if err != nil {
		return err
	}
	if err := stop(ctx, io.Discard); err != nil {
		return err
	}
	for _, name := range []string{ContainerName, previousName, nextName} {
		if err := remove(ctx, name); err != nil {
			return err
		}
	}
	if service := (hostplugin.Service{}); service.Installed() {
		if err := service.Remove(ctx); err != nil {
			return fmt.Errorf("remove the plugin's service: %w", err)
		}
		fmt.Fprintf(w, "Removed: the plugin's service, %s and %s\n", hostplugin.SocketUnit, hostplugin.Program)
	}
	name, _, _ := hostrecord.Read(hostrecord.DefaultDir) // only for the last line
	if err := errors.Join(cleanKernel(ctx, w, found.ID), removeFiles(ctx, w)); err != nil {
		return err
	}
	fmt.Fprintf(w, "This host is no node any more. Its record in etcd, and its addresses, go by: calicoctl delete node %s\n", nameOr(name.Name))
	return nil
}

// nameAll names containers by their addresses, or else by their links.
func nameAll(sandboxes []localnet.Sandbox) string {
	var names []string
	for _, s := range sandboxes {
		if len(s.Addrs) == 0 {
			names = append(names, s.Link)
		}
		for _, a := range s.Addrs {
			names = append(names, a.String())
		}
	}
	return strings.Join(names, ", ")
}

func nameOr(name string) string {
	if name == "" {
		return "NAME"
	}
	return name
}

// cleanKernel has the programs of an image remove what they keep in the kernel: felix by its
// own command, and bgpd's routes by the protocol that they bear.
func cleanKernel(ctx context.Context, w io.Writer, image string) error {
	for _, step := range []struct {
		what    string
		command []string
	}{
		{"felix's routes, rules and sets", []string{"calico-felix", "cleanup"}},
		{"bgpd's routes", []string{"ip", "route", "flush", "proto", "bird"}},
		{"bgpd's routes of IPv6", []string{"ip", "-6", "route", "flush", "proto", "bird"}},
	} {
		args := []string{"run", "--rm", "--net=host", "--name=" + checkName}
		args = append(args, rights(Options{UserNamespaces: usernamespaces(ctx)})...)
		args = append(args, "-v", "/run:/run", "--entrypoint="+step.command[0], image)
		if _, err := docker(ctx, append(args, step.command[1:]...)...); err != nil {
			return fmt.Errorf("remove %s: %w", step.what, err)
		}
		fmt.Fprintf(w, "Removed: %s\n", step.what)
	}
	return nil
}

func usernamespaces(ctx context.Context) bool {
	info, err := askEngine(ctx)
	return err == nil && info.has("userns")
}

// pluginSockets are by what the engine finds the plugin; for what is there it would wait.
var pluginSockets = []string{"/run/docker/plugins/calico.sock", "/run/docker/plugins/calico-ipam.sock"}

// removeFiles removes sockets, and what the host remembers.
func removeFiles(ctx context.Context, w io.Writer) error {
	sockets := pluginSockets
	if (hostplugin.Service{}).Listens(ctx) { // a package's
		sockets = nil
	}
	for _, socket := range sockets {
		if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, dir := range []string{runDir, hostrecord.DefaultDir} {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
		if err := os.Remove(dir); err != nil {
			return err
		}
		fmt.Fprintf(w, "Removed: %s\n", dir)
	}
	return nil
}
