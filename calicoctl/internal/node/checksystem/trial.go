package checksystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// inNamespace calls f in a network namespace of its own, which ends with it.
func inNamespace(f func()) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and the namespace with the thread.
		runtime.LockOSThread()
		err := syscall.Unshare(syscall.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	}()
	return <-done
}

// try is everything that is tried in a namespace. ok is false when there can be none.
func (h Host) try(ctx context.Context, t tools, used string) (out []Finding, ok bool) {
	err := inNamespace(func() {
		out = append(out, pairs())
		for _, fam := range families {
			out = append(out, sets(fam))
		}
		for _, fam := range families {
			out = append(out, iptables(ctx, t, fam, variantNFT, used), iptables(ctx, t, fam, variantLegacy, used))
		}
		out = append(out, nftables(ctx, t))
		for _, fam := range families {
			out = append(out, connections(fam))
		}
		out = append(out, containerSettings(h.Sys), forwardsIPv6(h.Sys))
	})
	f := Finding{Check: "namespace", Tried: "made a network namespace, to try the rest in"}
	if err != nil {
		f = f.is(Untried, "run the command as root, outside of containers", "refused: %v. What follows is what files tell", err)
		return append([]Finding{f}, byFiles(h.Root)...), false
	}
	return append([]Finding{f.ok("made")}, out...), true
}

// anyLink is there in each namespace, and has the settings that a container's interface has.
const anyLink = "lo"

// writable is the cure of settings that cannot be written.
const writable = "make /proc/sys writable for root (a container needs --security-opt systempaths=unconfined)"

// containerSettings writes what felix writes for a container's interface.
func containerSettings(sys string) Finding {
	f := Finding{Check: "sysctl of containers", Tried: "wrote proxy_arp, arp_ignore, rp_filter, forwarding and proxy_delay of an interface"}
	const conf = "net/ipv4/conf/" + anyLink + "/"
	for _, s := range [][2]string{
		{conf + "proxy_arp", "1"},
		{conf + "arp_ignore", "3"},
		{conf + "rp_filter", "0"},
		{conf + "forwarding", "1"},
		{"net/ipv4/neigh/" + anyLink + "/proxy_delay", "0"},
	} {
		if err := writeSetting(sys, s[0], s[1]); err != nil {
			return f.is(Fault, writable, "%v", err)
		}
	}
	return f.ok("written")
}

func forwardsIPv6(sys string) Finding {
	f := Finding{Check: "IPv6 forwarding", Tried: "switched it on in the namespace"}
	for _, name := range []string{"net/ipv6/conf/all/forwarding", "net/ipv6/conf/" + anyLink + "/proxy_ndp"} {
		err := writeSetting(sys, name, "1")
		if errors.Is(err, fs.ErrNotExist) {
			return f.is(Warning, "start the kernel without ipv6.disable=1 if containers are to have IPv6", "the kernel has no IPv6: %v", err)
		}
		if err != nil {
			return f.is(Warning, writable, "%v", err)
		}
	}
	return f.ok("works")
}

func writeSetting(sys, name, value string) error {
	path := filepath.Join(sys, name)
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return err
	}
	if now := readSetting(sys, name); now != value {
		return fmt.Errorf("%s is %q after %s was written", path, now, value)
	}
	return nil
}

// readSetting is empty for a setting that the kernel does not have.
func readSetting(sys, name string) string {
	data, err := os.ReadFile(filepath.Join(sys, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
