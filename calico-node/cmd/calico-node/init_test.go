package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	nodev1 "calico.internal/proto/node/v1"
)

// What a container of the original prints, and ps shows.
func TestStart(t *testing.T) {
	r := newRig(t)
	begun := time.Now()
	n := r.start()
	s := n.healthy()
	t.Logf("ready after %s", time.Since(begun))
	for _, line := range []string{
		"Using IPv4 address from environment: IP=10.99.0.1/24\n", "CALICO_NETWORKING_BACKEND is gobgp - run bgpd\n",
		"Starting libnetwork service\n", "Calico node started successfully\n",
	} {
		if !strings.Contains(n.out.String(), line) {
			t.Errorf("it does not print %q", line)
		}
	}
	if s.GetNode() != "node00" || s.GetBackend() != "gobgp" || s.GetIdentity().GetBoot() != "boot" || s.GetIdentity().GetId() == "" ||
		!slices.Equal(s.GetAddresses(), []string{"10.99.0.1/24"}) || !s.GetDatastore().GetConnected() || !s.GetStartup().GetDone() {
		t.Errorf("status %v", s)
	}
	for _, name := range allPrograms {
		runsv := n.one("runsv", "runsv "+name)
		if p := n.one("runsvdir", ""); runsv.parent != p.pid || p.parent != n.cmd.Process.Pid {
			t.Errorf("runsv %s hangs at %d, runsvdir at %d", name, runsv.parent, p.parent)
		}
		nettest.Eventually(t, 5*time.Second, func() error { // it is a shell first
			if all := n.named("svlogd", "log/"+name); len(all) != 1 {
				return fmt.Errorf("svlogd of %s: %v", name, all)
			}
			return nil
		})
	}
	if info, err := os.Stat(filepath.Join(r.runDir(), "node.sock")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("node.sock: %v, %v", info, err)
	}
	// Others expect to hear of process 1 as of the programs that it runs.
	resp, err := r.etcd.Client(t).Get(t.Context(), "/calico/v1/host/node00/metadata")
	if err != nil || len(resp.Kvs) != 1 || !strings.Contains(string(resp.Kvs[0].Value), `"programs":["bgpd","calico-node","confd","felix","libnetwork"]`) {
		t.Errorf("the node is stored as %v, %v", resp, err)
	}
	if got := r.liveness("calico-node"); got == nil || !got.Ready {
		nettest.Eventually(t, 5*time.Second, func() error {
			if got := r.liveness("calico-node"); got == nil || !got.Ready {
				return fmt.Errorf("liveness %+v", got)
			}
			return nil
		})
	}
}

func (r *rig) liveness(program string) *model.Liveness {
	r.t.Helper()
	resp, err := r.etcd.Client(r.t).Get(r.t.Context(), model.Paths(model.LivenessKey{Node: "node00", Program: program})[0])
	if err != nil || len(resp.Kvs) == 0 {
		return nil
	}
	return &model.Liveness{Ready: strings.Contains(string(resp.Kvs[0].Value), `"ready":true`)}
}

// The programs that are not wanted do not run.
func TestWhatIsNotWantedDoesNotRun(t *testing.T) {
	r := newRig(t)
	r.env = append(r.env, "CALICO_NETWORKING_BACKEND=none", "CALICO_LIBNETWORK_ENABLED=false", "CALICO_DISABLE_FILE_LOGGING=true")
	n := r.start()
	n.healthy()
	if len(n.named("runsv", "")) != 1 || len(n.named("svlogd", "")) != 0 {
		t.Errorf("processes %v", n.processes())
	}
	if !strings.Contains(n.out.String(), "CALICO_NETWORKING_BACKEND is none - no BGP daemon running\n") {
		t.Error("it does not say that no BGP runs")
	}
}

// The plugin ends before anything that its calls need does.
func TestEndInOrder(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			r := newRig(t)
			r.set("libnetwork", "slow")
			n := r.start()
			n.healthy()
			// Until now it may be the start-up's, which nobody removes.
			nettest.Eventually(t, 5*time.Second, func() error {
				resp, err := r.etcd.Client(t).Get(t.Context(), model.Paths(model.LivenessKey{Node: "node00", Program: "calico-node"})[0])
				if err == nil && (len(resp.Kvs) == 0 || resp.Kvs[0].Version < 2) {
					return errors.New("calico-node has not written its key")
				}
				return err
			})
			n.signal(sig)
			took := n.end(10 * time.Second)
			if n.err != nil || took < 2*time.Second || took > 7*time.Second {
				t.Errorf("ended after %s: %v", took, n.err)
			}
			notes := r.notes()
			if len(notes) != 8 || notes[0] != "libnetwork_gets_TERM" || notes[1] != "libnetwork_ends" {
				t.Errorf("the programs tell %v", notes)
			}
			if key := r.liveness("calico-node"); key != nil {
				t.Error("its key in etcd stays")
			}
		})
	}
}

func TestWhatDoesNotEndIsKilledInTime(t *testing.T) {
	r := newRig(t)
	r.set("libnetwork", "stubborn")
	r.set("felix", "stubborn")
	n := r.start()
	n.healthy()
	n.signal(syscall.SIGTERM)
	if took := n.end(13 * time.Second); n.err != nil || took < 8*time.Second { // otherwise never
		t.Errorf("ended after %s: %v", took, n.err)
	}
	if left := n.processes(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestASecondSignalHurries(t *testing.T) {
	r := newRig(t)
	r.set("libnetwork", "stubborn")
	n := r.start()
	n.healthy()
	n.signal(syscall.SIGTERM)
	nettest.Eventually(t, 5*time.Second, func() error {
		if !strings.Contains(n.out.String(), "ending") {
			return fmt.Errorf("it does not say that it ends")
		}
		return nil
	})
	n.signal(syscall.SIGTERM)
	if took := n.end(6 * time.Second); n.err != nil { // without it, as above
		t.Errorf("ended after %s: %v", took, n.err)
	}
	if notes := r.notes(); !slices.Contains(notes, "felix_ends") {
		t.Errorf("felix was not asked to end: %v", notes)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	r := newRig(t)
	r.set("felix", "litter")
	n := r.start()
	var orphans []process
	nettest.Eventually(t, 10*time.Second, func() error {
		orphans = slices.DeleteFunc(n.named("sleep", ""), func(p process) bool { return p.parent != n.cmd.Process.Pid })
		if len(orphans) != 3 {
			return fmt.Errorf("process 1 has not inherited all yet: %v", orphans)
		}
		return nil
	})
	for _, p := range orphans {
		if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	nettest.Eventually(t, 10*time.Second, func() error {
		for _, p := range n.processes() {
			if p.zombie || p.name == "sleep" {
				return fmt.Errorf("%+v", p)
			}
		}
		return nil
	})
	n.healthy()
}

func TestRunsvdirIsStartedAgain(t *testing.T) {
	r := newRig(t)
	n := r.start()
	n.healthy()
	before := n.one("runsvdir", "")
	if err := syscall.Kill(before.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, 15*time.Second, func() error {
		all := n.named("runsvdir", "")
		if len(all) != 1 || all[0].pid == before.pid || all[0].zombie {
			return fmt.Errorf("%v", all)
		}
		for _, name := range allPrograms {
			runsv := n.named("runsv", "runsv "+name)
			if len(runsv) != 1 || runsv[0].parent != all[0].pid {
				return fmt.Errorf("runsv %s: %v", name, runsv)
			}
		}
		return nil
	})
	n.healthy()
	if notes := r.notes(); len(notes) != 8 || notes[1] != "libnetwork_ends" {
		t.Errorf("the programs tell %v", notes)
	}
}

// A runsv that dies leaves its program behind, which the next one's program would find at its
// place.
func TestRunsvIsStartedAgain(t *testing.T) {
	r := newRig(t)
	n := r.start()
	before := find(n.healthy(), "felix").GetPid()
	if err := syscall.Kill(n.one("runsv", "runsv felix").pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, 20*time.Second, func() error {
		s, err := n.status()
		if err != nil {
			return err
		}
		if p := find(s, "felix"); p.GetPid() == before || p.GetState() != nodev1.ProgramState_PROGRAM_STATE_READY {
			return fmt.Errorf("%v", p)
		}
		if all := n.named(filepath.Base(self(t))[:min(15, len(filepath.Base(self(t))))], " felix "); len(all) != 1 {
			return fmt.Errorf("%v", all)
		}
		return nil
	})
	n.becomes(40*time.Second, nodev1.NodeState_NODE_STATE_HEALTHY)
}

// lacksItsStartUp waits until that is the only problem.
func (n *node) lacksItsStartUp() (s *nodev1.StatusResponse) {
	n.t.Helper()
	nettest.Eventually(n.t, 10*time.Second, func() (err error) {
		if s, err = n.status(); err != nil {
			return err
		}
		p := s.GetProblems()
		if s.GetState() != nodev1.NodeState_NODE_STATE_DEGRADED || s.GetStartup().GetDone() || len(p) != 1 || p[0].GetObject() != "start-up" {
			return fmt.Errorf("status %v", s)
		}
		return nil
	})
	return s
}

// A host that was a node before runs its programs without etcd, and makes up for the start-up.
func TestEtcdAwayOnAKnownHost(t *testing.T) {
	r := newRig(t)
	n := r.start()
	n.healthy()
	n.signal(syscall.SIGTERM)
	n.end(10 * time.Second)
	r.etcd.Stop()

	begun := time.Now()
	n = r.start()
	n.programIs("felix", nodev1.ProgramState_PROGRAM_STATE_READY)
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("felix runs after %s", took)
	}
	s := n.lacksItsStartUp()
	if st := s.GetStartup(); !st.GetFromRecord() || s.GetNode() != "node00" || s.GetDatastore().GetConnected() || s.GetProblems()[0].GetCure() == "" {
		t.Errorf("status %v", s)
	}
	if !strings.Contains(n.out.String(), "Calico node started successfully") {
		t.Error("it does not say that it has started")
	}
	restarts := find(s, "felix").GetRestarts()
	if err := r.etcd.Restart(); err != nil {
		t.Fatal(err)
	}
	s = n.becomes(10*time.Second, nodev1.NodeState_NODE_STATE_HEALTHY)
	if !s.GetStartup().GetDone() || !s.GetDatastore().GetConnected() || find(s, "felix").GetRestarts() != restarts {
		t.Errorf("status %v", s)
	}
}

// A host that has never been a node has nothing to start from.
func TestEtcdAwayOnANewHost(t *testing.T) {
	r := newRig(t)
	r.etcd.Stop()
	n := r.start()
	waiting := func() int { return strings.Count(n.out.String(), "Waiting for etcd") }
	nettest.Eventually(t, 10*time.Second, func() error {
		if s := n.becomes(10*time.Second, nodev1.NodeState_NODE_STATE_STARTING); s.GetStartup().GetWhy() == "" || waiting() == 0 {
			return fmt.Errorf("status %v", s)
		}
		return nil
	})
	<-time.After(4 * time.Second)
	if s := n.becomes(10*time.Second, nodev1.NodeState_NODE_STATE_STARTING); len(n.named("runsvdir", "")) != 0 {
		t.Errorf("status %v, processes %v", s, n.processes())
	}
	if lines := waiting(); lines != 1 {
		t.Errorf("it says %d times that it waits", lines)
	}
	if err := r.etcd.Restart(); err != nil {
		t.Fatal(err)
	}
	n.healthy()
}

// An etcd that has lost its data is nothing to make this host a node of; its programs run, and the
// start-up is made up for once the data is back.
func TestAnEmptiedEtcdOnAKnownHost(t *testing.T) {
	r := newRig(t)
	n := r.start()
	n.healthy()
	n.signal(syscall.SIGTERM)
	n.end(10 * time.Second)
	etcd := r.etcd.Client(t)
	kept, err := etcd.Get(t.Context(), "/calico", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Delete(t.Context(), "/calico", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	n = r.start()
	n.programIs("felix", nodev1.ProgramState_PROGRAM_STATE_READY)
	if s := n.lacksItsStartUp(); !strings.Contains(s.GetProblems()[0].GetReason(), "datastore unlock") {
		t.Errorf("status %v", s)
	}
	for _, kv := range kept.Kvs {
		if _, err := etcd.Put(t.Context(), string(kv.Key), string(kv.Value)); err != nil {
			t.Fatal(err)
		}
	}
	n.becomes(20*time.Second, nodev1.NodeState_NODE_STATE_HEALTHY)
}

// What is stored of a known host, and cannot be read, is not written over, and keeps its programs from
// nothing.
func TestAnUnreadableNodeOnAKnownHost(t *testing.T) {
	r := newRig(t)
	n := r.start()
	n.healthy()
	n.signal(syscall.SIGTERM)
	n.end(10 * time.Second)
	const path = "/calico/bgp/v1/host/node00/as_num"
	etcd := r.etcd.Client(t)
	if _, err := etcd.Put(t.Context(), path, "garbage"); err != nil {
		t.Fatal(err)
	}
	n = r.start()
	n.programIs("felix", nodev1.ProgramState_PROGRAM_STATE_READY)
	s := n.becomes(10*time.Second, nodev1.NodeState_NODE_STATE_DEGRADED)
	if p := s.GetProblems(); len(p) != 1 || p[0].GetObject() != "start-up" || !strings.Contains(p[0].GetReason(), "mend "+path) || strings.Contains(p[0].GetReason(), "etcd does not answer") {
		t.Errorf("problems %v", p)
	}
	if resp, err := etcd.Get(t.Context(), path); err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "garbage" {
		t.Errorf("etcd has %v, %v", resp, err)
	}
	if _, err := etcd.Put(t.Context(), path, "64999"); err != nil {
		t.Fatal(err)
	}
	n.becomes(20*time.Second, nodev1.NodeState_NODE_STATE_HEALTHY)
}

// A second host of a name is refused while the first lives.
func TestANameThatAnotherHostHas(t *testing.T) {
	r := newRig(t)
	n := r.start()
	n.healthy()
	nettest.Eventually(t, 5*time.Second, func() error {
		if r.liveness("calico-node") == nil {
			return fmt.Errorf("the first has no key yet")
		}
		return nil
	})
	other := newRig(t)
	other.env = append(other.env, "ETCD_ENDPOINTS="+r.etcd.Endpoint(), "CALICO_BOOT_ID=another")
	second := other.start()
	second.end(45 * time.Second) // a sign of life comes within ten seconds, and is waited for longer
	if out := second.out.String(); second.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(out, "has the node name 'node00'") {
		t.Errorf("%v: %s", second.err, out)
	}
	n.healthy()
}

// An address that the host was given while it runs is its node's.
func TestAnAddressThatChangesIsFollowed(t *testing.T) {
	r := newRig(t)
	r.env = slices.DeleteFunc(r.env, func(v string) bool { return strings.HasPrefix(v, "IP=") })
	r.env = append(r.env, "AUTODETECT_POLL_INTERVAL=1s", "IP_AUTODETECTION_METHOD=interface=eth0")
	n := r.start()
	if got := n.healthy().GetAddresses(); !slices.Equal(got, []string{"10.99.0.1/24"}) {
		t.Fatalf("addresses %v", got)
	}
	nettest.Run(t, "ip", "addr", "del", "10.99.0.1/24", "dev", "eth0")
	nettest.Run(t, "ip", "addr", "add", "10.99.0.2/24", "dev", "eth0")
	t.Cleanup(func() { nettest.Run(t, "ip", "addr", "replace", "10.99.0.1/24", "dev", "eth0") })
	t.Cleanup(func() { nettest.Run(t, "ip", "addr", "flush", "dev", "eth0", "scope", "global") })
	nettest.Eventually(t, 20*time.Second, func() error {
		s, err := n.status()
		if err == nil && !slices.Equal(s.GetAddresses(), []string{"10.99.0.2/24"}) {
			err = fmt.Errorf("addresses %v", s.GetAddresses())
		}
		return err
	})
	resp, err := r.etcd.Client(t).Get(t.Context(), "/calico/bgp/v1/host/node00/ip_addr_v4")
	if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "10.99.0.2" {
		t.Errorf("etcd has %v, %v", resp, err)
	}
}

// Waiting for etcd can be ended.
func TestASignalEndsTheWaitForEtcd(t *testing.T) {
	r := newRig(t)
	r.etcd.Stop()
	n := r.start()
	n.becomes(10*time.Second, nodev1.NodeState_NODE_STATE_STARTING)
	n.signal(syscall.SIGTERM)
	if took := n.end(6 * time.Second); n.err != nil {
		t.Errorf("ended after %s: %v", took, n.err)
	}
}

// What waiting does not mend ends it, with the words that users of the original know.
func TestAnErrorThatStays(t *testing.T) {
	for name, variable := range map[string]string{
		"CALICO_NETWORKING_BACKEND=x: use gobgp, bird or none": "CALICO_NETWORKING_BACKEND=x",
		"IP=1.2.3 is not an IPv4 address":                      "IP=1.2.3",
	} {
		r := newRig(t)
		r.env = append(r.env, variable)
		n := r.start()
		n.end(10 * time.Second)
		if out := n.out.String(); n.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(out, name) || !strings.HasSuffix(out, "Calico node failed to start\n") {
			t.Errorf("%s: %v: %s", variable, n.err, out)
		}
	}
}
