package checksystem

import (
	"fmt"
	"io/fs"
	"strings"
)

// The states of a finding.
const (
	// OK says that it works.
	OK = "ok"
	// Warning says that it works, or not, and that containers can live with it.
	Warning = "warning"
	// Fault says that containers cannot work with it.
	Fault = "fault"
	// Untried says that it could not be found out here; Cure says how it can.
	Untried = "untried"
)

// Finding is one thing that was tried, and what came of it.
type Finding struct {
	Check string `json:"check"`
	State string `json:"state"`
	// Tried says what was done to find out.
	Tried string `json:"tried"`
	// Found says what came of it.
	Found string `json:"found,omitempty"`
	// Cure says what to do about it.
	Cure string `json:"cure,omitempty"`
}

func (f Finding) ok(format string, args ...any) Finding {
	f.State, f.Found = OK, fmt.Sprintf(format, args...)
	return f
}

// is gives the finding a state other than ok, and what to do.
func (f Finding) is(state, cure, format string, args ...any) Finding {
	f.State, f.Found, f.Cure = state, fmt.Sprintf(format, args...), cure
	return f
}

// System is what was found out about a host.
type System struct {
	Kernel string    `json:"kernel"`
	Checks []Finding `json:"checks"`
	// OK says that there is no fault.
	OK bool `json:"ok"`
}

// In lists the findings in a state.
func (s System) In(state string) (out []Finding) {
	for _, f := range s.Checks {
		if f.State == state {
			out = append(out, f)
		}
	}
	return out
}

// byFiles is what files tell of the kernel where nothing can be tried.
func byFiles(root fs.FS) (out []Finding) {
	for _, it := range Check(root, nil).Items[1:] { // the first is the version, which is looked at anyway
		f := Finding{Check: "module " + it.Name, Tried: "looked for it in the files of the kernel"}
		switch {
		case it.State == Found:
			f = f.ok("%s", it.How)
		case it.State == Unknown:
			f = f.is(Untried, "run the command as root, which tries it", "nothing tells; it is for %s", it.For)
		case it.Needed:
			f = f.is(Fault, "install a kernel that has it", "missing, and with it %s", it.For)
		default:
			f = f.is(Warning, "install a kernel that has it, if you need that", "missing, and with it %s", it.For)
		}
		out = append(out, f)
	}
	return out
}

func kernelVersion(root fs.FS) (string, Finding) {
	release := strings.TrimSpace(readText(root, "proc/sys/kernel/osrelease"))
	it := kernelItem(release)
	f := Finding{Check: "kernel", Tried: "read its version"}
	switch it.State {
	case Found:
		return release, f.ok("%s", release)
	case Missing:
		return release, f.is(Fault, "install a newer kernel", "%s, and %s is needed", release, it.Name)
	}
	return release, f.is(Untried, "", "the kernel's version %q cannot be read", release)
}
