package iptables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/rules"
)

// program makes a program that says something and ends with a code.
func program(t *testing.T, stderr string, code int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	text := fmt.Sprintf("#!/bin/sh\ncat >/dev/null\ncat >&2 <<'END'\n%s\nEND\nexit %d\n", stderr, code)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	return path
}

// TestWhatAProgramSaysIsTheError has programs end in all ways.
func TestWhatAProgramSaysIsTheError(t *testing.T) { // not in parallel: a program is not run while another child may hold its file
	for _, c := range []struct {
		name, stderr string
		code         int
		busy         bool
		want         string // behind the program's name
	}{
		{"a refusal", "iptables-restore: line 5 failed", 1, false, "exit status 1: iptables-restore: line 5 failed"},
		{"a refusal of nft", "iptables-nft-restore v1.8.9 (nf_tables): \nline 4: RULE_APPEND failed (No such file or directory): rule in chain cali-x", 4, false, "exit status 4: iptables-nft-restore v1.8.9 (nf_tables):; line 4: RULE_APPEND failed (No such file or directory): rule in chain cali-x"},
		{"advice is left out", "iptables-restore v1.8.9 (legacy): Set cali4-x doesn't exist.\n\nError occurred at line: 3\nTry `iptables-restore -h' or 'iptables-restore --help' for more information.\n", 2, false, "exit status 2: iptables-restore v1.8.9 (legacy): Set cali4-x doesn't exist.; Error occurred at line: 3"},
		{"a warning is left out", "# Warning: iptables-legacy tables present, use iptables-legacy to see them\nline 2 failed", 1, false, "exit status 1: line 2 failed"},
		{"the lock is taken", "Another app is currently holding the xtables lock; waiting (1s) for it to exit...", 4, true, "iptables is busy: Another app is currently holding the xtables lock; waiting (1s) for it to exit..."},
		{"nothing is said", "", 4, true, "iptables is busy"},
		{"nothing is said, of a refusal", "", 1, false, "exit status 1"},
		{"the lock is named, and it is a refusal", "no chain by the name of xtables lock", 1, false, "exit status 1: no chain by the name of xtables lock"},
		{"very much is said", strings.Repeat("0123456789", 100), 1, false, "exit status 1: " + strings.Repeat("0123456789", 30) + " …"},
	} {
		path := program(t, c.stderr, c.code)
		err := programs{restoreName: path}.restore(t.Context(), []byte("*filter\nCOMMIT\n"))
		if err == nil || err.Error() != path+": "+c.want || IsBusy(err) != c.busy {
			t.Errorf("%s: got %v, busy is %v\nwant %s", c.name, err, IsBusy(err), c.want)
		}
		if IsLocked(err) {
			t.Errorf("%s: felix did not look after the lock", c.name)
		}
	}
}

// TestAProgramThatCannotBeRun is none that is busy, as nothing is won by trying again soon.
func TestAProgramThatCannotBeRun(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]error{"no-such-program": exec.ErrNotFound, "/no/such/program": fs.ErrNotExist} {
		_, err := programs{saveName: name}.save(t.Context(), rules.Filter)
		if err == nil || err.Error() != name+" is not installed" || !errors.Is(err, want) || !errors.Is(err, errBusy) || IsBusy(err) {
			t.Errorf("%s: got %v, busy is %v", name, err, IsBusy(err))
		}
	}
	locked := filepath.Join(t.TempDir(), "not executable")
	if err := os.WriteFile(locked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (programs{restoreName: locked}).restore(t.Context(), nil); !errors.Is(err, fs.ErrPermission) || !errors.Is(err, errBusy) {
		t.Errorf("a program that must not be run: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (programs{restoreName: "cat"}).restore(ctx, nil); !errors.Is(err, context.Canceled) || !errors.Is(err, errBusy) {
		t.Errorf("felix ends: got %v", err)
	}
}

// TestTheRealProgramsBlameALine gives faulty inputs to the real programs of both variants: the
// error says what is wrong, or which line, and is none of being busy; of the rest of the input
// nothing is in force.
func TestTheRealProgramsBlameALine(t *testing.T) {
	for _, variant := range []string{Legacy, NFT} {
		for _, f := range rules.Families {
			targets := openTargets(t, variant)
			cmd := targets.backend.programs[f]
			for what, c := range map[string]struct {
				line  string
				blame []string // one of them is in the error
			}{
				"a set that is absent":     {"-A cali-a -m set --match-set cali-absent src -j ACCEPT", []string{"cali-absent"}},
				"a chain that is absent":   {"-A cali-a -j cali-absent", []string{"cali-absent", "line 4 failed", "line: 4"}},
				"a chain of nobody":        {"-A cali-nobody -j ACCEPT", []string{"cali-nobody", "line 4 failed", "line: 4"}},
				"an option of nobody":      {"-A cali-a --no-such-option", []string{"no-such-option"}},
				"a target of another":      {"-A cali-a -j MASQUERADE", []string{"line 6 failed", "line 4", "cali-a"}},
				"a rule that is not there": {"-D cali-a 7", []string{"line 4", "line: 4", "cali-a"}},
			} {
				input := "*filter\n:cali-a - -\n:cali-b - -\n" + c.line + "\n-A cali-b -j DROP\nCOMMIT\n"
				err := cmd.restore(t.Context(), []byte(input))
				if err == nil || IsBusy(err) || !blames(err, c.blame) {
					t.Errorf("%s IPv%d: %s: got %v", variant, f, what, err)
				}
				if text, err := cmd.save(t.Context(), rules.Filter); err != nil || strings.Contains(string(text), "cali-") {
					t.Errorf("%s IPv%d: %s: in force is %s, %v", variant, f, what, text, err)
				}
			}
			if err := cmd.restore(t.Context(), []byte("*nosuchtable\nCOMMIT\n")); err == nil || IsBusy(err) {
				t.Errorf("%s IPv%d: a table of nobody: got %v", variant, f, err)
			}
		}
	}
}

func blames(err error, words []string) bool {
	for _, w := range words {
		if strings.Contains(err.Error(), w) {
			return true
		}
	}
	return false
}

// hold takes the lock of legacy tables, which an isolated test has at a place of its own, and
// gives what gives it back.
func hold(t *testing.T) (release func()) {
	t.Helper()
	f, err := os.Open(lockPath())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { _ = f.Close() }
}

// TestNothingIsWrittenWhileAnotherHoldsTheLock takes the lock in the place of another program.
func TestNothingIsWrittenWhileAnotherHoldsTheLock(t *testing.T) {
	for _, k := range legacyKernels {
		target := k.open(t)
		release := hold(t)
		c := k.chain(t, "cali-a", marked(1, accept))
		err := target.write(t.Context(), nil, nil)
		if err != nil {
			t.Errorf("%v: nothing is to be written: got %v", k, err)
		}
		for range 2 {
			err = target.Apply(t.Context(), changesOf(c))
			if !IsLocked(err) || !IsBusy(err) || !strings.Contains(err.Error(), "write table filter: iptables is busy: another program holds the xtables lock") {
				t.Errorf("%v: got %v", k, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		AwaitLock(ctx)
		if lockFree() {
			t.Error("who stopped waiting has the lock")
		}
		waited := make(chan struct{})
		go func() { AwaitLock(t.Context()); close(waited) }()
		select {
		case <-waited:
			t.Error("nobody waits for a lock that is taken")
		default:
		}
		release()
		<-waited
		apply(t, target, c)
		k.expectRules(t, "cali-a", "--mark 0x1/0xff -j ACCEPT")
	}
}

// TestALockThatCannotBeOpenedIsFree: iptables-restore says why then.
func TestALockThatCannotBeOpenedIsFree(t *testing.T) {
	t.Setenv(lockVariable, filepath.Join(t.TempDir(), "absent", "lock"))
	if !lockFree() {
		t.Error("a lock that is nowhere is held")
	}
	AwaitLock(t.Context())
	t.Setenv(lockVariable, "")
	if got := lockPath(); got != "/run/xtables.lock" {
		t.Errorf("the lock is at %s", got)
	}
}
