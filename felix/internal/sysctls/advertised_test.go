package sysctls

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"calico.internal/libcalico/nettest"
)

// hostWithInterfaces makes a namespace with interfaces of the host's and of workloads, of
// which forwarding is off. conf reads the accept_ra of one.
func hostWithInterfaces(t *testing.T) (target *Target, raised *[]string, conf func(iface string) string) {
	t.Helper()
	nettest.Isolate(t)
	for _, pair := range [][2]string{{"eth0", "eth1"}, {"eth2", "eth3"}, {"cali1", "cali2"}} {
		nettest.Run(t, "ip", "link", "add", pair[0], "type", "veth", "peer", "name", pair[1])
	}
	raised = new([]string)
	target = New(Root, Host{
		Own:    func(name string) bool { return !strings.HasPrefix(name, "cali") },
		Raised: func(names []string) { *raised = append(*raised, names...) },
	})
	return target, raised, func(iface string) string {
		t.Helper()
		value, err := target.Read(Key("net/ipv6/conf/" + iface + "/accept_ra"))
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func write(t *testing.T, key Key, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(Root, string(key)), []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

func TestForwardingKeepsWhatInterfacesTookOfAdvertisements(t *testing.T) {
	// Both switches have the kernel drop default routes on all interfaces.
	for _, key := range []Key{ForwardIPv6, "net/ipv6/conf/cali1/forwarding"} {
		t.Run(string(key), func(t *testing.T) {
			target, raised, acceptRA := hostWithInterfaces(t)
			write(t, "net/ipv6/conf/eth1/accept_ra", "0") // another program's, or nobody's
			write(t, "net/ipv6/conf/eth2/accept_ra", "2")
			write(t, "net/ipv6/conf/eth3/forwarding", "1") // takes none as it is
			if err := target.Apply(t.Context(), changes(map[Key]string{key: "1"})); err != nil {
				t.Fatal(err)
			}
			for iface, want := range map[string]string{"eth0": "2", "eth1": "0", "eth2": "2", "eth3": "1", "default": "2", "cali1": "1", "all": "1", "lo": "1"} {
				if got := acceptRA(iface); got != want {
					t.Errorf("accept_ra of %s is %s, want %s", iface, got, want)
				}
			}
			if want := []string{"default", "eth0"}; !slices.Equal(*raised, want) {
				t.Errorf("told of %v, want %v", *raised, want)
			}
			if got, err := target.Read(key); got != "1" || err != nil {
				t.Errorf("%s is %s, %v", key, got, err)
			}
			nettest.Run(t, "ip", "link", "add", "later0", "type", "veth", "peer", "name", "later1")
			if got := acceptRA("later0"); got != "2" {
				t.Errorf("accept_ra of a later interface is %s, want 2", got)
			}
			// Once is enough: nothing of it is left to raise when it was switched off and on.
			write(t, key, "0")
			*raised = nil
			if err := target.Apply(t.Context(), changes(map[Key]string{key: "1"})); err != nil || slices.Contains(*raised, "eth0") {
				t.Errorf("again: told of %v, %v", *raised, err)
			}
		})
	}
}

func TestWhereIPv6IsForwardedAlreadyNothingIsRaised(t *testing.T) {
	target, raised, acceptRA := hostWithInterfaces(t)
	write(t, ForwardIPv6, "1")
	if err := target.Apply(t.Context(), changes(map[Key]string{ForwardIPv6: "1", "net/ipv6/conf/cali1/forwarding": "1"})); err != nil {
		t.Fatal(err)
	}
	if got := acceptRA("eth0"); got != "1" || len(*raised) > 0 {
		t.Errorf("accept_ra is %s, told of %v", got, *raised)
	}
}

func TestWithoutAdvertisementsKeptThereIsNoForwarding(t *testing.T) {
	dir := t.TempDir()
	put := func(key Key, value string) {
		t.Helper()
		path := filepath.Join(dir, string(key))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(value), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	put(ForwardIPv6, "0")
	put("net/ipv6/conf/eth0/forwarding", "0")
	// A folder in its place can be neither read nor written.
	if err := os.MkdirAll(filepath.Join(dir, "net/ipv6/conf/eth0/accept_ra"), 0o700); err != nil {
		t.Fatal(err)
	}
	target := New(dir, Host{})
	err := target.Apply(t.Context(), changes(map[Key]string{ForwardIPv6: "1"}))
	if err == nil || !strings.Contains(err.Error(), "accept_ra of eth0") {
		t.Errorf("got %v", err)
	}
	if got, err := target.Read(ForwardIPv6); got != "0" || err != nil {
		t.Errorf("forwarding is %s, %v", got, err)
	}
}
