package loop

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"calico.internal/confd-templates/internal/resource"
)

// rig is a loop over one file, with the engine and the commands played by the test.
type rig struct {
	*Loop
	dest string

	mu       sync.Mutex
	text     string
	fail     error
	commands []string
	refuse   map[string]error
	hang     map[string]bool
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := &rig{dest: filepath.Join(t.TempDir(), "out.conf"), text: "one", refuse: map[string]error{}, hang: map[string]bool{}}
	config := Config{
		Resources:      []resource.Resource{{Dest: r.dest, UID: -1, GID: -1, CheckCmd: "check {{.src}}", ReloadCmd: "reload"}},
		Renderer:       r,
		Command:        r.command,
		CommandTimeout: 10 * time.Second,
		Audit:          30 * time.Second,
		Logger:         slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&config)
	}
	r.Loop = New(config)
	return r
}

func (r *rig) Render(res resource.Resource) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return "", r.fail
	}
	staged := res.Dest + ".staged"
	return staged, os.WriteFile(staged, []byte(r.text), 0o600)
}

// command plays check and reload: it notes what was run, and fails or hangs as the test wants.
func (r *rig) command(ctx context.Context, line string, timeout time.Duration) error {
	name, _, _ := strings.Cut(line, " ")
	r.mu.Lock()
	r.commands = append(r.commands, name)
	err, hang := r.refuse[name], r.hang[name]
	r.mu.Unlock()
	if !hang {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(timeout):
		return errors.New("did not end")
	}
}

func (r *rig) set(change func(*rig)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

// ran returns the commands since the last call.
func (r *rig) ran() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	commands := strings.Join(r.commands, " ")
	r.commands = nil
	return commands
}

func (r *rig) expect(t *testing.T, when, contents, commands string) {
	t.Helper()
	have, err := os.ReadFile(r.dest)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if string(have) != contents {
		t.Errorf("%s: the file holds %q, want %q", when, have, contents)
	}
	if ran := r.ran(); ran != commands {
		t.Errorf("%s: ran %q, want %q", when, ran, commands)
	}
}

// run starts the loop in a bubble of fake time, and stops it in the end.
func run(t *testing.T, change func(*Config), body func(t *testing.T, r *rig, changed chan<- struct{})) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, change)
		ctx, cancel := context.WithCancel(t.Context())
		changed := make(chan struct{}, 1)
		done := make(chan struct{})
		go func() {
			r.Run(ctx, changed)
			close(done)
		}()
		synctest.Wait()
		body(t, r, changed)
		cancel()
		<-done
	})
}

// after lets fake time pass.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestChangeIsCheckedPutInPlaceAndReloaded(t *testing.T) {
	run(t, nil, func(t *testing.T, r *rig, changed chan<- struct{}) {
		r.expect(t, "at the start", "one", "check reload")
		r.set(func(r *rig) { r.text = "two" })
		changed <- struct{}{}
		synctest.Wait()
		r.expect(t, "after a change", "two", "check reload")
		changed <- struct{}{}
		synctest.Wait()
		r.expect(t, "after a signal without a change", "two", "")
		if bad := r.Status(); len(bad) != 0 {
			t.Errorf("Status = %v, want nothing", bad)
		}
	})
}

func TestFailedCheckIsTriedAgainUntilItSucceeds(t *testing.T) {
	run(t, nil, func(t *testing.T, r *rig, changed chan<- struct{}) {
		r.ran()
		r.set(func(r *rig) { r.text, r.refuse["check"] = "two", errors.New("no") })
		changed <- struct{}{}
		synctest.Wait()
		r.expect(t, "after the check failed", "one", "check")
		if err := r.Status()[r.dest]; err == nil || err.Error() != "check: no" {
			t.Errorf("Status = %v, want the check's error", err)
		}
		after(250 * time.Millisecond)
		r.expect(t, "a quarter of a second later", "one", "check")
		after(500 * time.Millisecond)
		r.expect(t, "half a second after that", "one", "check")
		after(time.Minute)
		if n := len(strings.Fields(r.ran())); n < 10 || n > 15 {
			t.Errorf("%d checks in a minute, want one each 5 s", n)
		}
		r.set(func(r *rig) { delete(r.refuse, "check") })
		after(5 * time.Second)
		r.expect(t, "when the check is content", "two", "check reload")
		if bad := r.Status(); len(bad) != 0 {
			t.Errorf("Status = %v, want nothing", bad)
		}
	})
}

func TestTheSameFaultIsLoggedOnce(t *testing.T) {
	var log strings.Builder
	run(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }, func(t *testing.T, r *rig, changed chan<- struct{}) {
		for _, fault := range []string{"no", "no, and another time no"} {
			r.set(func(r *rig) { r.text, r.refuse["check"] = fault, errors.New(fault) })
			changed <- struct{}{}
			after(time.Minute)
		}
		r.set(func(r *rig) { delete(r.refuse, "check") })
		after(5 * time.Second)
		r.set(func(r *rig) { r.text, r.refuse["check"] = "three", errors.New("no") })
		changed <- struct{}{}
		after(time.Minute)
	})
	if n := strings.Count(log.String(), "file is not as it must be"); n != 3 {
		t.Errorf("logged %d times, want once for each fault:\n%s", n, log.String())
	}
}

func TestFailedReloadIsRememberedAndTriedAgain(t *testing.T) {
	run(t, nil, func(t *testing.T, r *rig, changed chan<- struct{}) {
		r.ran()
		r.set(func(r *rig) { r.text, r.refuse["reload"] = "two", errors.New("nobody there") })
		changed <- struct{}{}
		synctest.Wait()
		r.expect(t, "after the reload failed", "two", "check reload")
		after(250 * time.Millisecond)
		r.expect(t, "at the next attempt", "two", "reload")
		r.set(func(r *rig) { delete(r.refuse, "reload") })
		after(5 * time.Second)
		r.expect(t, "when the reload works", "two", "reload")
		after(time.Hour)
		r.expect(t, "an hour later", "two", "")
	})
}

func TestReloadIsDueEvenIfTheFileChangesBack(t *testing.T) {
	run(t, nil, func(t *testing.T, r *rig, changed chan<- struct{}) {
		r.ran()
		r.set(func(r *rig) { r.text, r.refuse["reload"] = "two", errors.New("nobody there") })
		changed <- struct{}{}
		synctest.Wait()
		r.set(func(r *rig) { r.text = "one"; delete(r.refuse, "reload") })
		changed <- struct{}{}
		synctest.Wait()
		r.expect(t, "after it changed back", "one", "check reload check reload")
	})
}

func TestHungCommandEndsAndIsTriedAgain(t *testing.T) {
	run(t, nil, func(t *testing.T, r *rig, changed chan<- struct{}) {
		r.ran()
		r.set(func(r *rig) { r.text, r.hang["reload"] = "two", true })
		changed <- struct{}{}
		synctest.Wait()
		r.expect(t, "while the command hangs", "two", "check reload")
		r.set(func(r *rig) { r.hang["reload"] = false })
		after(11 * time.Second)
		r.expect(t, "after the time-out", "two", "reload")
	})
}

func TestTemplateErrorKeepsTheFile(t *testing.T) {
	run(t, nil, func(t *testing.T, r *rig, changed chan<- struct{}) {
		r.ran()
		r.set(func(r *rig) { r.fail = errors.New("bad template") })
		changed <- struct{}{}
		synctest.Wait()
		r.expect(t, "after the error", "one", "")
		r.set(func(r *rig) { r.fail, r.text = nil, "two" })
		after(250 * time.Millisecond)
		r.expect(t, "when it is mended", "two", "check reload")
	})
}

func TestRemovedOrChangedFileIsHealedByTheAudit(t *testing.T) {
	run(t, nil, func(t *testing.T, r *rig, _ chan<- struct{}) {
		r.ran()
		for what, damage := range map[string]func() error{
			"removed":   func() error { return os.Remove(r.dest) },
			"edited":    func() error { return os.WriteFile(r.dest, []byte("by hand"), 0o644) },
			"truncated": func() error { return os.Truncate(r.dest, 0) },
		} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			after(30 * time.Second)
			r.expect(t, what, "one", "check reload")
		}
	})
}

func TestOnceReportsEveryFailure(t *testing.T) {
	r := newRig(t, func(c *Config) {
		second := c.Resources[0]
		second.Dest += "2"
		c.Resources = append(c.Resources, second)
	})
	r.refuse["reload"] = errors.New("nobody there")
	err := r.Once(t.Context())
	if err == nil || strings.Count(err.Error(), "nobody there") != 2 {
		t.Errorf("Once = %v, want both failures", err)
	}
}

func TestNoopWritesNothing(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Noop = true })
	if err := r.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "with noop", "", "")
}

func TestSyncOnlyRunsNoCommands(t *testing.T) {
	r := newRig(t, func(c *Config) { c.SyncOnly = true })
	if err := r.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "with sync-only", "one", "")
}

func TestStagedFileIsKeptOnlyWhenAskedFor(t *testing.T) {
	for _, keep := range []bool{false, true} {
		r := newRig(t, func(c *Config) { c.KeepStageFile, c.Noop = keep, true })
		if err := r.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(r.dest + ".staged"); keep != (err == nil) {
			t.Errorf("keep-stage-file %t: the staged file: %v", keep, err)
		}
	}
}

func TestMode(t *testing.T) {
	for _, c := range []struct {
		name           string
		mode, has, put os.FileMode
	}{
		{"a mode in the resource", 0o600, 0, 0o600},
		{"a mode in the resource that the file does not have", 0o600, 0o666, 0o600},
		{"no mode, no file", 0, 0, 0o644},
		{"no mode, a file", 0, 0o640, 0o640},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(config *Config) { config.Resources[0].Mode = c.mode })
			if c.has != 0 {
				if err := os.WriteFile(r.dest, []byte("old"), c.has); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(r.dest, c.has); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.Once(t.Context()); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(r.dest)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != c.put {
				t.Errorf("mode %o, want %o", info.Mode(), c.put)
			}
		})
	}
}

func TestReadyOnlyWhenEveryFileIsInPlace(t *testing.T) {
	var states []bool
	r := newRig(t, func(c *Config) {
		second := c.Resources[0]
		second.Dest += "2"
		c.Resources = append(c.Resources, second)
		c.OnStatus = func(ready bool) { states = append(states, ready) }
	})
	if err := r.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(states) != 2 || states[0] || !states[1] {
		t.Errorf("states %v, want not ready after the first file and ready after the second", states)
	}
}

func TestCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		in := make(chan struct{})
		out := Coalesce(ctx, in, 20*time.Millisecond, 200*time.Millisecond)
		start := time.Now()

		in <- struct{}{}
		<-out
		if took := time.Since(start); took != 20*time.Millisecond {
			t.Errorf("a single signal took %s, want 20ms", took)
		}

		start = time.Now()
		for range 3 {
			in <- struct{}{}
			after(10 * time.Millisecond)
		}
		<-out
		if took := time.Since(start); took != 40*time.Millisecond {
			t.Errorf("a burst took %s, want 40ms", took)
		}
		after(time.Second)
		select {
		case <-out:
			t.Error("a burst made two signals")
		default:
		}

		start = time.Now()
		stream := time.NewTicker(10 * time.Millisecond)
		defer stream.Stop()
		for passed := false; !passed; {
			select {
			case <-stream.C:
				in <- struct{}{}
			case <-out:
				passed = true
			}
		}
		if took := time.Since(start); took < 200*time.Millisecond || took > 220*time.Millisecond {
			t.Errorf("a steady stream passed a signal after %s, want about 200ms", took)
		}
		cancel()
		synctest.Wait()
	})
}
