// Package nodename says what this host is called in the datastore. All programs on a
// host must agree on that, and HOSTNAME is no help: inside a container it is the
// container's, and on the host a shell's.
package nodename

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"calico.internal/libcalico/model"
)

// File is where start-up writes the name for programs that are started without it.
const File = "/var/run/calico/nodename"

// Resolve returns, of these, the first that says something: the name given explicitly
// (a flag or the program's own variable), NODENAME, the file [File], the host's name
// in lower case.
func Resolve(explicit string, getenv func(string) string) (string, error) {
	n, err := Find(explicit, getenv)
	return n.Node, err
}

// Name is what this host is called.
type Name struct {
	// Node is its name in the datastore.
	Node string
	// Host is its own name, from which Node was made; empty when somebody has said what Node
	// is to be.
	Host string
}

// Find is [Resolve] for who must know where the name came from.
func Find(explicit string, getenv func(string) string) (Name, error) {
	return find(explicit, getenv, File, os.Hostname)
}

func find(explicit string, getenv func(string) string, file string, hostname func() (string, error)) (Name, error) {
	if name := strings.TrimSpace(explicit); name != "" {
		return check(name, "the node name that was given")
	}
	if name := strings.TrimSpace(getenv("NODENAME")); name != "" {
		return check(name, "the node name in NODENAME")
	}
	content, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Name{}, fmt.Errorf("node name: %w", err)
	}
	if name := strings.TrimSpace(string(content)); name != "" {
		return check(name, "the node name in "+file)
	}
	host, err := hostname()
	if err != nil {
		return Name{}, fmt.Errorf("node name: %w", err)
	}
	host = strings.TrimSpace(host)
	n, err := check(strings.ToLower(host), "the host's name")
	n.Host = host
	return n, err
}

func check(name, origin string) (Name, error) {
	for _, fault := range model.Faults(model.Validate(model.NodeKey{Name: name}, &model.Node{})) {
		return Name{}, fmt.Errorf("%s, %q, cannot be used: it %s; set NODENAME", origin, name, fault.Reason)
	}
	return Name{Node: name}, nil
}
