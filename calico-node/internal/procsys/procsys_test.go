package procsys

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestMain is also the process in a mount namespace of its own, where /proc/sys has become
// read-only as in a container.
func TestMain(m *testing.M) {
	if os.Getenv("PROCSYS_CHILD") == "" {
		os.Exit(m.Run())
	}
	if err := child(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func child() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
		return err
	}
	if syscall.Access(probe, writeOK) == nil {
		return fmt.Errorf("%s is not read-only", dir)
	}
	for range 2 { // the second time there is nothing to do
		if err := MakeWritable(); err != nil {
			return err
		}
	}
	value, err := os.ReadFile(probe)
	if err != nil {
		return err
	}
	return os.WriteFile(probe, value, 0o644)
}

func TestWhatIsMountedReadOnlyBecomesWritable(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it needs root")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "PROCSYS_CHILD=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
