package services

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func lay(t *testing.T, script string, files bool) Dir {
	t.Helper()
	if _, err := exec.LookPath("runsvdir"); err != nil {
		t.Skip("runit is not installed: tools/deps.sh installs it")
	}
	top := t.TempDir()
	available := filepath.Join(top, "available")
	for _, path := range []string{"a/run", "a/log/run", "b/run", "b/log/run"} {
		text := script
		if filepath.Base(filepath.Dir(path)) == "log" {
			text = "#!/bin/sh\nexec cat >/dev/null\n"
		}
		path = filepath.Join(available, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	d := Dir(filepath.Join(top, "enabled"))
	if err := d.Lay(available, []string{"a"}, files); err != nil {
		t.Fatal(err)
	}
	return d
}

// run has runsvdir run the services until the test ends.
func run(t *testing.T, d Dir) {
	t.Helper()
	cmd := exec.Command("runsvdir", string(d))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGHUP}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGHUP) // it hands TERM on
		_ = cmd.Wait()
		eventually(t, func() bool { return len(d.Supervised([]string{"a"})) == 0 })
	})
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(10 * time.Second); !done(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("not after 10 s")
		}
	}
}

func read(t *testing.T, d Dir) Service {
	t.Helper()
	s, err := d.Read("a")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAServiceIsSeenAndObeys(t *testing.T) {
	d := lay(t, "#!/bin/sh\nexec sleep 1000\n", true)
	if s := read(t, d); s != (Service{}) {
		t.Errorf("before runsvdir: %+v", s)
	}
	if err := d.Send("a", Stop); !errors.Is(err, ErrNotSupervised) {
		t.Errorf("a command to nobody: %v", err)
	}
	w, err := d.Watch([]string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	run(t, d)
	name := <-w.Changed
	if took := time.Since(began); name != "a" || took > 800*time.Millisecond {
		t.Errorf("%q has changed after %s", name, took)
	}
	go func() {
		for range w.Changed {
		}
	}()
	defer w.Close()
	eventually(t, func() bool { return read(t, d).State == Running })
	s := read(t, d)
	if !s.Supervised || !s.Wanted || s.Last != nil || time.Since(s.Since).Abs() > 5*time.Second || syscall.Kill(s.PID, 0) != nil {
		t.Errorf("runs: %+v", s)
	}

	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { now := read(t, d); return now.State == Running && now.PID != s.PID && now.Last != nil })
	if e := read(t, d).Last; e.Code != -1 || e.Signal != 9 || time.Since(e.At) > 5*time.Second {
		t.Errorf("killed: %+v", e)
	}
	if err := d.Send("a", Stop); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return read(t, d).State == Down })
	if s := read(t, d); s.Wanted || s.PID != 0 || s.Last.Signal != 15 {
		t.Errorf("stopped: %+v, %+v", s, s.Last)
	}
}

func TestLay(t *testing.T) {
	d := lay(t, "#!/bin/sh\nexit 1\n", false)
	if _, err := os.Stat(d.file("a", "log")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a logger without files: %v", err)
	}
	if _, err := os.Stat(d.file("b")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("b was not asked for: %v", err)
	}
	if info, err := os.Stat(d.file("a", "run")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("run: %v, %v", info, err)
	}
	// Again, with what the last run has left.
	if err := os.WriteFile(d.file("a", "supervise", "status"), make([]byte, statusSize), 0o600); err != nil {
		t.Fatal(err)
	}
	available := filepath.Join(filepath.Dir(string(d)), "available")
	if err := d.Lay(available, []string{"b"}, true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.file("a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a is left: %v", err)
	}
	if err := d.Lay(available, []string{"none"}, true); err == nil {
		t.Error("a service that is not there is laid out")
	}
}

func TestParse(t *testing.T) {
	good := []byte{0x40, 0, 0, 0, 0x65, 0, 0, 0x0a, 0, 0, 0, 1, 0x39, 0x30, 0, 0, 0, 'u', 0, 1}
	s, err := Parse(good)
	if err != nil || s.PID != 12345 || !s.Wanted || s.State != Running || !s.Since.Equal(time.Unix(0x65000000, 1)) {
		t.Errorf("%+v, %v", s, err)
	}
	bad := append([]byte(nil), good...)
	bad[stateAt] = 7
	for _, b := range [][]byte{nil, good[:19], append(good[:20:20], 0), bad} {
		if s, err := Parse(b); err == nil {
			t.Errorf("%v is read as %+v", b, s)
		}
	}
}

// A watch that is closed ends, and lets go of its listener.
func TestWatchEnds(t *testing.T) {
	d := lay(t, "#!/bin/sh\nexit 1\n", false)
	w, err := d.Watch([]string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	select {
	case _, ok := <-w.Changed:
		if ok {
			t.Error("something has changed")
		}
	case <-ctx.Done():
		t.Error("it does not end")
	}
}
