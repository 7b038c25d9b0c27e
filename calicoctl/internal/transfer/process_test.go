package transfer

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// sleeper is the number of a process of this host that runs until the test ends, or until it
// is killed and waited for.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be over
		_ = cmd.Wait()
	})
	return cmd
}

// TestWhoHasTheLock judges the process behind a lock: the number alone tells nothing.
func TestWhoHasTheLock(t *testing.T) {
	alive := by("ann@host1", sleeper(t).Process.Pid)
	ended := sleeper(t)
	dead := by("ann@host1", ended.Process.Pid)
	if err := ended.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	zombie := *dead // nobody has asked how it ended
	for deadline := time.Now().Add(10 * time.Second); lifeOf(&zombie) != died; {
		if time.Now().After(deadline) {
			t.Fatal("a process that was killed counts as running")
		}
	}
	_ = ended.Wait()
	with := func(change func(*model.Lock)) *model.Lock {
		l := *alive
		change(&l)
		return &l
	}
	for _, tc := range []struct {
		name string
		lock *model.Lock
		want life
	}{
		{"one that runs", alive, runs},
		{"one that has ended", dead, died},
		{"one whose number another has by now", with(func(l *model.Lock) { l.Started-- }), died},
		{"one in another container", with(func(l *model.Lock) { l.PIDNamespace = "pid:[1]" }), unknown},
		{"one on another host, or before it was booted", with(func(l *model.Lock) { l.Boot = "other" }), unknown},
		{"one of an older program", &model.Lock{By: "ann@host1", PID: alive.PID}, unknown},
	} {
		if got := lifeOf(tc.lock); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

// TestWhoseLockIsTakenOver has imports of others in the way, of which it is known or not
// whether they run.
func TestWhoseLockIsTakenOver(t *testing.T) {
	running := sleeper(t).Process.Pid
	for _, tc := range []struct {
		name, who string
		change    func(*model.Lock)
		refusal   string // none: it is taken over
	}{
		{"one that runs", "ann@host1", func(*model.Lock) {}, "another import is running: ann@host1"},
		{"one that has ended, and whose number another has", "ann@host1", func(l *model.Lock) { l.Started-- }, ""},
		{"the same of somebody else", "bob@host1", func(l *model.Lock) { l.Started-- }, "the process that held the lock has died: --take-lock"},
		{"one in another container", "ann@host1", func(l *model.Lock) { l.PIDNamespace = "pid:[1]" }, "whether it still runs"},
		{"one of an older program", "ann@host1", func(l *model.Lock) { *l = model.Lock{By: l.By, PID: l.PID, Since: l.Since} }, "whether it still runs"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			old := by(tc.who, running)
			tc.change(old)
			old.Import = true
			no := model.Ready(false)
			w.apply(model.ReadyKey{}, &no)
			w.apply(model.LockKey{}, old)
			im := Import{Source: resources{policyKey("web"): policy("all()")}.source(t)}
			_, err := w.run(im)
			switch {
			case tc.refusal == "" && err != nil:
				t.Errorf("error %v", err)
			case tc.refusal != "" && (err == nil || !strings.Contains(err.Error(), tc.refusal)):
				t.Errorf("error %v, want %q", err, tc.refusal)
			case tc.refusal != "":
				w.lockIs("false", tc.who)
				im.TakeLock = true
				w.mustRun(im)
			}
			w.lockIs("true", "")
		})
	}
}

// TestALockIsToldByItsID gives up a lock of which the answer is missing, where a process of
// the same number, as two containers of one name have it, took the lock in the same second.
func TestALockIsToldByItsID(t *testing.T) {
	w := newWorld(t)
	other, err := takeLock(t.Context(), w.store, by("ann@host1", os.Getpid()), false)
	if err != nil {
		t.Fatal(err)
	}
	mine := *other.value
	mine.ID = "mine"
	if err := abandon(t.Context(), w.store, &mine, etcdstore.ErrUnavailable); err != nil {
		t.Fatal(err)
	}
	w.lockIs("false", "ann@host1")
	if err := abandon(t.Context(), w.store, other.value, etcdstore.ErrUnavailable); err != nil {
		t.Fatal(err)
	}
	w.lockIs("true", "")

	again, err := takeLock(t.Context(), w.store, by("ann@host1", os.Getpid()), false)
	if err != nil || again.value.ID == other.value.ID || again.value.ID == "" {
		t.Errorf("the next lock has the id %q after %q: %v", again.value.ID, other.value.ID, err)
	}
	if err := other.commit(t.Context()); !errors.Is(err, errLockLost) {
		t.Errorf("the former owner still writes: %v", err)
	}
}

// TestAFlagThatIsOpenedAloneEndsTheImport has somebody open the flag who knows of no lock.
func TestAFlagThatIsOpenedAloneEndsTheImport(t *testing.T) {
	w := newWorld(t)
	l, err := takeLock(t.Context(), w.store, by("ann@host1", os.Getpid()), false)
	if err != nil {
		t.Fatal(err)
	}
	put, err := etcdstore.PutWrite(policyKey("web"), policy("all()"))
	if err == nil {
		err = l.commit(t.Context(), put)
	}
	if err != nil {
		t.Fatal(err)
	}
	yes := model.Ready(true)
	w.apply(model.ReadyKey{}, &yes)
	if err := l.commit(t.Context(), put); !errors.Is(err, errLockLost) {
		t.Errorf("it writes on into a datastore that is open: %v", err)
	}
}
