package launch

import "os"

// BGPPortHolder names the program that listens on the port of BGP, other than on loopback
// addresses; it is empty when none does.
func BGPPortHolder() string {
	proc := os.DirFS("/proc")
	for _, l := range listeners(proc) {
		if l.addr.Port() == bgpPort && !l.addr.Addr().IsLoopback() {
			return nameOf(proc, holder(proc, l.inode))
		}
	}
	return ""
}
