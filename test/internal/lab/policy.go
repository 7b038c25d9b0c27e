package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/test/internal/probe"
)

const openPolicy = `apiVersion: v1
kind: profile
metadata:
  name: net2
  tags:
  - net2
spec:
  egress:
  - action: allow
  ingress:
  - action: allow
    source:
      tag: net2
  - action: allow
    source:
      tag: net1
`

// policy edits net2's profile while containers run: it lets net1 in, and shuts it out
// again. The delay is measured from the write in etcd to the first datagram whose
// fate has changed; every datagram is a flow of its own.
func (e *Experiment) policy(ctx context.Context, s *Session) error {
	if err := s.cut(ctx, "before: A does not reach D", e.a, e.d.IP); err != nil {
		return err
	}
	watch, err := e.lab.watchPath(ctx, e.a, e.d)
	if err != nil {
		return err
	}
	defer watch.stop()
	open := "calicoctl apply -f - <<'EOF'\n" + openPolicy + "EOF"
	if err := s.changes(ctx, watch, e.a.Host, open, true, "net1 → net2 opens"); err != nil {
		return err
	}
	if err := s.reaches(ctx, "under the new rules A reaches D, across hosts", e.a, e.d.IP, 62); err != nil {
		return err
	}
	if err := s.reaches(ctx, "under the new rules A reaches B, on the same host", e.a, e.b.IP, 63); err != nil {
		return err
	}
	closing := "calicoctl apply -f - <<'EOF'\n" + strings.TrimPrefix(strings.ReplaceAll(profileYAML("net2"), "\n  ", "\n"), "- ") + "EOF"
	if err := s.changes(ctx, watch, e.a.Host, closing, false, "net1 → net2 closes"); err != nil {
		return err
	}
	if err := s.cut(ctx, "after: A does not reach D", e.a, e.d.IP); err != nil {
		return err
	}
	return s.reaches(ctx, "B reaches D throughout", e.b, e.d.IP, 62)
}

// pathWatch follows the state of a path between two containers.
type pathWatch struct {
	events chan probe.Event
	writes chan time.Time
	stop   func()
}

// watchPath probes to from from, and notes when net2's profile is written.
func (l *Lab) watchPath(ctx context.Context, from, to *Container) (*pathWatch, error) {
	ctx, cancel := context.WithCancel(ctx)
	store, err := etcdstore.New(etcdstore.Config{Endpoints: []string{l.EtcdEndpoint()}})
	if err != nil {
		cancel()
		return nil, err
	}
	w := &pathWatch{events: make(chan probe.Event, 16), writes: make(chan time.Time, 16)}
	prefix := strings.TrimSuffix(model.Paths(model.ProfileKey{Name: "net2"})[0], "rules")
	batches := store.Watch(ctx, []string{prefix}, etcdstore.WatchOptions{})
	go func() {
		for b := range batches {
			if !b.Snapshot && b.Err == nil && len(b.Puts) > 0 {
				w.writes <- time.Now()
			}
		}
	}()
	cmd := command(ctx, "docker", "exec", from.Host.Container, "docker", "exec", from.Name, "probe", "watch", fmt.Sprintf("%s:%d", to.IP, probe.Port), "60")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	go w.read(out)
	w.stop = func() {
		cancel()
		_ = cmd.Wait() // ended by us
		_, _ = from.Host.On(context.WithoutCancel(ctx), "docker exec "+from.Name+" pkill probe\\ watch")
		_ = store.Close()
	}
	return w, w.await(ctx, false, nil)
}

func (w *pathWatch) read(out io.Reader) {
	defer close(w.events)
	for scan := bufio.NewScanner(out); scan.Scan(); {
		if event, err := probe.ParseEvent(scan.Text()); err == nil {
			w.events <- event
		}
	}
}

// await takes events until the path has the state; at receives when.
func (w *pathWatch) await(ctx context.Context, open bool, at *time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		select {
		case event, ok := <-w.events:
			if !ok {
				return fmt.Errorf("the probe in the container has ended")
			}
			if event.Open == open {
				if at != nil {
					*at = event.At
				}
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("the path did not become %s within 10 s", stateName(open))
		}
	}
}

func stateName(open bool) string {
	if open {
		return "open"
	}
	return "closed"
}

// changes types a line that changes the path's state, and shows how long it took.
func (s *Session) changes(ctx context.Context, w *pathWatch, h Host, line string, open bool, what string) error {
	if _, err := s.on(ctx, h, line); err != nil {
		return err
	}
	var written, changed time.Time
	select {
	case written = <-w.writes:
	case <-time.After(5 * time.Second):
		return &Failure{Line: what, Command: line, Expected: "a write of net2's profile in etcd", Got: "none within 5 s"}
	}
	if err := w.await(ctx, open, &changed); err != nil {
		return &Failure{Line: what, Command: line, Expected: "the path becomes " + stateName(open), Got: err.Error()}
	}
	s.Passed++
	fmt.Fprintf(s.out, "  ok: %s live, %.1f ms after the write in etcd\n", what, float64(changed.Sub(written).Microseconds())/1000)
	return nil
}
