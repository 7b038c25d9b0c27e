package daemon

import (
	"errors"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"calico.internal/calico-node/internal/reaper"
	"calico.internal/calico-node/internal/services"
	"calico.internal/libcalico/logattr"
)

// The times of an end. An engine kills a container 10 s after it has sent TERM.
const (
	// drainLimit is how long the plugin may take to answer the calls of Docker's engine that
	// it has begun.
	drainLimit = 8 * time.Second
	// endLimit is when what has not ended is killed, counted from the first signal; or, once the end is
	// to hurry, from the second.
	endLimit   = 9 * time.Second
	hurryLimit = 2 * time.Second
	// killLimit is how long the end of what was killed is waited for.
	killLimit = 500 * time.Millisecond
	// look is how often it is looked whether something has ended, if no event says so.
	look = 100 * time.Millisecond
	// restartPause is between two starts of a runsvdir that ends at once.
	restartPause = time.Second
)

// supervisor keeps runsvdir, whose children keep the programs.
type supervisor struct {
	dir      services.Dir
	programs []string
	env      []string
	reaper   *reaper.Reaper
	log      *slog.Logger
	// changed is told that a service has changed.
	changed <-chan struct{}
	// ending is called once all is to end.
	ending func()
}

// run keeps runsvdir running until a signal says that all must end, and ends all in order.
// Further signals make that hurry.
func (s *supervisor) run(signals <-chan os.Signal) error {
	for {
		begun := time.Now()
		child, err := s.reaper.Start(s.env, "runsvdir", "-P", string(s.dir))
		if err != nil {
			return err
		}
		select {
		case sig := <-signals:
			s.log.Info("ending", logattr.Why, sig.String())
			s.ending()
			// It would start each runsv again. At TERM it ends, and they stay.
			_ = syscall.Kill(child.PID, syscall.SIGTERM)
			s.end(signals)
			return nil
		case status := <-child.Ended:
			// The others live on, without anybody who starts them again, and keep a new runsvdir from it.
			s.log.Error("runsvdir has ended: the programs are stopped and started again", logattr.Why, words(status))
			if s.end(signals) {
				s.ending()
				return nil
			}
		}
		if !wait(restartPause-time.Since(begun), signals) {
			s.ending()
			return nil
		}
	}
}

// wait waits; a signal ends that, and then it returns false.
func wait(d time.Duration, signals <-chan os.Signal) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-signals:
		return false
	}
}

func words(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal " + status.Signal().String()
	}
	return "exit code " + strconv.Itoa(status.ExitStatus())
}

// end ends the programs: the plugin first, so that the calls it has begun find all they
// need, then the others. What does not end in time is killed. It returns whether a signal has come
// meanwhile.
func (s *supervisor) end(signals <-chan os.Signal) (signalled bool) {
	begun, limit := time.Now(), endLimit
	until := func(done func() bool, at time.Time) {
		if s.await(done, at, signals) {
			signalled, begun, limit = true, time.Now(), hurryLimit
		}
	}
	if slices.Contains(s.programs, plugin) && s.send(plugin, services.Stop) {
		until(func() bool { return s.isDown(plugin) }, begun.Add(drainLimit))
		if !s.isDown(plugin) && !signalled {
			s.log.Warn("the plugin has not answered all calls in time", logattr.Took, time.Since(begun))
		}
	}
	for _, name := range s.programs {
		s.send(name, services.End)
	}
	gone := func() bool { return len(s.dir.Supervised(s.programs)) == 0 }
	for !gone() && time.Since(begun) < limit {
		until(gone, begun.Add(limit))
	}
	for _, name := range s.dir.Supervised(s.programs) {
		s.log.Warn("killed, since it did not end in time", logattr.Program, name)
		s.send(name, services.Kill)
	}
	s.await(gone, time.Now().Add(killLimit), nil)
	return signalled
}

// send gives a command to a service's runsv, and returns whether there is one.
func (s *supervisor) send(name string, c services.Command) bool {
	err := s.dir.Send(name, c)
	if err != nil && !errors.Is(err, services.ErrNotSupervised) {
		s.log.Error("command for runsv", logattr.Program, name, logattr.Err, err)
	}
	return err == nil
}

func (s *supervisor) isDown(name string) bool {
	svc, err := s.dir.Read(name)
	return err == nil && (svc.State == services.Down || !svc.Supervised)
}

// await waits until something is done, a time has come or a signal, which it tells.
func (s *supervisor) await(done func() bool, at time.Time, signals <-chan os.Signal) (signalled bool) {
	limit := time.NewTimer(time.Until(at))
	defer limit.Stop()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for !done() {
		select {
		case <-s.changed:
		case <-s.reaper.Reaped:
		case <-tick.C:
		case <-limit.C:
			return false
		case <-signals:
			return true
		}
	}
	return false
}
