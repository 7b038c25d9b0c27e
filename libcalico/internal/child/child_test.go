package child_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"calico.internal/libcalico/internal/child"
)

func TestChildOutlivesTheThreadOfItsCaller(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var done <-chan error
	var caller sync.WaitGroup
	caller.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done, err = child.Start(cmd)
	})
	caller.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil { // the child's reason to end, and to do so well
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the child ended with: %v", err)
	}
}

func TestStartSaysWhatFailed(t *testing.T) {
	t.Parallel()
	done, err := child.Start(exec.Command("/nonexistent/program"))
	if err == nil {
		t.Fatal("a program that is not there was started")
	}
	if err, open := <-done; open {
		t.Errorf("the end of a child that never was: %v", err)
	}
}

func TestDoneTellsHowTheChildEnded(t *testing.T) {
	t.Parallel()
	done, err := child.Start(exec.Command("sh", "-c", "exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := <-done; !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("ended with %v, want exit status 3", err)
	}
}

func TestAFrozenProcessHasStopped(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	ended, err := child.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	for range 50 {
		if err := child.Freeze(pid); err != nil {
			t.Fatal(err)
		}
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || !strings.Contains(string(stat), "(sh) T ") {
			t.Fatalf("it runs: %s, %v", stat, err)
		}
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Process.Kill()
	<-ended
	if err := child.Freeze(pid); err == nil {
		t.Error("a process that is not there was stopped")
	}
}
