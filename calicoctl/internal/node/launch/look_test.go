package launch

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"

	"calico.internal/libcalico/nodestart/address"
)

func TestCheckAddresses(t *testing.T) {
	here := []address.Interface{
		{Name: "lo", Up: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
		{Name: "docker0", Up: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}},
		{Name: "eth0", Up: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("172.28.8.100/24"), netip.MustParsePrefix("fd00::1/64")}},
	}
	for _, tc := range []struct {
		name, ip, ip6, backend, want string
	}{
		{"ours", "172.28.8.100", "fd00::1", "gobgp", ""},
		{"with its subnet", "172.28.8.100/16", "", "gobgp", ""},
		{"nobody's", "172.28.8.1", "", "gobgp", "--ip=172.28.8.1: no interface of this host has this address. There are: eth0 172.28.8.100/24"},
		{"nobody's of IPv6", "", "fd00::2", "gobgp", "--ip6=fd00::2: no interface of this host has this address. There are: eth0 fd00::1/64"},
		{"nobody's, and not used", "172.28.8.1", "", "none", ""},
		{"found by the start-up", "autodetect", "none", "gobgp", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := checkAddresses(Options{IP: tc.ip, IP6: tc.ip6, Backend: tc.backend}, here)
			if got := fmt.Sprint(err); err == nil && tc.want != "" || err != nil && got != tc.want {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// socket is a line of /proc/net/tcp.
func socket(address, state, inode string) string {
	return "   0: " + address + " 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000     0        0 " + inode + " 1 0 100 0 0 10 0\n"
}

func TestCheckPort(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	proc := func(tcp, tcp6 string) fstest.MapFS {
		return fstest.MapFS{
			"net/tcp": {Data: []byte(head + tcp)}, "net/tcp6": {Data: []byte(head + tcp6)},
			"40/fd/3":  {Data: []byte("socket:[777]"), Mode: os.ModeSymlink},
			"40/comm":  {Data: []byte("bird\n")},
			"40/stat":  {Data: []byte("40 (bi ) 1 rd) S 30 40 40 0")},
			"30/stat":  {Data: []byte("30 (runsv) S 1 30 30 0")},
			"41/fd":    {Mode: os.ModeDir},
			"self/fd/": {Mode: os.ModeDir},
		}
	}
	const any4, node4, loopback, other = "00000000:00B3", "64081CAC:00B3", "0100007F:00B3", "0101A8C0:00B3"
	for _, tc := range []struct {
		name    string
		proc    fstest.MapFS
		backend string
		own     []int
		want    string
	}{
		{"free", proc("", ""), "gobgp", nil, ""},
		{"taken on all addresses", proc(socket(any4, "0A", "777"), ""), "gobgp", nil, "port 179 on 0.0.0.0, which BGP needs, is taken by bird (process 40): stop it, or use --backend=none"},
		{"taken on the node's", proc(socket(node4, "0A", "777"), ""), "gobgp", nil, "port 179 on 172.28.8.100,"},
		{"taken on all of IPv6", proc("", socket("00000000000000000000000000000000:00B3", "0A", "777")), "gobgp", nil, "port 179 on ::,"},
		{"by nobody that can be seen", proc(socket(any4, "0A", "778"), ""), "gobgp", nil, "is taken by another program"},
		{"by the container that is replaced", proc(socket(any4, "0A", "777"), ""), "gobgp", []int{30}, ""},
		{"by another container", proc(socket(any4, "0A", "777"), ""), "gobgp", []int{31}, "is taken by bird"},
		{"of another address", proc(socket(other, "0A", "777"), ""), "gobgp", nil, ""},
		{"of the loopback", proc(socket(loopback, "0A", "777"), ""), "gobgp", nil, ""},
		{"a connection only", proc(socket(any4, "01", "777"), ""), "gobgp", nil, ""},
		{"not needed", proc(socket(any4, "0A", "777"), ""), "none", nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := checkPort(tc.proc, Options{IP: "172.28.8.100", Backend: tc.backend}, tc.own)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestListenersOfThisHost finds a socket of this process in the real /proc.
func TestListenersOfThisHost(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // the test is over
	want := netip.MustParseAddrPort(l.Addr().String())
	proc := os.DirFS("/proc")
	for _, found := range listeners(proc) {
		if found.addr != want {
			continue
		}
		if pid := holder(proc, found.inode); pid != os.Getpid() || !descends(proc, pid, []int{os.Getppid()}) {
			t.Errorf("it is held by %d, not by %d", pid, os.Getpid())
		}
		return
	}
	t.Errorf("%s is not among %v", want, listeners(proc))
}

func TestWhatTheCheckOfAStartUpMeans(t *testing.T) {
	for _, tc := range []struct {
		name, script, want, says string
	}{
		{"it would be done", "echo fine", "", ""},
		{"it would not", "echo the address is taken; echo Terminating; exit 1", "calico/node would not start here:\n | the address is taken\nNothing was changed", ""},
		{"it fails without a word", "exit 1", "the start-up of i cannot be asked: exit status 1\nNothing was changed", ""},
		{"an image that knows no check", "echo unknown; exit 2", "", "cannot say beforehand"},
		{"an image without the program", "exit 127", "", "cannot say beforehand"},
		{"the engine's own failure", "exit 125", "the start-up of i cannot be asked: exit status 125\nNothing was changed", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var said strings.Builder
			out, err := exec.CommandContext(t.Context(), "sh", "-c", tc.script).Output()
			err = judgeCheck(t.Context(), &said, "i", string(out), err)
			if got := fmt.Sprint(err); err == nil && tc.want != "" || err != nil && got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if !strings.Contains(said.String(), tc.says) || tc.says == "" && said.Len() > 0 {
				t.Errorf("it says %q", said.String())
			}
		})
	}
}
