package sysctls

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"calico.internal/libcalico/nettest"
	"calico.internal/libcalico/reconcile"
)

func changes(wanted map[Key]string) (c reconcile.Changes[Key, string]) {
	for k, v := range wanted {
		c.Set = append(c.Set, reconcile.Item[Key, string]{Key: k, Value: v})
	}
	return c
}

func TestAnInterfaceGetsWhatItNeeds(t *testing.T) {
	nettest.Isolate(t)
	nettest.Run(t, "ip", "link", "add", "cali.1", "type", "veth", "peer", "name", "p")
	target := New(Root, Host{})
	wanted := OfInterface("cali.1", true)
	if err := target.Apply(t.Context(), changes(wanted)); err != nil {
		t.Fatal(err)
	}
	for key, want := range wanted {
		if got, err := target.Read(key); got != want || err != nil {
			t.Errorf("%s is %q, %v; want %q", key, got, err, want)
		}
	}
	// A value that somebody changed is seen.
	const arp = "net/ipv4/conf/cali.1/proxy_arp"
	if err := os.WriteFile(filepath.Join(Root, arp), []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	have, err := target.List(t.Context())
	if err != nil || have[arp] != "0" || len(have) != len(wanted) {
		t.Errorf("list gives %v, %v", have, err)
	}
	// The settings go with the interface, and are not missed.
	nettest.Run(t, "ip", "link", "del", "cali.1")
	have, err = target.List(t.Context())
	if err != nil || have[arp] != "1" {
		t.Errorf("list without the interface gives %v, %v", have, err)
	}
	if err := target.Apply(t.Context(), changes(wanted)); err != nil {
		t.Errorf("settings of an interface that is gone: %v", err)
	}
}

func TestARightValueIsNotWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "net", "x")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	target := New(dir, Host{})
	if err := target.Apply(t.Context(), changes(map[Key]string{"net/x": "1", "net/absent": "1"})); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(path); string(text) != "1\n" {
		t.Errorf("the file was written: %q", text)
	}
	if err := target.Apply(t.Context(), changes(map[Key]string{"net/x": "0"})); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(path); string(text) != "0" {
		t.Errorf("the file holds %q, want 0", text)
	}
}

func TestAPathCannotLeaveTheSettings(t *testing.T) {
	dir := t.TempDir()
	target := New(filepath.Join(dir, "sys"), Host{})
	outside := filepath.Join(dir, "outside")
	if err := os.WriteFile(outside, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	for key := range OfInterface("../../../../outside", true) {
		err := target.Apply(t.Context(), changes(map[Key]string{key: "1", "../outside": "1"}))
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: got %v", key, err)
		}
	}
	if text, _ := os.ReadFile(outside); string(text) != "0" {
		t.Error("a file outside was written")
	}
}
