// Package procsys makes the kernel's settings writable in the container, where engines mount
// them read-only. It is the edge to mounts.
package procsys

import (
	"fmt"
	"syscall"
)

// dir is what is mounted read-only, and probe one of the settings that the programs write.
const (
	dir   = "/proc/sys"
	probe = dir + "/net/ipv4/ip_forward"
)

// writeOK asks access(2) whether a file can be written (W_OK).
const writeOK = 2

// MakeWritable remounts /proc/sys in this mount namespace, if it has to. CAP_SYS_ADMIN may do
// that, if no security module forbids it; so no option is needed that compose 1 does not know.
func MakeWritable() error {
	if syscall.Access(probe, writeOK) == nil {
		return nil
	}
	const flags = syscall.MS_REMOUNT | syscall.MS_BIND | syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC | syscall.MS_RELATIME
	if err := syscall.Mount("", dir, "", flags, ""); err != nil {
		return fmt.Errorf("%s is read-only in this container, and remounting it was refused (%w): start the container by calicoctl node run, "+
			"or with --cap-add=SYS_ADMIN --security-opt=apparmor=unconfined", dir, err)
	}
	return nil
}
