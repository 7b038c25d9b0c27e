package launch

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"calico.internal/calicoctl/internal/node/hostplugin"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/nodestart"
)

// The values of --plugin.
const (
	PluginInContainer = "container"
	PluginOnHost      = "host"
)

func (o *Options) onHost() bool { return o.Plugin == PluginOnHost }

// pluginPlace is the value of the container's variable.
func (o *Options) pluginPlace() string {
	switch {
	case o.DisableDockerNetworking:
		return "false"
	case o.onHost():
		return nodestart.PluginOnHost
	}
	return nodestart.PluginInContainer
}

func (o *Options) checkPlugin() error {
	switch {
	case o.Plugin != "" && o.Plugin != PluginInContainer && o.Plugin != PluginOnHost:
		return fmt.Errorf("--plugin=%s: use container or host", o.Plugin)
	case o.onHost() && o.DisableDockerNetworking:
		return errors.New("--plugin=host and --disable-docker-networking exclude each other")
	case o.onHost() && o.InitSystem:
		return errors.New("--plugin=host makes a service, which --init-system does not: run it once without --init-system")
	}
	return nil
}

// pluginMove brings the plugin to where a new container expects it, and back if that fails. The
// zero value moves it nowhere but into the container.
type pluginMove struct {
	out     io.Writer
	service hostplugin.Service
	// image is that of which the service is made; empty if it is to go. stays leaves the service
	// as it is.
	image string
	stays bool
	// variables are the service's; nil leaves those that it has.
	variables []string
	// back undoes what was done.
	back *[]func(context.Context) error
}

// pluginOf is what options ask for.
func pluginOf(w io.Writer, o Options, etcd etcdstore.Config) pluginMove {
	m := pluginMove{out: w, back: new([]func(context.Context) error)}
	if o.onHost() {
		m.image, m.variables = o.Image, serviceVariables(o, etcd)
		return m
	}
	open, secret := environment(o, etcd)
	for _, v := range append(open, secret...) {
		// --env may say that a service serves, whoever keeps it.
		m.stays = m.stays || v.name == nodestart.PluginVariable && v.value == nodestart.PluginOnHost
	}
	return m
}

// notForPlugin begin the names of variables that are for other programs.
var notForPlugin = []string{"IP=", "IP6=", "AS=", "IP_", "IP6_", "FELIX_", "CALICO_IPV", "NO_DEFAULT_POOLS=", "CALICO_NETWORKING_BACKEND=", nodestart.PluginVariable + "="}

// serviceVariables are those of the service. Certificates are where they lie on the host.
func serviceVariables(o Options, etcd etcdstore.Config) []string {
	inside := map[string]string{}
	for _, v := range o.Certificates.variables() {
		inside[v.String()] = v.name
	}
	all := []string{}
	open, secret := environment(o, etcd)
variables:
	for _, v := range append(open, secret...) {
		text := v.String()
		for _, prefix := range notForPlugin {
			if strings.HasPrefix(text, prefix) {
				continue variables
			}
		}
		for _, c := range o.Certificates.files {
			if inside[text] == c.variable { // not one that --env gives
				text = c.variable + "=" + c.onHost
			}
		}
		all = append(all, text)
	}
	return all
}

// prepare is done while the old container still runs. A plugin that comes to the host holds the
// sockets from here on, and calls wait in them until start. One that leaves the host answers
// all its calls, for which the old felix is needed.
func (m pluginMove) prepare(ctx context.Context) error {
	switch {
	case m.stays:
		return nil
	case m.image == "":
		if !m.service.Installed() {
			return nil
		}
		fmt.Fprintln(m.out, "Stopping the plugin's service of this host; calls of Docker's engine are repeated until the container answers them.")
		m.onUndo(func(ctx context.Context) error {
			return errors.Join(m.service.Listen(ctx), m.service.Start(ctx))
		})
		return m.service.Withdraw(ctx)
	}
	had := m.service.Installed()
	changed, undo, err := m.install(ctx)
	if err != nil {
		return err
	}
	m.onUndo(func(ctx context.Context) error {
		if !had {
			return errors.Join(m.service.Withdraw(ctx), undo(ctx))
		}
		if err := undo(ctx); err != nil || !changed {
			return err
		}
		return m.service.Restart(ctx)
	})
	if err := m.service.Listen(ctx); err != nil {
		return err
	}
	if had && changed {
		return m.service.Restart(ctx)
	}
	return nil
}

func (m pluginMove) install(ctx context.Context) (changed bool, undo func(context.Context) error, err error) {
	program, done, err := programOf(ctx, m.image)
	if err != nil {
		return false, nil, fmt.Errorf("the plugin of %s: %w", m.image, err)
	}
	defer func() { err = errors.Join(err, done()) }()
	changed, undo, err = m.service.Install(ctx, hostplugin.Content{Program: program, Variables: m.variables})
	if err == nil && changed {
		fmt.Fprintf(m.out, "The plugin is %s, with %s (mode 0600), as the service %s.\n", hostplugin.Program, hostplugin.Environment, hostplugin.ServiceUnit)
	}
	return changed, undo, err
}

// programOf reads the plugin's program out of an image.
func programOf(ctx context.Context, image string) (program io.Reader, done func() error, err error) {
	if err := remove(ctx, checkName); err != nil { // of a run that was killed
		return nil, nil, err
	}
	if _, err := docker(ctx, "create", "--network=none", "--name="+checkName, image); err != nil {
		return nil, nil, err
	}
	drop := func() error { return remove(context.WithoutCancel(ctx), checkName) }
	cmd := exec.CommandContext(ctx, "docker", "cp", checkName+":/usr/local/bin/libnetwork-plugin", "-")
	archive, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, nil, errors.Join(err, drop())
	}
	done = func() error {
		_, err := io.Copy(io.Discard, archive)
		return errors.Join(err, cmd.Wait(), drop())
	}
	files := tar.NewReader(archive)
	header, err := files.Next()
	if err == nil && header.Typeflag != tar.TypeReg {
		err = errors.New("it is no file")
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("docker cp: %w", err), done())
	}
	return files, done, nil
}

// start has a service run once the plugin of the old container has ended.
func (m pluginMove) start(ctx context.Context) error {
	if m.stays || m.image == "" {
		return nil
	}
	return m.service.Start(ctx)
}

// end takes away what is not used any more.
func (m pluginMove) end(ctx context.Context) error {
	if m.stays || m.image != "" {
		return nil
	}
	return m.service.Remove(ctx)
}

func (m pluginMove) onUndo(f func(context.Context) error) {
	if m.back != nil {
		*m.back = append(*m.back, f)
	}
}

// undo puts the plugin back to where it was.
func (m pluginMove) undo(ctx context.Context) error {
	if m.back == nil {
		return nil
	}
	var errs []error
	for _, f := range *m.back {
		errs = append(errs, f(ctx))
	}
	*m.back = nil
	return errors.Join(errs...)
}

// suit brings the plugin to where a container with this environment expects it, after a run
// that was interrupted.
func (m pluginMove) suit(ctx context.Context, env []string) error {
	switch {
	case !m.service.Installed():
		return nil
	case valueOf(env, nodestart.PluginVariable) == nodestart.PluginOnHost:
		return errors.Join(m.service.Listen(ctx), m.service.Start(ctx))
	}
	return m.service.Remove(ctx)
}
