package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Day is what befalls a node in its life, on the host of A, while A and C on another host speak
// with each other: it is stopped, replaced by another version, and started without etcd. The
// experiment's containers must run.
func (e *Experiment) Day(ctx context.Context) error {
	return e.lab.session("A day in a node's life").run(ctx, []step{
		{"What runs here, and is it well", e.statusOfDay},
		{"The node is stopped and started", e.stopped},
		{"The node is replaced by another version", e.upgraded},
		{"The node is cut off from etcd, and all of it starts anew", e.withoutEtcd},
		{"etcd is back", e.etcdBack},
	})
}

func (e *Experiment) statusOfDay(ctx context.Context, s *Session) error {
	wants := []want{contains("Calico process is running."), contains(", healthy;"), lacks("PROBLEM")}
	for _, program := range []string{"felix", "bgpd", "confd", "libnetwork"} {
		wants = append(wants, matches(program+` +\| ready`))
	}
	_, err := s.see(ctx, "every program that should run here is ready", e.a.Host, "calicoctl node status", wants...)
	return err
}

// lossless does something while A and C probe each other, each probe a connection of its own. None
// may be lost.
func (e *Experiment) lossless(ctx context.Context, s *Session, do func() error) error {
	there, err := e.a.Host.Send(ctx, e.a.Name, e.c.IP)
	if err != nil {
		return err
	}
	back, err := e.c.Host.Send(ctx, e.c.Name, e.a.IP)
	if err != nil {
		return errors.Join(err, there.close())
	}
	failed := do()
	to, err1 := there.End()
	from, err2 := back.End()
	if err := errors.Join(failed, err1, err2); err != nil {
		return err
	}
	got := fmt.Sprintf("A to C: %s; C to A: %s", to, from)
	if to.Lost > 0 || from.Lost > 0 {
		return &Failure{Line: "no probe is lost", Command: "probe count", Expected: "0 lost", Got: got}
	}
	return s.check("a new connection every 2 ms meanwhile, "+got, "probe count", got)
}

func (e *Experiment) stopped(ctx context.Context, s *Session) error {
	h := e.a.Host
	return e.lossless(ctx, s, func() error {
		if _, err := s.see(ctx, "it is stopped in order", h, "calicoctl node stop", contains("traffic flows on")); err != nil {
			return err
		}
		if err := s.cut(ctx, "what is forbidden stays so: A does not reach B", e.a, e.b.IP); err != nil {
			return err
		}
		if _, err := s.on(ctx, h, "docker start calico-node"); err != nil {
			return err
		}
		return e.healthy(ctx, s, 30*time.Second)
	})
}

// healthy waits until the status of A's host says that all is well.
func (e *Experiment) healthy(ctx context.Context, s *Session, limit time.Duration) error {
	return s.until(ctx, limit, e.a.Host.Node+" is healthy, with a session with both other nodes", func(ctx context.Context) error {
		out, err := e.a.Host.On(ctx, "calicoctl node status")
		return errors.Join(err, e.lab.sessions(out))
	})
}

// sessions says whether a status has a session with each other node.
func (l *Lab) sessions(status string) error {
	if n := strings.Count(status, "Established"); n != len(l.Hosts)-1 {
		return fmt.Errorf("%d of %d sessions are up", n, len(l.Hosts)-1)
	}
	return nil
}

func (e *Experiment) upgraded(ctx context.Context, s *Session) error {
	h := e.a.Host
	line := fmt.Sprintf(`printf 'FROM calico/node:%s\nLABEL org.opencontainers.image.version=next\n' | docker build -q -t calico/node:next -`, e.lab.Version)
	if _, err := s.on(ctx, h, line); err != nil {
		return err
	}
	return e.lossless(ctx, s, func() error {
		if _, err := s.see(ctx, "the other version runs, with the same arguments", h, "calicoctl node upgrade --node-image=calico/node:next",
			contains("and is of version next")); err != nil {
			return err
		}
		return e.healthy(ctx, s, 30*time.Second)
	})
}

// A node that starts without etcd has its sessions again within sessionsAim; a machine that has
// other things to do gets sessionsLimit.
const (
	sessionsAim   = 2 * time.Second
	sessionsLimit = 3 * sessionsAim
)

// cutOff is the route that takes etcd away from a host, and gives it back.
func (l *Lab) cutOff(verb string) string { return "ip route " + verb + " unreachable " + l.etcdIP() }

func (e *Experiment) withoutEtcd(ctx context.Context, s *Session) error {
	h := e.a.Host
	return e.lossless(ctx, s, func() error {
		if _, err := s.on(ctx, h, e.lab.cutOff("add")); err != nil {
			return err
		}
		if _, err := s.on(ctx, h, restart); err != nil {
			return err
		}
		took, err := e.lab.sessionsAfterStart(ctx, h)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("it has its sessions again %.1f s after its start (aim: %s)", took.Seconds(), sessionsAim)
		if took > sessionsLimit {
			return &Failure{Line: line, Command: restart, Expected: fmt.Sprintf("at most %s", sessionsLimit), Got: took.String()}
		}
		if err := s.check(line, restart, ""); err != nil {
			return err
		}
		return e.said(ctx, s, "its status says by what it runs", "PROBLEM: start-up: etcd does not answer")
	})
}

// said waits until the status of A's host says something, and shows it.
func (e *Experiment) said(ctx context.Context, s *Session, what, text string) error {
	if err := s.until(ctx, 30*time.Second, what, func(ctx context.Context) error {
		out, _ := e.a.Host.On(ctx, "calicoctl node status") // it ends with 1, as something is wrong
		if !strings.Contains(out, text) {
			return fmt.Errorf("the status lacks %q:\n%s", text, out)
		}
		return nil
	}); err != nil {
		return err
	}
	_, err := s.try(ctx, e.a.Host, "calicoctl node status | grep -A1 PROBLEM")
	return err
}

// RestartWithoutEtcd cuts a host off from etcd, starts its node anew, and says how long after that
// start its sessions were up. The host is not cut off any more at the end.
func (l *Lab) RestartWithoutEtcd(ctx context.Context, h Host) (took time.Duration, err error) {
	if _, err := h.On(ctx, l.cutOff("add")); err != nil {
		return 0, err
	}
	defer func() {
		_, err2 := h.On(context.WithoutCancel(ctx), l.cutOff("del"))
		err = errors.Join(err, err2)
	}()
	if _, err := h.On(ctx, restart); err != nil {
		return 0, err
	}
	return l.sessionsAfterStart(ctx, h)
}

// restart starts all of a node anew.
const restart = "docker restart calico-node"

// sessionsAfterStart waits for the sessions of a host, and says how long after the start of its
// container that was.
func (l *Lab) sessionsAfterStart(ctx context.Context, h Host) (time.Duration, error) {
	started, err := h.On(ctx, "docker inspect --format '{{.State.StartedAt}}' calico-node")
	if err != nil {
		return 0, err
	}
	begun, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(started))
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		out, _ := h.On(ctx, "calicoctl node status") // it ends with 1 while etcd is away
		err := l.sessions(out)
		if err == nil {
			return time.Since(begun), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("%w:\n%s", err, out)
		}
	}
}

func (e *Experiment) etcdBack(ctx context.Context, s *Session) error {
	return e.lossless(ctx, s, func() error {
		if _, err := s.on(ctx, e.a.Host, e.lab.cutOff("del")); err != nil {
			return err
		}
		return e.healthy(ctx, s, 10*time.Second)
	})
}
