package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// step is one titled part of a session.
type step struct {
	title string
	do    func(context.Context, *Session) error
}

// Session shows what is done on the lab and checks what comes out. Its first failed
// check ends it.
type Session struct {
	lab   *Lab
	out   io.Writer
	title string
	begun time.Time
	// Passed counts the checks that held.
	Passed int
}

// Failure is a check that did not hold.
type Failure struct {
	// Line is the line of the experiment, Command what was typed for it.
	Line, Command string
	// Expected and Got say what the check wanted and what came.
	Expected, Got string
}

func (f *Failure) Error() string {
	return fmt.Sprintf("%s\n  command:  %s\n  expected: %s\n  got:      %s", f.Line, f.Command, f.Expected, indentRest(f.Got))
}

func (l *Lab) session(title string) *Session {
	return &Session{lab: l, out: l.Out, title: title, begun: time.Now()}
}

// run does the steps in order. When one fails, the logs of all hosts are saved and
// the error says where.
func (s *Session) run(ctx context.Context, steps []step) error {
	fmt.Fprintf(s.out, "\n######## %s\n", s.title)
	for i, st := range steps {
		began := time.Now()
		fmt.Fprintf(s.out, "\n=== %d/%d %s\n", i+1, len(steps), st.title)
		if err := st.do(ctx, s); err != nil {
			return s.explain(context.WithoutCancel(ctx), st.title, err)
		}
		fmt.Fprintf(s.out, "    (%.1f s)\n", time.Since(began).Seconds())
	}
	fmt.Fprintf(s.out, "\n######## %s: done in %.0f s", s.title, time.Since(s.begun).Seconds())
	if s.Passed > 0 {
		fmt.Fprintf(s.out, ", %d checks held", s.Passed)
	}
	fmt.Fprintln(s.out)
	return nil
}

func (s *Session) explain(ctx context.Context, title string, err error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	where, saveErr := s.lab.SaveLogs(ctx)
	if saveErr != nil {
		where = "not saved: " + saveErr.Error()
	}
	return fmt.Errorf("%s: %w\n  logs:     %s", title, err, where)
}

// on types a line on a host: it shows the line and what came, and fails when the
// command does.
func (s *Session) on(ctx context.Context, h Host, line string) (string, error) {
	out, err := s.try(ctx, h, line)
	if err != nil {
		return out, &Failure{Line: "the command succeeds", Command: h.Node + "# " + line, Expected: "exit code 0", Got: err.Error() + "\n" + out}
	}
	return out, nil
}

// try is on for a command that may fail; out holds both of its streams.
func (s *Session) try(ctx context.Context, h Host, line string) (string, error) {
	fmt.Fprintf(s.out, "  %s# %s\n", h.Node, line)
	var out bytes.Buffer
	cmd := command(ctx, "docker", "exec", h.Container, "sh", "-c", line)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	for _, l := range lines(out.String()) {
		fmt.Fprintf(s.out, "    %s\n", l)
	}
	return out.String(), err
}

// machine types a command on the machine that runs the lab.
func (s *Session) machine(ctx context.Context, args ...string) error {
	shown := strings.ReplaceAll(strings.Join(args, " "), s.lab.Root+"/", "")
	fmt.Fprintf(s.out, "  $ %s\n", shown)
	var out bytes.Buffer
	cmd := command(ctx, args...)
	cmd.Dir, cmd.Env = s.lab.Root, s.lab.environment()
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return &Failure{Line: "the command succeeds", Command: shown, Expected: "exit code 0", Got: err.Error() + "\n" + out.String()}
	}
	return nil
}

// check shows a line of the experiment that holds, or fails with what came instead.
func (s *Session) check(line, command, got string, wants ...want) error {
	for _, w := range wants {
		if !w.holds(got) {
			return &Failure{Line: line, Command: command, Expected: w.text, Got: strings.TrimSpace(got)}
		}
	}
	s.Passed++
	fmt.Fprintf(s.out, "  ok: %s\n", line)
	return nil
}

// see types a line on a host and checks what it prints.
func (s *Session) see(ctx context.Context, line string, h Host, cmd string, wants ...want) (string, error) {
	out, err := s.on(ctx, h, cmd)
	if err != nil {
		return out, err
	}
	return out, s.check(line, h.Node+"# "+cmd, out, wants...)
}

// until waits for a condition and shows that it waits.
func (s *Session) until(ctx context.Context, limit time.Duration, what string, holds func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began, shown := time.Now(), time.Now()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := holds(ctx)
		if err == nil {
			fmt.Fprintf(s.out, "  ok: %s (after %.1f s)\n", what, time.Since(began).Seconds())
			return nil
		}
		if time.Since(shown) > 5*time.Second {
			shown = time.Now()
			fmt.Fprintf(s.out, "    … waiting until %s, %.0f s\n", what, time.Since(began).Seconds())
		}
		select {
		case <-ctx.Done():
			return &Failure{Line: what, Command: fmt.Sprintf("waited %.0f s", limit.Seconds()), Expected: "that it comes true", Got: err.Error()}
		case <-tick.C:
		}
	}
}

// SaveLogs copies the logs of every host and program below the repository's build
// folder and returns where.
func (l *Lab) SaveLogs(ctx context.Context) (string, error) {
	dir := filepath.Join(l.Root, ".build", l.Name+"-logs")
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	save := func(name string, args ...string) {
		// A host that is not there has no logs; the others still have.
		out, _ := command(ctx, args...).CombinedOutput()
		_ = os.WriteFile(filepath.Join(dir, name), out, 0o644)
	}
	save("etcd.log", "docker", "logs", l.etcdContainer())
	const state = `for f in /var/log/calico/*/current; do echo "== $f"; tail -n 400 "$f"; done
		for c in "iptables-save -c" "ip route" "ip -d link" "ipset list" "docker ps -a" "docker network ls" "ps axf"; do echo "== $c"; $c; done`
	for _, h := range l.Hosts {
		save(h.Node+"-engine.log", "docker", "logs", h.Container)
		save(h.Node+"-start-up.log", "docker", "exec", h.Container, "docker", "logs", "calico-node")
		save(h.Node+"-programs.log", "docker", "exec", h.Container, "sh", "-c", state)
	}
	return dir, nil
}

func indentRest(text string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n            ")
}
