package judge

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var start = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return start.Add(d) }

func newJudge() *Judge {
	return New([]string{"felix"}, func(p string) string { return "log of " + p })
}

// runs is a program that runs since a time.
func runs(pid int, since time.Duration, last *Exit) Seen {
	return Seen{Running: true, PID: pid, Since: after(since), Wanted: true, Supervised: true, Last: last}
}

func ends(since time.Duration, last *Exit) Seen {
	return Seen{Since: after(since), Wanted: true, Supervised: true, Last: last}
}

func of(j *Judge, at time.Duration) Program { return j.Programs(after(at))[0] }

func TestStates(t *testing.T) {
	stopped := ends(0, &Exit{At: start})
	stopped.Wanted = false
	onHost := Seen{OnHost: true, Since: start}
	for name, c := range map[string]struct {
		seen      Seen
		heard     []Health
		at        time.Duration
		want      State
		why, cure string
	}{
		"not yet begun":                {Seen{Wanted: true, Supervised: true}, nil, 0, Starting, "not been started", ""},
		"nobody starts it":             {Seen{}, nil, 0, Down, "no runsv", "docker restart"},
		"silent at first":              {runs(1, 0, nil), nil, 59 * time.Second, Starting, "", ""},
		"silent for long":              {runs(1, 0, nil), nil, 60 * time.Second, NotReady, "does not answer", "sv restart felix"},
		"unwell at first":              {runs(1, 0, nil), []Health{NotServing}, time.Second, Starting, "", ""},
		"unwell for long":              {runs(1, 0, nil), []Health{NotServing}, time.Minute, NotReady, "not ready", "log of felix"},
		"well":                         {runs(1, 0, nil), []Health{Serving}, 0, Ready, "", ""},
		"was well":                     {runs(1, 0, nil), []Health{Serving, NotServing}, time.Second, NotReady, "not ready", "log of felix"},
		"was well, hangs":              {runs(1, 0, nil), []Health{Serving, Silent}, time.Second, NotReady, "does not answer", "sv restart"},
		"stopped":                      {stopped, nil, 0, Down, "by hand", "sv up felix"},
		"between two runs":             {ends(5*time.Second, &Exit{Code: -1, Signal: 9, At: after(5 * time.Second)}), nil, 0, Starting, "killed by signal 9", ""},
		"on the host, silent at first": {onHost, nil, 59 * time.Second, Starting, "", ""},
		"on the host, never heard":     {onHost, nil, time.Minute, Down, "service of the host does not answer", "systemctl restart calico-felix.service"},
		"on the host, well":            {onHost, []Health{Serving}, time.Hour, Ready, "", ""},
		"on the host, unwell":          {onHost, []Health{Serving, NotServing}, time.Second, NotReady, "not ready", "journalctl -u calico-felix"},
		"on the host, was well, ended": {onHost, []Health{Serving, Silent}, time.Second, Down, "does not answer", "systemctl restart"},
		"runs without a supervisor":    {Seen{Running: true, PID: 1, Since: start}, []Health{Serving}, 0, Ready, "", ""},
	} {
		j := newJudge()
		j.See("felix", c.seen)
		for _, h := range c.heard {
			j.Hear("felix", h)
		}
		p := of(j, c.at)
		if p.State != c.want || !strings.Contains(p.Why, c.why) || (p.Why == "") != (c.why == "") || !strings.Contains(p.Cure, c.cure) || (p.Cure == "") != (c.cure == "") {
			t.Errorf("%s: %s, %q, %q", name, p.State, p.Why, p.Cure)
		}
		if j.Ready(after(c.at)) != (c.want == Ready) {
			t.Errorf("%s: ready %t", name, c.want != Ready)
		}
	}
}

// crash lets a program end n times, a second apart.
func crash(j *Judge, n int, e Exit) (at time.Duration) {
	for i := range n {
		j.See("felix", runs(i+1, at, nil))
		at += time.Second
		e.At = after(at)
		j.See("felix", ends(at, &e))
	}
	return at
}

func TestCrashLoop(t *testing.T) {
	j := newJudge()
	at := crash(j, 2, Exit{Code: 3})
	if p := of(j, at); p.State != Starting {
		t.Errorf("after two: %v", p)
	}
	at = crash(j, 3, Exit{Code: 3}) + 2*time.Second
	p := of(j, at)
	if p.State != CrashLoop || p.Restarts != 4 || p.LastExit != "exit code 3" || p.Cure != "log of felix" ||
		p.Why != "it ends again and again: 3 times within 2s, last with exit code 3" {
		t.Errorf("after three: %+v", p)
	}
	// It is mended, and that shows once it has lived for a while.
	j.See("felix", runs(9, at, &Exit{Code: 3, At: after(at)}))
	j.Hear("felix", Serving)
	if p := of(j, at+19*time.Second); p.State != CrashLoop {
		t.Errorf("just started: %v", p)
	}
	if next := j.Next(after(at)); !next.Equal(after(at + 20*time.Second)) {
		t.Errorf("next look at %s", next)
	}
	if p := of(j, at+20*time.Second); p.State != Ready {
		t.Errorf("mended: %v", p)
	}
	if next := j.Next(after(at + 20*time.Second)); !next.IsZero() {
		t.Errorf("another look at %s", next)
	}
}

func TestWhatIsNoCrashLoop(t *testing.T) {
	j := newJudge()
	at := time.Duration(0)
	for i := range 5 { // killed now and then
		j.See("felix", runs(i+1, at, nil))
		at += 90 * time.Second
		j.See("felix", ends(at, &Exit{Code: -1, Signal: 9, At: after(at)}))
	}
	if p := of(j, at); p.State != Starting || p.Restarts != 4 {
		t.Errorf("killed now and then: %+v", p)
	}
	j, at = newJudge(), 0
	for i := range 5 { // restarted by hand: it ends at TERM, without an error
		j.See("felix", runs(i+1, at, nil))
		at += 3 * time.Second
		j.See("felix", ends(at, &Exit{At: after(at)}))
	}
	if p := of(j, at); p.State != Starting {
		t.Errorf("restarted by hand: %+v", p)
	}
	// One that ends at once does so by itself, also without an error.
	j = newJudge()
	if p := of(j, crash(j, 3, Exit{})); p.State != CrashLoop {
		t.Errorf("ends without an error: %+v", p)
	}
}

func TestProblemsAndState(t *testing.T) {
	up := Node{StartedUp: true, Connected: true}
	ready := Program{Name: "felix", State: Ready}
	down := Program{Name: "bgpd", State: Down, Why: "it was stopped by hand", Cure: "start it"}
	waits := Program{Name: "confd", State: NotReady, Answers: true, Why: "it says that it is not ready"}
	starting := Program{Name: "confd", State: Starting}
	for name, c := range map[string]struct {
		node     Node
		programs []Program
		want     NodeState
		objects  []string
	}{
		"well":              {up, []Program{ready}, NodeHealthy, nil},
		"starting":          {up, []Program{ready, starting}, NodeStarting, nil},
		"one down":          {up, []Program{ready, down}, NodeDegraded, []string{"bgpd"}},
		"down and starting": {up, []Program{starting, down}, NodeDegraded, []string{"bgpd"}},
		"not ready":         {up, []Program{waits}, NodeDegraded, []string{"confd"}},
		"etcd away":         {Node{StartedUp: true}, []Program{ready, waits}, NodeDegraded, []string{"etcd"}},
		"from record":       {Node{FromRecord: true}, []Program{ready, waits}, NodeDegraded, []string{"start-up"}},
		"held":              {Node{Connected: true, Held: "it is empty"}, []Program{ready}, NodeDegraded, []string{"start-up"}},
		"never a node":      {Node{StartupWhy: "etcd does not answer"}, []Program{down}, NodeStarting, []string{"start-up"}},
	} {
		problems := Problems(c.node, c.programs)
		var objects []string
		for _, p := range problems {
			objects = append(objects, p.Object)
		}
		if diff := cmp.Diff(c.objects, objects); diff != "" {
			t.Errorf("%s: problems (-want +got):\n%s", name, diff)
		}
		if got := Sum(c.node, c.programs, len(problems)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Of etcd it is only said that it does not answer while that is so.
func TestWhyAStartUpIsNotDone(t *testing.T) {
	for connected, want := range map[bool]string{false: "etcd does not answer (why)", true: "is not done, and tried again every few seconds (why)"} {
		got := Problems(Node{FromRecord: true, Connected: connected, StartupWhy: "why"}, nil)
		if len(got) != 1 || !strings.HasPrefix(got[0].Reason, want) || strings.Contains(got[0].Cure, "bring etcd back") == connected {
			t.Errorf("connected %t: %v", connected, got)
		}
	}
}
