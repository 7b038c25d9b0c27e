package launch

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/nodestart"
)

// SecretsFile holds what of the container's environment nobody may see; only root may
// read it.
const SecretsFile = hostrecord.DefaultDir + "/calico-node.env"

// variable is one of the container's environment.
type variable struct{ name, value string }

func (v variable) String() string { return v.name + "=" + v.value }

// secretName tells names of variables whose values are secrets.
var secretName = regexp.MustCompile(`(?i)password|passwd|passphrase|secret|token|credential|api_?key|private_?key`)

// secret says whether nobody may see the value. A name that ends like that of a file is
// one of a path.
func (v variable) secret() bool {
	return v.value != "" && secretName.MatchString(v.name) && !strings.HasSuffix(strings.ToUpper(v.name), "_FILE")
}

// Command is the docker command line, in a fixed order so that two runs can be
// compared. It holds no secret: those come from [SecretsFile].
func Command(o Options, etcd etcdstore.Config) []string {
	args := []string{"docker", "run", "--net=host"}
	args = append(args, rights(o)...)
	args = append(args, "--name="+ContainerName)
	if o.InitSystem {
		args = append(args, "--rm")
	} else {
		args = append(args, "-d", "--restart=always")
	}
	return append(args, world(o, etcd, SecretsFile, volumes(o))...)
}

// world is the rest of a command line: what the container sees, and its image.
func world(o Options, etcd etcdstore.Config, secretsFile string, volumes []string) []string {
	var args []string
	open, secret := environment(o, etcd)
	for _, v := range open {
		args = append(args, "-e", v.String())
	}
	if len(secret) > 0 {
		args = append(args, "--env-file="+secretsFile)
	}
	for _, v := range volumes {
		args = append(args, "-v", v)
	}
	return append(args, o.Image)
}

// CheckCommand is the command line of a container that says whether the start-up would be
// done, and changes nothing. mounts are those of its volumes that are there.
func CheckCommand(o Options, etcd etcdstore.Config, secretsFile string, mounts []string) []string {
	args := []string{"docker", "run", "--rm", "--net=host", "--name=" + checkName, "--entrypoint=calico-node"}
	if o.UserNamespaces {
		args = append(args, "--userns=host")
	}
	args = append(args, world(o, etcd, secretsFile, mounts)...)
	args = append(args, "startup", "--check")
	if o.Force {
		args = append(args, "--force")
	}
	return args
}

// What the programs need instead of --privileged, which some hosts refuse:
//
//	NET_ADMIN  routes, links, sets, rules, conntrack entries, settings below net (felix, bgpd,
//	           the plugin)
//	NET_RAW    the raw sockets by which iptables, and felix itself, speak with the kernel
//	SYS_ADMIN  making /proc/sys, which engines mount read-only, writable in the container
//	           (calico-node)
//
// AppArmor's profile for containers forbids mounts, and writing to /proc/sys, whatever the
// capabilities are.
var (
	capabilities    = []string{"NET_ADMIN", "NET_RAW", "SYS_ADMIN"}
	securityOptions = []string{"apparmor=unconfined"}
)

func rights(o Options) []string {
	var args []string
	if o.UserNamespaces {
		args = append(args, "--userns=host")
	}
	if o.Privileged {
		return append(args, "--privileged")
	}
	for _, c := range capabilities {
		args = append(args, "--cap-add="+c)
	}
	for _, s := range securityOptions {
		args = append(args, "--security-opt="+s)
	}
	return args
}

// environment is the container's, without and with secrets. What the user gives by --env
// and --felix comes last and wins.
func environment(o Options, etcd etcdstore.Config) (open, secret []variable) {
	all := []variable{
		{"NODENAME", o.Name},
		{"CALICO_NETWORKING_BACKEND", o.Backend},
		{nodestart.PluginVariable, o.pluginPlace()},
		{"ETCD_ENDPOINTS", strings.Join(etcd.Endpoints, ",")},
		{"IP", o.IP},
		{"IP6", o.IP6},
		{"AS", o.AS},
		{"IP_AUTODETECTION_METHOD", o.IPMethod},
		{"IP6_AUTODETECTION_METHOD", o.IP6Method},
	}
	if o.NoDefaultPools {
		all = append(all, variable{"NO_DEFAULT_POOLS", "true"})
	}
	all = slices.Concat(all, o.Pool4.variables(4), o.Pool6.variables(6))
	if !o.DisableDockerNetworking {
		all = append(all, variable{"CALICO_LIBNETWORK_IFPREFIX", o.IfPrefix}, variable{"CALICO_LIBNETWORK_SCOPE", o.Scope})
	}
	if o.UseLabels {
		all = append(all, variable{"CALICO_LIBNETWORK_CREATE_PROFILES", "false"}, variable{"CALICO_LIBNETWORK_LABEL_ENDPOINTS", "true"})
	}
	all = append(all, o.Certificates.variables()...)
	all = append(all, variable{"ETCD_USERNAME", etcd.Username}, variable{"ETCD_PASSWORD", etcd.Password}, variable{hostrecord.BootFileVariable, o.BootFile})
	all = slices.DeleteFunc(all, func(v variable) bool { return v.value == "" })
	for _, text := range o.Felix {
		name, value, _ := strings.Cut(text, "=")
		all = replaceVariable(all, variable{"FELIX_" + strings.ToUpper(name), value})
	}
	for _, text := range o.Env {
		name, value, _ := strings.Cut(text, "=")
		all = replaceVariable(all, variable{name, value})
	}
	for _, v := range all {
		if v.secret() {
			secret = append(secret, v)
		} else {
			open = append(open, v)
		}
	}
	return open, secret
}

func replaceVariable(all []variable, v variable) []variable {
	all = slices.DeleteFunc(all, func(o variable) bool { return o.name == v.name })
	return append(all, v)
}

// Secrets is the text of [SecretsFile], in the form that docker --env-file reads; empty
// when there is no secret.
func Secrets(o Options, etcd etcdstore.Config) string {
	var text strings.Builder
	_, secret := environment(o, etcd)
	for _, v := range secret {
		fmt.Fprintln(&text, v)
	}
	return text.String()
}

// SecretNames are the names of the variables that are secrets.
func SecretNames(o Options, etcd etcdstore.Config) []string {
	var names []string
	_, secret := environment(o, etcd)
	for _, v := range secret {
		names = append(names, v.name)
	}
	return names
}

// volumes share with the container: the logs, what the host remembers, the programs'
// sockets, and /run as a whole, which holds Docker's socket, its plugin folder, its
// sandboxes and the lock of iptables. Mounting Docker's socket by itself would keep a dead
// one after the engine has restarted. The host's resolv.conf is shared because engines give
// also containers of the host's network the name servers of daemon.json: there that is the
// plugin, which asks the host's.
func volumes(o Options) []string {
	run := "/run:/run"
	if o.SharedRun {
		run += ":rslave"
	}
	vols := []string{o.LogDir + ":/var/log/calico", hostrecord.DefaultDir + ":" + hostrecord.DefaultDir, run, "/var/run/calico:/var/run/calico", "/etc/resolv.conf:/etc/resolv.conf:ro"}
	if o.Modules {
		vols = append(vols, "/lib/modules:/lib/modules:ro")
	}
	if o.BootFile != "" {
		vols = append(vols, o.BootFile+":"+o.BootFile+":ro")
	}
	return append(vols, o.Certificates.volumes()...)
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// Shell is a command as a line for a shell.
func Shell(command []string) string {
	words := make([]string, len(command))
	for i, w := range command {
		if !plainWord.MatchString(w) {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words[i] = w
	}
	return strings.Join(words, " ")
}
