package daemon

import (
	"fmt"
	"io"
	"slices"

	"calico.internal/libcalico/nodestart"
)

// The names of the programs, which are those of their services and sockets.
const (
	felix   = "felix"
	bgpd    = "bgpd"
	confd   = "confd"
	plugin  = "libnetwork"
	program = "calico-node"
)

// settings are what the environment asks for.
type settings struct {
	// backend is what speaks BGP: "gobgp", "bird" (the same) or "none".
	backend string
	// programs are those that must run on this host.
	programs []string
	// pluginOnHost says that the plugin is a service of the host, not of this container.
	pluginOnHost bool
	// files is whether the programs log to files.
	files bool
}

func readSettings(getenv func(string) string) (settings, error) {
	s := settings{files: getenv("CALICO_DISABLE_FILE_LOGGING") != "true"}
	var err error
	if s.backend, err = nodestart.Backend(getenv); err != nil {
		return s, err
	}
	if getenv("CALICO_DISABLE_FELIX") != "true" {
		s.programs = append(s.programs, felix)
	}
	if s.backend != "none" {
		s.programs = append(s.programs, bgpd, confd)
	}
	if value := getenv(nodestart.PluginVariable); nodestart.ServesDocker(value) {
		s.programs, s.pluginOnHost = append(s.programs, plugin), value == nodestart.PluginOnHost
	}
	return s, nil
}

// own are the programs that run in this container.
func (s settings) own() []string {
	return slices.DeleteFunc(slices.Clone(s.programs), func(name string) bool { return name == plugin && s.pluginOnHost })
}

// announce prints what users of the original know.
func (s settings) announce(out io.Writer) {
	if s.backend == "none" {
		fmt.Fprintln(out, "CALICO_NETWORKING_BACKEND is none - no BGP daemon running")
	} else {
		fmt.Fprintf(out, "CALICO_NETWORKING_BACKEND is %s - run bgpd\n", s.backend)
	}
	for _, name := range s.programs {
		switch {
		case name == plugin && s.pluginOnHost:
			fmt.Fprintln(out, "libnetwork is a service of the host")
		case name == plugin:
			fmt.Fprintln(out, "Starting libnetwork service")
		}
	}
	fmt.Fprintln(out, "Calico node started successfully")
}

// logs is how a program's log is read.
func (s settings) logs(program string) string {
	if s.files {
		return "its log says more: docker exec calico-node tail /var/log/calico/" + program + "/current"
	}
	return "its log says more: docker logs calico-node"
}
