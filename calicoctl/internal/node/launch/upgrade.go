package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"time"

	"calico.internal/calicoctl/internal/engine"
	"calico.internal/calicoctl/internal/node/hostplugin"
	"calico.internal/libcalico/nodestart"
)

// Upgrading is what an upgrade is to do.
type Upgrading struct {
	// Image is the new one.
	Image string
	// Timeout is how long the start-up, and after it the programs, may each take.
	Timeout time.Duration
}

// Upgrade replaces the container of this host by one of another image with the same
// arguments. If that does not become ready, the former runs again.
func Upgrade(ctx context.Context, w io.Writer, u Upgrading) error {
	done, err := begin()
	if err != nil {
		return err
	}
	defer done()
	if err := checkEngine(ctx); err != nil {
		return err
	}
	s := swap{names: nodeNames, out: w, serves: launcher{logDir: DefaultLogDir}.serves, plugin: pluginMove{out: w}}
	if err := s.mend(ctx); err != nil {
		return err
	}
	was, err := readAsIs(ctx, ContainerName)
	if err != nil {
		return err
	}
	l := was.launcher(w, u.Timeout)
	s.serves = l.serves
	if was.HostConfig.autoRemove() {
		return errInit
	}
	from, to, err := was.images(ctx, w, u.Image)
	if err != nil {
		return err
	}
	if from.ID == to.ID {
		fmt.Fprintf(w, "calico-node has image %s already, version %s.\n", u.Image, to.version())
		return nil
	}
	host, err := engineHost(ctx)
	if err != nil {
		return err
	}
	body := was.successor(from, u.Image)
	if err := l.checkSuccessor(ctx, host, u.Image, body); err != nil {
		return err
	}
	s.policy, s.ready = was.HostConfig.policy(), l.begin
	s.plugin = pluginMove{out: w, back: new([]func(context.Context) error)}
	if service := (hostplugin.Service{}); service.Installed() && valueOf(list(was.Config["Env"]), nodestart.PluginVariable) == nodestart.PluginOnHost {
		s.plugin.image = u.Image
	} else {
		s.plugin.stays = true
	}
	s.create = func(ctx context.Context, name string) error { return engine.Create(ctx, host, name, body) }
	if err := s.run(ctx); err != nil {
		return err
	}
	fmt.Fprintf(w, "calico-node was of version %s and is of version %s.\n", from.version(), to.version())
	return nil
}

// engineHost is the address of the API of the engine that docker speaks with.
func engineHost(ctx context.Context) (string, error) {
	out, err := docker(ctx, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
	return strings.TrimSpace(out), err
}

// settings are a container's as the engine's API has them, in any version of it.
type settings map[string]any

// asIs is a container as the engine tells it and as it could be made again.
type asIs struct {
	Image              string
	Config, HostConfig settings
}

func readAsIs(ctx context.Context, name string) (*asIs, error) {
	out, err := docker(ctx, "container", "inspect", name)
	if err != nil {
		if strings.Contains(err.Error(), "No such container") {
			return nil, fmt.Errorf("there is no container %s on this host: start one by calicoctl node run", name)
		}
		return nil, err
	}
	return parseAsIs(out)
}

func parseAsIs(text string) (*asIs, error) {
	var all []*asIs
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&all); err != nil || len(all) != 1 {
		return nil, fmt.Errorf("docker container inspect: unexpected answer: %w", err)
	}
	return all[0], nil
}

// images are that of the container and the new one.
func (a *asIs) images(ctx context.Context, w io.Writer, ref string) (from, to *image, err error) {
	if from, err = inspectImage(ctx, a.Image); err != nil {
		return nil, nil, err
	}
	if from == nil { // it was removed by force, and what came from it is not known
		from = &image{ID: a.Image}
	}
	to, err = findImage(ctx, w, ref)
	return from, to, err
}

// successor is what the engine is asked for to make the same container of another image.
// What came from the old image is left out, so that it comes from the new one.
func (a *asIs) successor(from *image, ref string) engine.Plan {
	config, host := maps.Clone(a.Config), maps.Clone(a.HostConfig)
	for _, name := range []string{"Hostname", "Domainname"} { // the host's
		delete(config, name)
	}
	config["Image"] = ref
	for name, of := range map[string]any{
		"Cmd": from.Config.Cmd, "Entrypoint": from.Config.Entrypoint, "WorkingDir": from.Config.WorkingDir, "User": from.Config.User,
		"ExposedPorts": from.Config.ExposedPorts, "Volumes": from.Config.Volumes, "StopSignal": from.Config.StopSignal,
		"Healthcheck": from.Config.Healthcheck,
	} {
		if same(config[name], of) {
			delete(config, name)
		}
	}
	config["Env"] = slices.DeleteFunc(list(config["Env"]), func(v string) bool { return slices.Contains(from.Config.Env, v) })
	labels := settings{}
	for name, value := range object(config["Labels"]) {
		if from.Config.Labels[name] != value {
			labels[name] = value
		}
	}
	config["Labels"] = labels
	host["RestartPolicy"] = settings{"Name": "no"}
	return engine.Plan{Config: config, HostConfig: host}
}

// check is the container that says whether the start-up of a successor would be done.
func check(c engine.Plan) engine.Plan {
	config, host := maps.Clone(c.Config), maps.Clone(c.HostConfig)
	config["Entrypoint"], config["Cmd"] = []string{"calico-node"}, []string{"startup", "--check"}
	for _, right := range []string{"Privileged", "CapAdd", "SecurityOpt"} {
		delete(host, right)
	}
	var binds []string
	for _, bind := range list(host["Binds"]) {
		from, rest, _ := strings.Cut(bind, ":")
		if from == "/run" {
			continue
		}
		if !strings.Contains(rest, ":") {
			bind += ":ro"
		}
		binds = append(binds, bind)
	}
	host["Binds"] = binds
	return engine.Plan{Config: config, HostConfig: host}
}

// checkSuccessor asks the start-up of the new image whether it would be done.
func (l launcher) checkSuccessor(ctx context.Context, host, ref string, c engine.Plan) (err error) {
	if err := remove(ctx, checkName); err != nil { // of a run that was killed
		return err
	}
	if err := engine.Create(ctx, host, checkName, check(c)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove(context.WithoutCancel(ctx), checkName)) }()
	said, err := docker(ctx, "start", "--attach", checkName)
	return judgeCheck(ctx, l.out, ref, said, err)
}

// launcher knows from a container which programs must be ready in it.
func (a *asIs) launcher(w io.Writer, limit time.Duration) launcher {
	l := launcher{out: w, logDir: DefaultLogDir, limit: limit, programs: programsOf(list(a.Config["Env"]))}
	for _, bind := range list(a.HostConfig["Binds"]) {
		if from, rest, _ := strings.Cut(bind, ":"); rest == DefaultLogDir || strings.HasPrefix(rest, DefaultLogDir+":") {
			l.logDir = from
		}
	}
	return l
}

// policy is when the engine starts a container again, as docker update takes it.
func (s settings) policy() string {
	policy := object(s["RestartPolicy"])
	name, _ := policy["Name"].(string)
	if n, ok := policy["MaximumRetryCount"].(json.Number); ok && n != "0" {
		name += ":" + n.String()
	}
	if name == "" {
		return "no"
	}
	return name
}

func (s settings) autoRemove() bool { return s["AutoRemove"] == true }

// object is a value that holds others by their names.
func object(v any) map[string]any {
	switch o := v.(type) {
	case map[string]any:
		return o
	case settings:
		return o
	}
	return nil
}

// list is a value that is a list of strings.
func list(v any) []string {
	switch all := v.(type) {
	case []string:
		return slices.Clone(all)
	case []any:
		var out []string
		for _, e := range all {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

// same compares a value of the API with one of ours by their JSON, in which nothing is as
// good as empty.
func same(a, b any) bool {
	var x, y any
	for from, to := range map[*any]*any{&a: &x, &b: &y} {
		text, err := json.Marshal(*from)
		if err != nil || json.Unmarshal(text, to) != nil {
			return false
		}
		if v := reflect.ValueOf(*to); v.IsValid() && (v.Kind() == reflect.Slice || v.Kind() == reflect.Map || v.Kind() == reflect.String) && v.Len() == 0 {
			*to = nil
		}
	}
	return reflect.DeepEqual(x, y)
}

// judgeCheck says what the answer of the container that checks means.
func judgeCheck(ctx context.Context, w io.Writer, ref, said string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case ok && exit.ExitCode() == exitRefused && strings.TrimSpace(said) != "":
		return fmt.Errorf("calico/node would not start here:\n%s\nNothing was changed", quote(strings.TrimSuffix(strings.TrimSpace(said), "Terminating")))
	case ok && (exit.ExitCode() == exitNoProgram || exit.ExitCode() == exitNoOption || strings.Contains(err.Error(), "executable file not found")):
		fmt.Fprintln(w, "This image cannot say beforehand whether it would start here.")
		return nil
	}
	return fmt.Errorf("the start-up of %s cannot be asked: %w\nNothing was changed", ref, err)
}
