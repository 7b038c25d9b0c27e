package launch

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// bgpPort is where bgpd listens.
const bgpPort = 179

// listener is a socket that listens for TCP.
type listener struct {
	addr  netip.AddrPort
	inode string
}

// checkPort refuses to start when another program has the port of BGP. own are the first
// processes of containers whose programs may have it, since they will be stopped.
func checkPort(proc fs.FS, o Options, own []int) error {
	if o.Backend == "none" {
		return nil
	}
	node, _ := givenAddress(o.IP)
	for _, l := range listeners(proc) {
		if l.addr.Port() != bgpPort || l.addr.Addr().IsLoopback() {
			continue
		}
		if node.IsValid() && !l.addr.Addr().IsUnspecified() && l.addr.Addr() != node {
			continue
		}
		pid := holder(proc, l.inode)
		if pid != 0 && descends(proc, pid, own) || pid == 0 && len(own) > 0 {
			continue
		}
		return fmt.Errorf("port %d on %s, which BGP needs, is taken by %s: stop it, or use --backend=none", bgpPort, l.addr.Addr(), nameOf(proc, pid))
	}
	return nil
}

// listening is the state of a listening socket in /proc/net/tcp (TCP_LISTEN).
const listening = "0A"

// listeners reads /proc/net/tcp and tcp6.
func listeners(proc fs.FS) []listener {
	var all []listener
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		f, err := proc.Open(name)
		if err != nil {
			continue // no IPv6
		}
		for scan := bufio.NewScanner(f); scan.Scan(); {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …
			fields := strings.Fields(scan.Text())
			if len(fields) < 10 || fields[3] != listening {
				continue
			}
			if addr, ok := parseSocket(fields[1]); ok {
				all = append(all, listener{addr, fields[9]})
			}
		}
		_ = f.Close()
	}
	return all
}

// parseSocket reads an address as /proc/net/tcp has it: words of four bytes in the host's
// order, which is taken for little-endian, and the port.
func parseSocket(text string) (netip.AddrPort, bool) {
	a, p, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(a)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(raw, 4) {
		slices.Reverse(word)
	}
	addr, ok := netip.AddrFromSlice(raw)
	port, err := strconv.ParseUint(p, 16, 16)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), ok && err == nil
}

// holder is the process that has a socket; 0 when none that can be seen has.
func holder(proc fs.FS, inode string) int {
	socket := "socket:[" + inode + "]"
	entries, err := fs.ReadDir(proc, ".")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := path.Join(e.Name(), "fd")
		open, err := fs.ReadDir(proc, dir)
		if err != nil {
			continue // it has ended
		}
		for _, fd := range open {
			if target, err := fs.ReadLink(proc, path.Join(dir, fd.Name())); err == nil && target == socket {
				return pid
			}
		}
	}
	return 0
}

// descends says whether a process is one of some, or their descendant.
func descends(proc fs.FS, pid int, of []int) bool {
	for pid > 1 {
		if slices.Contains(of, pid) {
			return true
		}
		text, err := fs.ReadFile(proc, path.Join(strconv.Itoa(pid), "stat"))
		if err != nil {
			return false
		}
		// PID (COMMAND) STATE PPID …, and the command may hold anything.
		rest := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(rest) < 2 {
			return false
		}
		if pid, err = strconv.Atoi(rest[1]); err != nil {
			return false
		}
	}
	return false
}

func nameOf(proc fs.FS, pid int) string {
	name, err := fs.ReadFile(proc, path.Join(strconv.Itoa(pid), "comm"))
	if pid == 0 || err != nil {
		return "another program"
	}
	return fmt.Sprintf("%s (process %d)", strings.TrimSpace(string(name)), pid)
}
