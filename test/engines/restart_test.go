package engines

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"calico.internal/test/internal/labtest"
)

func engineRestarted(t *testing.T, r *rig)     { engineAway(t, r, "stop", false) }
func engineKilled(t *testing.T, r *rig)        { engineAway(t, r, "kill", false) }
func engineRestartedLive(t *testing.T, r *rig) { engineAway(t, r, "stop", true) }
func engineKilledLive(t *testing.T, r *rig)    { engineAway(t, r, "kill", true) }

// engineAway ends the engine and starts it again. Containers that are to run do so afterwards, and are reached; of those
// that are not, nothing is left but themselves. With live-restore all run on, and no probe of theirs is lost.
func engineAway(t *testing.T, r *rig, how string, live bool) {
	h := r.host()
	r.network(t, "one", "")
	r.start(t, r.peer(), "peer", "--net one")
	was := r.start(t, h, "stays", "--restart=always --stop-signal=KILL --net one")
	// Both end at once when they are told to, as programs should.
	r.start(t, h, "goes", "--stop-signal=KILL --net one")
	if live {
		liveRestore(t, r, true)
		defer liveRestore(t, r, false)
		traffic, err := r.peer().Send(t.Context(), "t-peer", was)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if got, err := traffic.End(); err != nil || got.Lost > 0 {
				t.Errorf("probes while the engine was away: %s, want 0 lost; %v", got, err)
			}
		}()
	}
	began := time.Now()
	on(t, h, "lab-host-engine %s", how)
	on(t, h, "lab-host-engine start")
	engine := time.Since(began)
	r.nodeServes(t)
	eventually(t, 30*time.Second, "the container that stays runs", func() error {
		out, err := h.On(t.Context(), "docker inspect --format '{{.State.Running}}' t-stays")
		if err == nil && strings.TrimSpace(out) != "true" {
			err = errors.New("it does not run")
		}
		return err
	})
	is := address(t, h, "stays")
	r.reaches(t, "peer", is)
	t.Logf("after the engine's %s it answered in %.1f s, its container in %.1f s", how, engine.Seconds(), time.Since(began).Seconds())
	if live && is != was {
		t.Errorf("the container's address was %s and is %s", was, is)
	}
	if out := on(t, h, "docker inspect --format '{{.State.Running}}' t-goes"); out != fmt.Sprint(live) {
		t.Errorf("the container without a restart policy runs: %s", out)
	}
	// The network serves as before.
	r.reaches(t, "peer", r.start(t, h, "later", "--net one"))
}

// liveRestore switches the engine's live-restore on or off, as an operator does.
func liveRestore(t *testing.T, r *rig, live bool) {
	t.Helper()
	h := r.host()
	on(t, h, `f=/etc/docker/daemon.json; mkdir -p /etc/docker; [ -e $f ] || echo '{}' >$f
		sed -i -E 's/"live-restore": (true|false)(, )?//; s/^\{/{"live-restore": %t, /; s/, \}/}/' $f && kill -HUP "$(cat /run/lab-host.engine)"`, live)
	eventually(t, 10*time.Second, "the engine has taken live-restore over", func() error {
		out, err := h.On(t.Context(), "docker info --format '{{.LiveRestoreEnabled}}'")
		if err == nil && strings.TrimSpace(out) != fmt.Sprint(live) {
			err = fmt.Errorf("it is %s", out)
		}
		return err
	})
}

// pluginAbsent: an engine that starts without the plugin knows its networks, refuses what needs the plugin with a sentence
// that names it, and serves when the plugin is there; the containers that are to run do so then.
func pluginAbsent(t *testing.T, r *rig) {
	h := r.host()
	r.network(t, "one", "")
	r.start(t, r.peer(), "peer", "--net one")
	r.start(t, h, "stays", "--restart=always --net one")
	on(t, h, "docker update --restart=no calico-node")
	on(t, h, "lab-host-engine stop")
	on(t, h, "lab-host-engine start")
	if out := on(t, h, "docker network ls --filter driver=calico --format '{{.Name}}'"); out != "one" {
		t.Errorf("networks without the plugin: %s", out)
	}
	labtest.Refused(t, h, "docker run --name t-early --net one calico/workload:"+r.Version, "calico")
	on(t, h, "docker update --restart=always calico-node")
	on(t, h, "docker start calico-node")
	r.nodeServes(t)
	eventually(t, time.Minute, "the container that stays is reached", func() error {
		out, err := h.On(t.Context(), "docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' t-stays")
		if err != nil {
			return err
		}
		_, err = r.peer().On(t.Context(), fmt.Sprintf("docker exec t-peer probe once %s:7777", strings.TrimSpace(out)))
		return err
	})
}

// nodeServes waits until all programs of the host are ready.
func (r *rig) nodeServes(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, "the node serves", func() error {
		_, err := r.host().On(t.Context(), "calicoctl node status")
		return err
	})
}
