package daemon

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"calico.internal/libcalico/etcdtest"
	libipam "calico.internal/libcalico/ipam"
	"calico.internal/libnetwork-plugin/internal/enginetest"
)

// heard is a log that may be read while it is written.
type heard struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.Write(p)
}

// lines are the lines in which all texts stand.
func (h *heard) lines(texts ...string) (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
next:
	for line := range strings.Lines(h.text.String()) {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		out = append(out, line)
	}
	return out
}

// held are the addresses that are in use.
func (h *host) held() (addrs []netip.Addr) {
	h.t.Helper()
	all, err := libipam.New(h.store, h.cfg.Node).Inventory(h.t.Context())
	must(h.t, err)
	for a := range all.Holdings() {
		addrs = append(addrs, a.Addr)
	}
	return addrs
}

// TestAnAddressThatEtcdDoesNotTakeBackIsLogged lets etcd run full between the write that gives
// an address out, whose answer is lost, and the one that takes it back.
func TestAnAddressThatEtcdDoesNotTakeBackIsLogged(t *testing.T) {
	proxy := etcdtest.Shared(t).Proxy(t)
	h := newHost(t, enginetest.Docker29)
	log := &heard{}
	h.heard = log
	h.env["ETCD_ENDPOINTS"] = proxy.Endpoint()
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	h.create(web) // the node has a block from now on
	before := h.held()

	proxy.Lose(1, etcdtest.AnswerHeld)
	refused := make(chan error, 1)
	go func() {
		_, answer, err := h.attempt("IpamDriver.RequestAddress", `{"PoolID":"CalicoPoolIPv4","Address":"","Options":{}}`)
		refused <- errors.Join(answer, err)
	}()
	enginetest.Eventually(t, "etcd has given out the address", func() bool { return len(h.held()) == len(before)+1 })
	alarms := etcdserverpb.NewMaintenanceClient(h.raw.ActiveConnection())
	full := &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_ACTIVATE, Alarm: etcdserverpb.AlarmType_NOSPACE}
	must(t, first(alarms.Alarm(t.Context(), full)))
	room := &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_DEACTIVATE, Alarm: etcdserverpb.AlarmType_NOSPACE}
	defer func() { must(t, first(alarms.Alarm(t.Context(), room))) }()
	if err := <-refused; err == nil {
		t.Error("an address was given out whose answer was lost")
	}
	enginetest.Eventually(t, "the log says which address stays in use", func() bool {
		return len(log.lines("level=ERROR", "stays in use", "tried again")) > 0
	})
	lost := slices.DeleteFunc(h.held(), func(a netip.Addr) bool { return slices.Contains(before, a) })[0]
	if lines := log.lines("stays in use"); len(lines) != 1 || !strings.Contains(lines[0], lost.String()) || !strings.Contains(lines[0], "space") {
		t.Errorf("of %s the log says: %v", lost, lines)
	}
}

// TestAnAddressThatIsTakenBackAtLastIsLogged has one line for each address, and says that it
// is over.
func TestAnAddressThatIsTakenBackAtLastIsLogged(t *testing.T) {
	log := &heard{}
	d := &daemon{log: slog.New(slog.NewTextHandler(log, nil))}
	addrs := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
	d.owing(libipam.Owed{Addrs: addrs, Err: errors.New("no right")})
	d.owing(libipam.Owed{Addrs: addrs})
	for _, a := range addrs {
		if n := len(log.lines("level=ERROR", "stays in use", a.String(), "no right")); n != 1 {
			t.Errorf("%s: %d lines say that it stays in use", a, n)
		}
		if n := len(log.lines("level=INFO", "taken back at last", a.String())); n != 1 {
			t.Errorf("%s: %d lines say that it was taken back", a, n)
		}
	}
}
