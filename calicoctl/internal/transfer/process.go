package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"calico.internal/libcalico/model"
)

// SignProcess says in a lock which process of this host has it: its number, which another
// process gets in time and others have in other containers, and what tells it from these.
// What cannot be found out is left empty.
func SignProcess(l *model.Lock, pid int) {
	l.PID = pid
	l.Boot, l.PIDNamespace = here()
	if p, err := statOf(pid); err == nil {
		l.Started = p.started
	}
}

// here is the boot of this host, and the namespace in which this process sees numbers of
// processes; empty where that is hidden.
func here() (boot, namespace string) {
	if text, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		boot = strings.TrimSpace(string(text))
	}
	if name, err := os.Readlink("/proc/self/ns/pid"); err == nil {
		namespace = name
	}
	return boot, namespace
}

// life is what is known of the process that has a lock.
type life int

const (
	// unknown is that of a process that is not to be seen from here: it is on another host,
	// in another container, or of another boot of this host, or an older program did not say
	// enough.
	unknown life = iota
	runs
	died
)

// lifeOf says whether the process that has a lock still runs. This process itself does not
// count: it brings in one source at a time.
func lifeOf(l *model.Lock) life {
	boot, namespace := here()
	if boot == "" || namespace == "" || l.Boot != boot || l.PIDNamespace != namespace || l.PID <= 0 || l.Started == 0 {
		return unknown
	}
	// The kernel is asked first: /proc may hide processes of others.
	if errors.Is(syscall.Kill(l.PID, 0), syscall.ESRCH) {
		return died
	}
	switch p, err := statOf(l.PID); {
	case err != nil:
		return unknown
	case p.started != l.Started || p.dead || l.PID == os.Getpid():
		return died
	}
	return runs
}

// HolderDied says that the process that has a lock is surely no more.
func HolderDied(l *model.Lock) bool { return lifeOf(l) == died }

// stat is what /proc/<pid>/stat says of a process, as far as it is needed.
type stat struct {
	// dead is set when nobody has asked yet how it ended.
	dead bool
	// started is in clock ticks since the boot.
	started uint64
}

// The fields of /proc/<pid>/stat (proc(5)), counted from the one after the command's name.
const (
	stateField   = 0
	startedField = 19
)

func statOf(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The name stands in parentheses, and may have any in it.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) <= startedField {
		return stat{}, fmt.Errorf("/proc/%d/stat: %d fields are too few", pid, len(fields))
	}
	started, err := strconv.ParseUint(string(fields[startedField]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	state := string(fields[stateField])
	return stat{dead: state == "Z" || state == "X", started: started}, nil
}
