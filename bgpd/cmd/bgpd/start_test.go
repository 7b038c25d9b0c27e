//go:build !race

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// runOnce runs bgpd until it ends by itself, and returns what it said.
func (n *node) runOnce() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), converge)
	defer cancel()
	cmd := n.Command(ctx, os.Args[0], "run", "--config", n.config(), "--run-dir", n.runDir(), "--state-dir", n.runDir())
	cmd.Env = n.command().Env
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return string(out), fmt.Errorf("it did not end: %w", ctx.Err())
	}
	return string(out), err
}

func TestStart_refuses_with_one_sentence(t *testing.T) {
	l := newLab(t, 1)
	n := l.nodes[0]
	n.write()
	expect := func(what, sentence string) {
		t.Helper()
		out, err := n.runOnce()
		if err == nil || err.Error() != "exit status 1" {
			t.Errorf("%s: it ended with %v", what, err)
		}
		if !strings.Contains(out, sentence) || strings.Contains(out, "panic") {
			t.Errorf("%s: it said\n%s\nwant %q", what, out, sentence)
		}
	}

	n.Do(func() { n.ServeTCP(179) })
	n.writeText(strings.ReplaceAll(n.text(), `, "fd00::1"]`, `]`))
	expect("port in use", "bgpd: listen on 10.0.0.1:179: the port is in use by another program; stop that one (another bgpd, or BIRD?) or choose another listen_port")

	n.writeText(strings.Replace(n.text(), "as_number", "listen_port = 1179\nas_number", 1))
	n.start()
	n.awaitOutput("BGP started")
	expect("second bgpd", "bgpd.sock: in use by another process; stop that one first, or use another --run-dir")
	if got := n.status(); got.GetNode() != n.name {
		t.Errorf("the first one says %v", got)
	}
}

func TestConfig_waits_keeps_the_last_good_and_follows(t *testing.T) {
	l := newLab(t, 1)
	n := l.nodes[0]
	n.giveBlock("192.168.0.0/26")
	n.start()
	n.awaitOutput("waiting for the configuration file")
	if st := n.status(); st.GetInSync() || !strings.Contains(st.GetConfigError(), "no such file") {
		t.Errorf("status is %v", st)
	}
	if err := n.reload(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("reload: %v", err)
	}

	// Not confd's directory alone: the file appears without a reload.
	n.write()
	n.awaitRoute("192.168.0.0/26", "blackhole 192.168.0.0/26 proto bird")
	hash := n.status().GetConfigHash()

	n.writeText(n.text() + "[[pool]]\ncidr = \"nonsense\"\n")
	err := n.reload()
	if err == nil || !strings.Contains(err.Error(), `pool[2].cidr: "nonsense" is not a network`) {
		t.Errorf("reload of a bad file: %v", err)
	}
	if st := n.status(); st.GetConfigHash() != hash || !strings.Contains(st.GetConfigError(), "nonsense") || !st.GetInSync() {
		t.Errorf("status is %v", st)
	}

	n.writeText(strings.Replace(n.text(), n.name, "another", 1))
	if err := n.reload(); err == nil || !strings.Contains(err.Error(), `is for node "another", but this host is "node00"`) {
		t.Errorf("reload of another node's file: %v", err)
	}

	// An address that the host does not have is refused while running, and taken once
	// it has it.
	n.writeText(strings.Replace(n.text(), `"10.0.0.1", "fd00::1"`, `"10.0.0.9", "fd00::1"`, 1))
	if err := n.reload(); err == nil || !strings.Contains(err.Error(), "this host does not have the address") {
		t.Errorf("reload with a foreign address: %v", err)
	}
	if st := n.status(); st.GetConfigHash() != hash {
		t.Errorf("status is %v", st)
	}
	n.Run("ip", "addr", "add", "10.0.0.9/24", "dev", "eth0")
	if err := n.reload(); err != nil {
		t.Error(err)
	}
	if st := n.status(); st.GetConfigHash() == hash || st.GetConfigError() != "" {
		t.Errorf("status is %v", st)
	}

	// The reload answers after the new document is in force.
	n.doc.pools = "[[pool]]\ncidr = \"192.168.0.0/16\"\nexport = false\n"
	n.mustReload()
	routes, err := n.routesOf()
	if err != nil || len(routes) != 1 || routes[0].GetAdvertised() {
		t.Errorf("right after the reload: %v (%v)", routes, err)
	}
	if err := os.Remove(n.config()); err != nil {
		t.Fatal(err)
	}
	if err := n.reload(); err == nil {
		t.Error("a reload of nothing succeeded")
	}
	if got := n.routes("192.168.0.0/26"); got == "" {
		t.Error("without its file bgpd dropped the block")
	}
}

func TestStop_is_quick_and_quiet(t *testing.T) {
	l := newLab(t, 1)
	n := l.nodes[0]
	n.write()
	n.start()
	n.awaitOutput("BGP started")
	start := time.Now()
	if err := n.proc.Stop(5 * time.Second); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, s := range []string{"bgpd.sock", "gobgp.sock", "gobgp6.sock"} {
		if _, err := os.Stat(n.runDir() + "/" + s); err == nil {
			t.Errorf("%s is left", s)
		}
	}
}
