package lab

import (
	"context"
	"fmt"
	"time"
)

// EngineRestart is how long a restart of an engine took.
type EngineRestart struct {
	// Stop is from the signal until the former engine had ended, Start from then until the next one
	// answered.
	Stop, Start time.Duration
}

func (r EngineRestart) String() string {
	return fmt.Sprintf("it ended in %.1f s, and %.1f s later the next one answered", r.Stop.Seconds(), r.Start.Seconds())
}

// RestartEngine restarts the engine of a host, as systemctl restart docker would.
func (h Host) RestartEngine(ctx context.Context) (EngineRestart, error) {
	begun := time.Now()
	if _, err := h.On(ctx, "lab-host-engine stop"); err != nil {
		return EngineRestart{}, err
	}
	ended := time.Now()
	if _, err := h.On(ctx, "lab-host-engine start"); err != nil {
		return EngineRestart{}, err
	}
	return EngineRestart{ended.Sub(begun), time.Since(ended)}, nil
}

// PluginOnHost is what is typed to make the plugin of a host a service of it, for which a holder of its sockets stands
// in: the lab has no systemd.
func (l *Lab) PluginOnHost(h Host) []string {
	return []string{
		fmt.Sprintf("lab-host-plugin on calico/node:%s %s", l.Version, h.Node),
		fmt.Sprintf("calicoctl node run --ip=%s --name %s --env CALICO_LIBNETWORK_ENABLED=host", h.IP, h.Node),
	}
}

// PluginInContainer is what is typed to put it back into calico-node.
func (l *Lab) PluginInContainer(h Host) []string {
	return []string{"lab-host-plugin off", fmt.Sprintf("calicoctl node run --ip=%s --name %s", h.IP, h.Node)}
}
