package daemon_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/nettest"
)

func TestWithoutEtcdAllStaysAndItsReturnIsNoticed(t *testing.T) {
	etcd := etcdtest.Start(t)
	w := newWorld(t, etcd)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	w.network("net2")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	c := h.container("cccc", "net2", "192.168.0.3")
	etcd.Stop()
	nettest.Eventually(t, patience, func() error {
		st, err := h.status()
		if err == nil && st.GetDatastoreConnected() {
			err = errors.New("felix has not noticed")
		}
		return err
	})
	w.canReach(a, b)
	w.cannotReach(a, c)
	// Others' damage is still repaired.
	h.Run("iptables-nft", "-F", "cali-tw-calibbbb")
	nettest.Eventually(t, time.Second, func() error {
		if !strings.Contains(h.Run("iptables-nft-save"), "-A cali-tw-calibbbb") {
			return errors.New("not repaired")
		}
		return nil
	})
	if err := etcd.Restart(); err != nil {
		t.Fatal(err)
	}
	rev := w.opening()
	if err := h.wait(c, rev, 2*time.Second); err != nil {
		t.Error(err)
	}
	w.canReach(a, c)
}

func TestWhatABackupTookBackGoesOutOfForce(t *testing.T) {
	etcd := etcdtest.Start(t)
	w := newWorld(t, etcd)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	w.network("net2")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	c := h.container("cccc", "net2", "192.168.0.3")
	w.cannotReach(a, c)
	if err := etcd.Save(); err != nil {
		t.Fatal(err)
	}
	rev := w.opening()
	if err := h.wait(c, rev, patience); err != nil {
		t.Fatal(err)
	}
	w.canReach(a, c)
	if err := etcd.Restore(); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, 2*time.Second, func() error {
		if strings.Contains(h.Run("iptables-nft-save")+h.Run("ip6tables-nft-save"), "default/open") {
			return errors.New("the policy is still in force")
		}
		return nil
	})
	w.cannotReach(a, c)
}

func TestAnEtcdThatHangsIsNoticedAndTrafficHolds(t *testing.T) {
	etcd := etcdtest.Start(t)
	w := newWorld(t, etcd)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	w.network("net2")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	c := h.container("cccc", "net2", "192.168.0.3")
	if err := etcd.Pause(); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, patience, func() error {
		st, err := h.status()
		if err == nil && st.GetDatastoreConnected() {
			err = errors.New("felix has not noticed")
		}
		return err
	})
	w.canReach(a, b)
	w.cannotReach(a, c)
	if err := etcd.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := h.wait(c, w.opening(), 2*time.Second); err != nil {
		t.Error(err)
	}
	w.canReach(a, c)
}

func TestFelixWithoutEtcdFromTheStartTouchesNothing(t *testing.T) {
	etcd := etcdtest.Start(t)
	w := newWorld(t, etcd)
	w.network("net1")
	h := w.addHost(0, iptables.NFT)
	etcd.Stop()
	before := h.dump()
	h.start()
	nettest.Eventually(t, patience, func() error {
		st, err := h.status()
		if err == nil && st.GetInSync() {
			err = errors.New("in sync with nothing")
		}
		return err
	})
	if d := cmp.Diff(before, h.dump()); d != "" {
		t.Errorf("the kernel was touched: %s", d)
	}
	if err := etcd.Restart(); err != nil {
		t.Fatal(err)
	}
	h.awaitSync()
}

// TestAFullEtcdIsNamed fills etcd: nothing changes for traffic and readiness, and the
// status says what is wrong and how to mend it.
func TestAFullEtcdIsNamed(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.SmallQuota())
	w := newWorld(t, etcd)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	w.network("net2")
	h.startInSync("REPORTINGINTERVALSECS=1")
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	c := h.container("cccc", "net2", "192.168.0.3")
	etcd.Fill(t)
	problem := func() string {
		st, err := h.status()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range st.GetProblems() {
			if p.GetObject() == "etcd" {
				return p.GetReason()
			}
		}
		return ""
	}
	nettest.Eventually(t, patience, func() error {
		if p := problem(); !strings.Contains(p, "etcdctl alarm disarm") {
			return fmt.Errorf("the problem reads %q", p)
		}
		return nil
	})
	if st, err := h.status(); err != nil || !st.GetDatastoreConnected() || !st.GetInSync() {
		t.Errorf("status %v, %v", st, err)
	}
	w.canReach(a, b)
	w.cannotReach(a, c)

	etcd.MakeRoom(t)
	nettest.Eventually(t, patience, func() error {
		if p := problem(); p != "" {
			return fmt.Errorf("still %q", p)
		}
		return nil
	})
	if err := h.wait(c, w.opening(), recovery); err != nil {
		t.Error(err)
	}
	w.canReach(a, c)
}
