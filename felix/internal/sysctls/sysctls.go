// Package sysctls keeps the kernel's settings of workload interfaces, and the host's
// forwarding, at the values that routing to containers needs.
//
//	proxy_arp = 1        the host answers ARP for the containers' gateway 169.254.1.1
//	proxy_delay = 0      and does so at once
//	arp_ignore = 3       and does so where the host's owner set 1 or 2 for all interfaces:
//	                     the larger of the two values is in force, and 3 lets addresses of
//	                     scope link be answered, whatever interface has them
//	forwarding = 1       packets from the container are routed
//	rp_filter = 0        felix's rule in the raw table does the reverse-path check, and
//	                     does it where a host's setting of 2 would switch it off
//	accept_ra = 0        a container cannot tell the host an IPv6 router
//
// and where the container has IPv6
//
//	proxy_ndp = 1        the IPv6 twin of proxy_arp
//	forwarding = 1       likewise
//	disable_ipv6 = 0     the host may have IPv6 off for new interfaces
//
// route_localnet stays off: with it a container reaches what listens on the host's
// 127.0.0.1.
//
// Of the host's own settings felix sets two, which make it a router. Its others are its
// owner's; where one of them harms containers, felix says so and leaves it.
package sysctls

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"calico.internal/libcalico/reconcile"
)

// Root is where the kernel shows its settings.
const Root = "/proc/sys"

// Key is the path of a setting below /proc/sys, such as
// "net/ipv4/conf/cali0123/proxy_arp". A path, unlike the dotted form, can hold a name
// with dots.
type Key string

// Compare orders settings by path.
func (k Key) Compare(o Key) int { return strings.Compare(string(k), string(o)) }

// ForwardIPv4 and ForwardIPv6 make the host a router.
const (
	ForwardIPv4 Key = "net/ipv4/ip_forward"
	ForwardIPv6 Key = "net/ipv6/conf/all/forwarding"
	// RPFilterAll is the reverse-path check that the kernel applies to all interfaces,
	// unless an interface's own is stricter.
	RPFilterAll Key = "net/ipv4/conf/all/rp_filter"
	// ARPIgnoreAll is what ARP requests the kernel leaves without an answer on all
	// interfaces, unless an interface's own value is larger.
	ARPIgnoreAll Key = "net/ipv4/conf/all/arp_ignore"
	// DisableIPv6All switches IPv6 off on the interfaces there are when it is written.
	DisableIPv6All Key = "net/ipv6/conf/all/disable_ipv6"
)

// ForwardIPv4Of says whether IPv4 packets that come in by an interface are routed.
func ForwardIPv4Of(iface string) Key { return Key("net/ipv4/conf/" + iface + "/forwarding") }

// OfInterface is what a workload's interface needs; ipv6 says that the workload has IPv6.
func OfInterface(name string, ipv6 bool) map[Key]string {
	v4, v6 := "net/ipv4/conf/"+name+"/", "net/ipv6/conf/"+name+"/"
	out := map[Key]string{
		Key(v4 + "proxy_arp"):                          "1",
		Key(v4 + "arp_ignore"):                         "3",
		ForwardIPv4Of(name):                            "1",
		Key(v4 + "rp_filter"):                          "0",
		Key(v4 + "route_localnet"):                     "0",
		Key("net/ipv4/neigh/" + name + "/proxy_delay"): "0",
		Key(v6 + "accept_ra"):                          "0",
	}
	if ipv6 {
		out[Key(v6+"proxy_ndp")] = "1"
		out[Key(v6+"forwarding")] = "1"
		out[Key(v6+"disable_ipv6")] = "0"
	}
	return out
}

// Target writes settings. It lists those that it has been asked to set; a setting that
// this kernel does not have counts as set.
type Target struct {
	root string
	host Host
	keys map[Key]string
}

// Host tells a [Target] about the host.
type Host struct {
	// Own reports whether an interface is the host's own, not a workload's.
	Own func(iface string) bool
	// Raised is told of the host's interfaces that go on taking routers' advertisements
	// because the target saw to it; see [Target.Apply].
	Raised func(ifaces []string)
}

// New is the target below a directory, normally [Root].
func New(root string, host Host) *Target {
	return &Target{root: root, host: host, keys: map[Key]string{}}
}

// List reads the settings that were set before.
func (t *Target) List(context.Context) (map[Key]string, error) {
	out := make(map[Key]string, len(t.keys))
	for key, want := range t.keys {
		value, err := t.Read(key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			out[key] = want
		case err != nil:
			return nil, err
		default:
			out[key] = value
		}
	}
	return out, nil
}

// Apply writes settings. One that is no longer wanted keeps its value.
//
// Before it switches forwarding of IPv6 on, it sees to it that the host keeps the routes
// that it has by routers' advertisements: a host that forwards forgets them, and takes no
// more, on interfaces whose accept_ra is 1; with 2 nothing changes for them.
func (t *Target) Apply(_ context.Context, c reconcile.Changes[Key, string]) error {
	var faults reconcile.KeyErrors[Key]
	for _, s := range c.Set {
		t.keys[s.Key] = s.Value
		if err := t.set(s.Key, s.Value); err != nil {
			faults.Add(s.Key, err)
		}
	}
	for _, key := range c.Delete {
		delete(t.keys, key)
	}
	return faults.Err()
}

// set writes a setting unless it has the value already: a write of the same value can
// have effects, such as a new round of router solicitation.
func (t *Target) set(key Key, value string) error {
	if !filepath.IsLocal(string(key)) {
		return fs.ErrInvalid
	}
	now, err := t.Read(key)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && now == value) {
		return nil
	}
	if value != off && forwardsIPv6(key) {
		if err := t.keepAdvertisedRoutes(); err != nil {
			return fmt.Errorf("forwarding would take routes by advertisement away: %w", err)
		}
	}
	return t.write(key, value)
}

func (t *Target) write(key Key, value string) error {
	if err := os.WriteFile(t.path(key), []byte(value), 0); err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return fmt.Errorf("set to %s: %w", value, err)
	}
	return nil
}

// Read reads a setting.
func (t *Target) Read(key Key) (string, error) {
	text, err := os.ReadFile(t.path(key))
	if err != nil {
		return "", fmt.Errorf("read setting: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func (t *Target) path(key Key) string { return filepath.Join(t.root, filepath.FromSlash(string(key))) }
