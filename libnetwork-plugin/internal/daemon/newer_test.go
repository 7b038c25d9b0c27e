package daemon

import (
	"testing"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/version"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/enginetest"
)

// TestWhatANewerProgramWroteSurvives joins a container whose endpoint has fields that this
// plugin does not know.
func TestWhatANewerProgramWroteSurvives(t *testing.T) {
	h := newHost(t, enginetest.Docker29)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	addr := h.create(web)
	const newer = model.Unknown(`"newer":{"a":[1]}`)
	ep := h.endpoint(epA)
	ep.Unknown = newer
	must(t, first(h.store.Update(t.Context(), endpoint.Key(h.cfg.Node, epA), ep, 0)))
	h.ok("NetworkDriver.Join", "%s", joinBody(web))
	h.running(web, addr)
	switch ep := h.endpoint(epA); {
	case ep.Unknown != newer:
		t.Errorf("of the endpoint is left %q", ep.Unknown)
	case len(ep.Annotations) == 0:
		t.Error("Join has written nothing")
	}
	h.remove(web, addr)
	h.nothingLeft()
}

// TestTooOldForTheStore raises the version that the store asks for while the plugin runs.
func TestTooOldForTheStore(t *testing.T) {
	h := newHost(t, enginetest.Docker29)
	own := version.Version
	version.Version = "v0.2.0"
	t.Cleanup(func() { version.Version = own })
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	addr := h.create(web)
	raised := &model.Setting{Of: model.KindMinVersion, Value: "v0.3.0"}
	must(t, first(h.store.Create(t.Context(), model.MinVersionKey{}, raised)))
	before := h.endpoint(epA)
	const sentence = "this store is for v0.3.0 and later; this is v0.2.0: upgrade this program"
	h.refused("IpamDriver.RequestAddress", `{"PoolID":"CalicoPoolIPv4","Address":"","Options":{}}`, sentence)
	h.refused("NetworkDriver.Join", joinBody(web), sentence)
	if after := h.endpoint(epA); !endpoint.Equal(before, after) {
		t.Errorf("the endpoint has been changed: %+v", after)
	}
	if who := h.owner(addr); who.Handle != epA {
		t.Errorf("the address is %q's", who.Handle)
	}
	must(t, first(h.store.Delete(t.Context(), model.MinVersionKey{}, 0)))
	h.ok("NetworkDriver.Join", "%s", joinBody(web))
}
