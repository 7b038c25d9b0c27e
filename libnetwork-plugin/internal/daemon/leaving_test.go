package daemon

import (
	"testing"
	"time"

	"calico.internal/libnetwork-plugin/internal/enginetest"
)

// TestAnEngineThatIsShutDownFindsThePluginUntilItsContainersHaveLeft ends the plugin as an engine
// does that is shut down: after its API, and together with all other containers.
func TestAnEngineThatIsShutDownFindsThePluginUntilItsContainersHaveLeft(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	addr := h.create(web)
	h.running(web, addr)
	h.engine.Down(t)
	ended := make(chan error, 1)
	begun := time.Now()
	go func() { ended <- h.stop() }()
	select {
	case err := <-ended:
		t.Fatalf("the plugin ended while a container was there: %v", err)
	case <-time.After(time.Second):
	}
	h.remove(web, addr)
	must(t, <-ended)
	if took := time.Since(begun); took > leavingLimit {
		t.Errorf("it took %s although nothing was left", took)
	}
	h.nothingLeft()
}

// TestAPluginThatEndsAloneEndsAtOnce leaves its containers to the next.
func TestAPluginThatEndsAloneEndsAtOnce(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	h.running(web, h.create(web))
	begun := time.Now()
	must(t, h.stop())
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it took %s", took)
	}
}
