package checksystem

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"calico.internal/calicoctl/internal/node/hostplugin"
)

// engineInfo is what is read of Docker's engine.
type engineInfo struct {
	ServerVersion      string
	LiveRestoreEnabled bool
	SecurityOptions    []string
	// ClusterStore is the store by which engines up to 20.10 share their networks.
	ClusterStore string
	// nodePID is the first process of calico-node's container; 0 when it does not run.
	nodePID int
}

// askEngine asks Docker's engine of this host.
func askEngine(ctx context.Context) (info engineInfo, out []Finding) {
	f := Finding{Check: "Docker engine", Tried: "asked it for its version"}
	text, err := docker(ctx, "info", "--format", "{{json .}}")
	if errors.Is(err, exec.ErrNotFound) {
		return info, []Finding{f.is(Warning, "install Docker on this host", "the docker command is not installed")}
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &info)
	}
	if err == nil && info.ServerVersion == "" { // docker info ends well without an engine
		err = errors.New("there is no answer")
	}
	if err != nil && os.Geteuid() != 0 {
		return info, []Finding{f.is(Untried, "run the command as root", "%v", err)}
	}
	if err != nil {
		return info, []Finding{f.is(Fault, "start it (systemctl start docker), and see what its log says", "%v", err)}
	}
	out = append(out, f.ok("%s answers", info.ServerVersion), info.liveRestore(), info.userNamespaces())
	if hostplugin.Booted() {
		out = append(out, pluginPlace(hostplugin.Recommended(ctx)))
	}
	if pid, err := docker(ctx, "container", "inspect", "--format", "{{.State.Pid}}", "calico-node"); err == nil {
		info.nodePID, _ = strconv.Atoi(strings.TrimSpace(pid)) // 0 is as good as none
	}
	return info, out
}

// docker asks the docker client.
func docker(ctx context.Context, args ...string) (string, error) {
	return tools{}.run(ctx, "", "docker", args...)
}

func (i engineInfo) liveRestore() Finding {
	f := Finding{Check: "live-restore", Tried: "asked the engine"}
	if i.LiveRestoreEnabled {
		return f.ok("on")
	}
	return f.is(Warning, `put "live-restore": true into /etc/docker/daemon.json and reload the engine (systemctl reload docker)`,
		"off: a restart of the engine stops all containers, calico-node among them, and then waits for the plugin in it before it starts any: minutes on a full host. With it they run on")
}

// pluginPlace is about where Docker's plugin runs on a host of systemd's.
func pluginPlace(recommended bool) Finding {
	f := Finding{Check: "plugin", Tried: "asked systemd for its sockets"}
	if !recommended {
		return f.ok("systemd holds its sockets: a service of the host")
	}
	return f.is(Warning, "run calico-node by `calicoctl node run --plugin=host`", "no service of the host; as one, %s", hostplugin.Why)
}

func (i engineInfo) userNamespaces() Finding {
	f := Finding{Check: "user namespaces", Tried: "asked the engine"}
	for _, o := range i.SecurityOptions {
		switch name, _, _ := strings.Cut(strings.TrimPrefix(o, "name="), ","); name {
		case "rootless":
			return f.is(Fault, "use an engine that runs as root", "the engine runs without root: calico-node could not change the host's network")
		case "userns":
			return f.ok("on; `node run` gives calico-node --userns=host")
		}
	}
	return f.ok("off")
}
