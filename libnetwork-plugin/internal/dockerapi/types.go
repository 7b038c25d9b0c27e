package dockerapi

// Info is what the engine says about itself.
type Info struct {
	// ID is the engine's own.
	ID            string
	ServerVersion string
	// ClusterStore is the address of the store that spreads networks over engines up to
	// 20.10; empty without one, and always from 23.0 on.
	ClusterStore string
}

// Network is a network of the engine.
type Network struct {
	ID         string `json:"Id"`
	Name       string
	Driver     string
	Scope      string
	Internal   bool
	Attachable bool
	EnableIPv6 bool
	// EnableIPv4 is nil where the engine does not tell, as up to 27.
	EnableIPv4 *bool
	Options    map[string]string
	Labels     map[string]string
	IPAM       IPAM
	// Containers lists the endpoints: by container id, or by "ep-" and the endpoint's
	// id while the container's start is under way. Lists of networks leave it empty.
	Containers map[string]NetworkEndpoint
}

// IPAM is where a network's addresses come from.
type IPAM struct {
	Driver  string
	Options map[string]string
	Config  []Subnet
}

// Subnet is a subnet of a network: the user's, or the one that the IPAM driver chose.
type Subnet struct {
	Subnet             string
	IPRange            string            `json:",omitempty"`
	Gateway            string            `json:",omitempty"`
	AuxiliaryAddresses map[string]string `json:",omitempty"`
}

// NewNetwork is a network to be made.
type NewNetwork struct {
	Name string
	// CheckDuplicate has engines before API 1.44 refuse a second network of the name; later
	// ones always do.
	CheckDuplicate bool
	Driver         string
	Internal       bool
	Attachable     bool
	EnableIPv6     bool
	// EnableIPv4 is left out to mean yes, as engines up to 27 do not know it.
	EnableIPv4 *bool `json:",omitempty"`
	Options    map[string]string
	Labels     map[string]string
	IPAM       IPAM
}

// NetworkEndpoint is an endpoint as its network lists it.
type NetworkEndpoint struct {
	// Name is the container's name.
	Name       string
	EndpointID string
}

// Container is a container as the list of containers shows it.
type Container struct {
	ID string `json:"Id"`
	// Names are the container's names with a leading slash.
	Names           []string
	Labels          map[string]string
	State           string
	NetworkSettings struct {
		Networks map[string]Attachment
	}
}

// Attachment is a container's connection to one network. EndpointID and the
// addresses are empty while the container does not run, unless it ended by a power cut.
type Attachment struct {
	NetworkID  string
	EndpointID string
	// Aliases are the names that the user gave the container in this network, and, up to
	// engine 24, its short id. Lists of containers leave them out.
	Aliases           []string
	IPAddress         string
	GlobalIPv6Address string
}

// Details is what only the inspection of a single container shows. See the package
// comment for when it must not be asked for.
type Details struct {
	ID   string `json:"Id"`
	Name string
	// Config is what the container was created with.
	Config struct {
		Hostname string
		Labels   map[string]string
	}
	NetworkSettings struct {
		Networks map[string]Attachment
	}
	State struct {
		Status     string
		Error      string
		FinishedAt string
	}
	HostConfig struct {
		RestartPolicy struct {
			Name string
		}
	}
}

// Event is a change of a network or a container.
type Event struct {
	// Type is "network" or "container".
	Type string
	// Action is, of a network, "create" or "destroy", of a container "start" or "rename", and
	// "connect" of a network to which a container that runs was connected.
	Action string
	Actor  struct {
		ID         string
		Attributes map[string]string
	}
}

// Container returns the id of the container that the event is about, if it is about one.
func (e Event) Container() string {
	if e.Type == "container" {
		return e.Actor.ID
	}
	return e.Actor.Attributes["container"]
}

// Network returns the name and the driver of the network that the event is about.
func (e Event) Network() (name, driver string) {
	return e.Actor.Attributes["name"], e.Actor.Attributes["type"]
}
