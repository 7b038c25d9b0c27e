package checksystem

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(func() int { return etcdtest.Main(m) })) }

func host(t *testing.T) Host {
	return Host{Root: os.DirFS("/"), Sys: "/proc/sys", RunDir: t.TempDir(), BGPPort: func() string { return "" }}
}

func find(t *testing.T, list []Finding, check string) Finding {
	t.Helper()
	i := slices.IndexFunc(list, func(f Finding) bool { return f.Check == check })
	if i < 0 {
		t.Fatalf("nothing about %s: %+v", check, list)
	}
	return list[i]
}

// want fails unless a finding has a state and says something.
func want(t *testing.T, f Finding, state, words string) {
	t.Helper()
	if f.State != state || !strings.Contains(f.Found+" "+f.Cure, words) || state != OK && state != Untried && f.Cure == "" {
		t.Errorf("got %+v, want %s with %q", f, state, words)
	}
}

// TestTrial has a kernel that can do everything, in whose namespace nothing may be left.
func TestTrial(t *testing.T) {
	nettest.NeedPrivate(t)
	before := nettest.Run(t, "sh", "-c", "ip link; ipset list -n; iptables-nft-save; cat /proc/net/ip_tables_names")
	list, ok := host(t).try(t.Context(), findTools(0), variantNFT)
	if !ok || len(list) < 13 {
		t.Fatalf("nothing was tried: %+v", list)
	}
	for _, f := range list {
		want(t, f, OK, "")
	}
	if after := nettest.Run(t, "sh", "-c", "ip link; ipset list -n; iptables-nft-save; cat /proc/net/ip_tables_names"); after != before {
		t.Errorf("the trial left something:\n%s\nwant\n%s", after, before)
	}
}

// TestToolsOfAContainer has the programs below the root of another process.
func TestToolsOfAContainer(t *testing.T) {
	nettest.NeedPrivate(t)
	tools := findTools(os.Getpid())
	if tools.root == "" {
		t.Fatal("iptables is not where it is in the image: install the package iptables")
	}
	list, _ := host(t).try(t.Context(), tools, variantNFT)
	want(t, find(t, list, "iptables-nft IPv4"), OK, "written")
	want(t, find(t, list, "iptables-legacy IPv6"), OK, "written")
}

// lacking puts programs before the real ones that refuse rules with some words, as a kernel
// does that lacks them; this one lacks nothing.
func lacking(t *testing.T, words string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"iptables-nft-restore", "ip6tables-nft-restore", "iptables-legacy-restore", "ip6tables-legacy-restore"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatalf("%v: install the package iptables", err)
		}
		script := fmt.Sprintf("#!/bin/sh\nrules=$(cat)\ncase \"$rules\" in *%q*) echo 'no such thing' >&2; exit 2;; esac\necho \"$rules\" | exec %s \"$@\"\n", words, path)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestAKernelThatLacksSomething(t *testing.T) {
	nettest.NeedPrivate(t)
	for words, states := range map[string][2]string{
		"-m set":    {Fault, Warning}, // without it nothing is filtered
		"-m socket": {Warning, Warning},
	} {
		t.Run(words, func(t *testing.T) {
			lacking(t, words)
			list, _ := host(t).try(t.Context(), findTools(0), variantLegacy)
			name := "match " + strings.TrimPrefix(words, "-m ")
			want(t, find(t, list, "iptables-legacy IPv4"), states[0], "refused: "+name+" (")
			want(t, find(t, list, "iptables-legacy IPv6"), states[1], "no such thing")
			// The variant that is not used here does not matter.
			want(t, find(t, list, "iptables-nft IPv4"), OK, "refused: "+name)
		})
	}
}

func TestProgramsThatAreNotThere(t *testing.T) {
	nettest.NeedPrivate(t)
	t.Setenv("PATH", t.TempDir())
	list, _ := host(t).try(t.Context(), findTools(0), variantNFT)
	want(t, find(t, list, "iptables-nft IPv4"), Untried, "install Debian's package iptables")
	want(t, find(t, list, "iptables-legacy IPv4"), OK, "not used here")
	want(t, find(t, list, "nftables"), OK, "not needed")
	// What needs no program is tried all the same.
	want(t, find(t, list, "ipset IPv6"), OK, "made")
	want(t, find(t, list, "conntrack IPv6"), OK, "done")
}

// TestAProgramThatHangs is asked once, not for each rule.
func TestAProgramThatHangs(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nft"), []byte("#!/bin/sh\nexec tail -f /dev/null\n"), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	want(t, nftables(t.Context(), findTools(0)), Warning, "did not end within")
	if err := os.Rename(filepath.Join(dir, "nft"), filepath.Join(dir, "iptables-nft-restore")); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	want(t, iptables(t.Context(), findTools(0), families[0], variantNFT, variantNFT), Fault, "did not end within")
	if took := time.Since(start); took > 2*commandTimeout {
		t.Errorf("it took %s", took)
	}
}

// uplinkOf makes an interface with an address.
func uplinkOf(t *testing.T) {
	t.Helper()
	nettest.Run(t, "sh", "-ec", `
ip link add up0 type veth peer name up1
ip addr add 192.0.2.7/24 dev up0
ip link set up1 up; ip link set up0 up`)
	t.Cleanup(func() { nettest.Run(t, "ip", "link", "del", "up0") })
}

func set(t *testing.T, name, value string) {
	t.Helper()
	before := readSetting("/proc/sys", name)
	if err := writeSetting("/proc/sys", name, value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = writeSetting("/proc/sys", name, before) })
}

func TestSettingsOfTheHost(t *testing.T) {
	nettest.NeedPrivate(t)
	h := host(t)
	for value, state := range map[string]string{"0": OK, "1": OK, "2": OK, "3": OK, "8": Fault} {
		set(t, "net/ipv4/conf/all/arp_ignore", value)
		want(t, h.arpIgnore(), state, "it is "+value)
	}
	for value, state := range map[string]string{"0": OK, "1": Warning, "2": OK} {
		set(t, "net/ipv4/conf/all/rp_filter", value)
		want(t, h.reversePaths(), state, "it is "+value)
	}
	want(t, h.forwarding(), OK, "felix sets it")
}

func TestRoutesByAdvertisement(t *testing.T) {
	nettest.NeedPrivate(t)
	h := host(t)
	want(t, h.advertisements(), OK, "no default route")
	uplinkOf(t)
	set(t, "net/ipv6/conf/up0/accept_ra", "1")
	set(t, "net/ipv6/conf/up0/forwarding", "0")
	nettest.Run(t, "ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "up0", "proto", "ra")
	want(t, h.advertisements(), Warning, "net.ipv6.conf.up0.accept_ra=2")
	set(t, "net/ipv6/conf/up0/forwarding", "1")
	nettest.Run(t, "ip", "-6", "route", "replace", "default", "via", "fe80::1", "dev", "up0", "proto", "ra")
	want(t, h.advertisements(), Warning, "no longer takes advertisements on up0")
	set(t, "net/ipv6/conf/up0/accept_ra", "2")
	want(t, h.advertisements(), OK, "stays")
}

func TestMTU(t *testing.T) {
	nettest.NeedPrivate(t)
	want(t, uplink(), Untried, "no default route")
	uplinkOf(t)
	nettest.Run(t, "ip", "route", "add", "default", "via", "192.0.2.1")
	want(t, uplink(), OK, "up0 has 1500")
	nettest.Run(t, "ip", "link", "set", "up0", "mtu", "1450")
	want(t, uplink(), OK, "up0 has 1450")
	nettest.Run(t, "ip", "link", "set", "up0", "mtu", "1200")
	want(t, uplink(), Warning, "too little for IPv6")
}

func TestNameServers(t *testing.T) {
	nettest.NeedPrivate(t)
	uplinkOf(t)
	for text, state := range map[string]string{
		"nameserver 192.0.2.7\n":                          Warning,
		"nameserver 198.51.100.1\nnameserver 192.0.2.7\n": Warning,
		"search a\nnameserver 198.51.100.1\n":             OK,
		"nameserver 127.0.0.53\n":                         OK,
		"# none\n":                                        Warning,
	} {
		h := Host{Root: fstest.MapFS{"etc/resolv.conf": file(text)}}
		want(t, h.names(), state, "")
	}
}

func TestPort(t *testing.T) {
	h := host(t)
	want(t, h.port(), OK, "free")
	h.BGPPort = func() string { return "bird (process 7)" }
	want(t, h.port(), Fault, "taken by bird")
	if err := os.WriteFile(filepath.Join(h.RunDir, "bgpd.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, h.port(), OK, "as it should")
}

func connect(cfg etcdstore.Config) func(context.Context) (*etcdstore.Client, error) {
	return func(ctx context.Context) (*etcdstore.Client, error) {
		client, err := etcdstore.New(cfg)
		if err != nil {
			return nil, err
		}
		return client, client.Ping(ctx)
	}
}

func TestDatastore(t *testing.T) {
	etcd := etcdtest.Start(t)
	cfg := etcdstore.Config{Endpoints: []string{etcd.Endpoint()}}
	raw := etcd.Client(t)
	list := Datastore(t.Context(), cfg, "n1", connect(cfg))
	want(t, find(t, list, "etcd"), OK, "answers")
	want(t, find(t, list, "etcd latency"), OK, "ms")
	want(t, find(t, list, "clock"), OK, "within")
	got, err := raw.Get(t.Context(), trialKey+"n1")
	if err != nil || got.Count != 0 || got.Header.Revision < 4 {
		t.Errorf("%v: %d keys were left at revision %d", err, got.Count, got.Header.Revision)
	}
	leases, err := raw.Leases(t.Context())
	if err != nil || len(leases.Leases) != 0 {
		t.Errorf("%v: leases were left: %v", err, leases)
	}

	// A user who may only read.
	for _, do := range []func() error{
		func() error { _, err := raw.UserAdd(t.Context(), "root", "r"); return err },
		func() error { _, err := raw.RoleAdd(t.Context(), "root"); return err },
		func() error { _, err := raw.UserGrantRole(t.Context(), "root", "root"); return err },
		func() error { _, err := raw.UserAdd(t.Context(), "reader", "pw"); return err },
		func() error { _, err := raw.RoleAdd(t.Context(), "reads"); return err },
		func() error {
			_, err := raw.RoleGrantPermission(t.Context(), "reads", "/calico/", "/calico0", 0)
			return err
		},
		func() error { _, err := raw.UserGrantRole(t.Context(), "reader", "reads"); return err },
		func() error { _, err := raw.AuthEnable(t.Context()); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Username, cfg.Password = "reader", "pw"
	list = Datastore(t.Context(), cfg, "n1", connect(cfg))
	if f := find(t, list, "etcd latency"); f.State != OK || !strings.Contains(f.Tried, "read a key") {
		t.Errorf("got %+v", f)
	}

	if err := etcd.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	want(t, find(t, Datastore(ctx, cfg, "n1", connect(cfg)), "etcd"), Fault, "see whether etcd runs")
	want(t, find(t, Datastore(ctx, etcdstore.Config{}, "n1", connect(cfg)), "etcd"), Untried, "not configured")
}

// TestClock has servers that say another time, as etcd on such a host does.
func TestClock(t *testing.T) {
	for ahead, words := range map[time.Duration]string{time.Hour: "behind", -time.Hour: "ahead of"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		}))
		want(t, clock(t.Context(), etcdstore.Config{Endpoints: []string{server.URL}}), Warning, words)
		server.Close()
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() //nolint:errcheck // the test is over
	want(t, clock(t.Context(), etcdstore.Config{Endpoints: []string{"http://" + silent.Addr().String()}}), Untried, "does not say")
}

// TestEngine has a client of Docker that tells of engines.
func TestEngine(t *testing.T) {
	for info, states := range map[string]map[string]string{
		`{"ServerVersion":"28.5.2","LiveRestoreEnabled":true,"SecurityOptions":["name=seccomp,profile=builtin"]}`: {"Docker engine": OK, "live-restore": OK, "user namespaces": OK},
		`{"ServerVersion":"28.5.2","SecurityOptions":["name=userns"]}`:                                            {"live-restore": Warning, "user namespaces": OK},
		`{"ServerVersion":"28.5.2","SecurityOptions":["name=rootless"]}`:                                          {"user namespaces": Fault},
		`{"ServerErrors":["no engine"]}`:                                                                          {"Docker engine": Fault},
	} {
		dir := t.TempDir()
		script := "#!/bin/sh\ncase $1 in info) echo '" + info + "';; container) echo 4711;; esac\n"
		if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script), 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		got, list := askEngine(t.Context())
		for check, state := range states {
			want(t, find(t, list, check), state, "")
		}
		if got.ServerVersion != "" && got.nodePID != 4711 {
			t.Errorf("process %d", got.nodePID)
		}
	}
	t.Setenv("PATH", t.TempDir())
	_, list := askEngine(t.Context())
	want(t, find(t, list, "Docker engine"), Warning, "install Docker")
}

func TestNamesOfContainers(t *testing.T) {
	for name, tt := range map[string]struct {
		daemon, resolv string
		shared         bool
		state, words   string
	}{
		"nothing is set":             {"", "nameserver 10.0.0.1\n", false, Warning, "find no names"},
		"another server":             {`{"dns":["10.0.0.1"]}`, "", false, Warning, "find no names"},
		"ours":                       {`{"dns":["169.254.1.1"]}`, "options edns0\n", false, OK, "169.254.1.1"},
		"ours and another":           {`{"dns":["169.254.1.1","10.0.0.1"]}`, "", false, OK, "169.254.1.1"},
		"the host's ndots":           {`{"dns":["169.254.1.1"]}`, "options timeout:1 ndots:0\n", false, Warning, "without a dot"},
		"the engine's ndots":         {`{"dns":["169.254.1.1"],"dns-opts":["ndots:1"]}`, "", false, Warning, "without a dot"},
		"the engine's other options": {`{"dns":["169.254.1.1"],"dns-opts":["attempts:2"]}`, "options ndots:0\n", false, OK, "169.254.1.1"},
		"a cluster store":            {"", "", true, OK, "cluster store"},
		"no JSON":                    {`{"dns":`, "", false, Fault, "daemon.json"},
	} {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{"etc/resolv.conf": file(tt.resolv)}
			if tt.daemon != "" {
				root["etc/docker/daemon.json"] = file(tt.daemon)
			}
			want(t, NamesOfContainers(root, tt.shared), tt.state, tt.words)
		})
	}
}
