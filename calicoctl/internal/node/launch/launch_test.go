package launch

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/etcdstore"
)

func defaults() Options {
	return Options{Name: "node00", LogDir: "/var/log/calico", Image: "calico/node:v0.1.0", Backend: "gobgp", IfPrefix: "cali", Scope: "global", SharedRun: true, Self: "/usr/local/bin/calicoctl"}
}

func TestCommand(t *testing.T) {
	o := defaults()
	o.IP = "172.17.8.100"
	etcd := etcdstore.Config{Endpoints: []string{"http://172.17.8.10:2379"}}
	want := "docker run --net=host --cap-add=NET_ADMIN --cap-add=NET_RAW --cap-add=SYS_ADMIN " +
		"--security-opt=apparmor=unconfined --name=calico-node -d --restart=always " +
		"-e NODENAME=node00 -e CALICO_NETWORKING_BACKEND=gobgp -e CALICO_LIBNETWORK_ENABLED=true -e ETCD_ENDPOINTS=http://172.17.8.10:2379 " +
		"-e IP=172.17.8.100 -e CALICO_LIBNETWORK_IFPREFIX=cali -e CALICO_LIBNETWORK_SCOPE=global " +
		"-v /var/log/calico:/var/log/calico -v /var/lib/calico:/var/lib/calico -v /run:/run:rslave -v /var/run/calico:/var/run/calico -v /etc/resolv.conf:/etc/resolv.conf:ro calico/node:v0.1.0"
	if diff := cmp.Diff(want, Shell(Command(o, etcd))); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
}

func TestCommandVariants(t *testing.T) {
	etcd := etcdstore.Config{Endpoints: []string{"https://a:2379", "https://b:2379"}, Username: "u", Password: "p w"}
	for _, tc := range []struct {
		name       string
		change     func(*Options)
		has, lacks string
	}{
		{"labels instead of profiles", func(o *Options) { o.UseLabels = true }, "-e CALICO_LIBNETWORK_CREATE_PROFILES=false -e CALICO_LIBNETWORK_LABEL_ENDPOINTS=true", ""},
		{"without Docker's networks", func(o *Options) { o.DisableDockerNetworking = true }, "CALICO_LIBNETWORK_ENABLED=false", "IFPREFIX"},
		{"privileged on demand", func(o *Options) { o.Privileged = true }, "--privileged", "--cap-add"},
		{"under an init system", func(o *Options) { o.InitSystem = true }, "--rm", "--restart"},
		{"a password comes from a file", func(*Options) {}, "-e ETCD_USERNAME=u --env-file=/var/lib/calico/calico-node.env", "p w"},
		{"so does a token", func(o *Options) { o.Env = []string{"MY_TOKEN=tttt"} }, "--env-file=/var/lib/calico/calico-node.env", "tttt"},
		{"the path of a secret is none", func(o *Options) { o.Env = []string{"TOKEN_FILE=/t"} }, "-e TOKEN_FILE=/t", ""},
		{"/run without propagation", func(o *Options) { o.SharedRun = false }, "-v /run:/run ", "rslave"},
		{"an engine with user namespaces", func(o *Options) { o.UserNamespaces = true }, "--net=host --userns=host --cap-add", ""},
		{"privileged there", func(o *Options) { o.UserNamespaces, o.Privileged = true, true }, "--userns=host --privileged", ""},
		{"no IPv4", func(o *Options) { o.IP = "none" }, "-e IP=none", ""},
		{"pools", func(o *Options) {
			o.Pool4 = Pool{CIDR: "10.0.0.0/8", NATOutgoing: "false", IPIP: "off"}
			o.Pool6 = Pool{CIDR: "fd00::/64"}
		}, "-e CALICO_IPV4POOL_CIDR=10.0.0.0/8 -e CALICO_IPV4POOL_NAT_OUTGOING=false -e CALICO_IPV4POOL_IPIP=off -e CALICO_IPV6POOL_CIDR=fd00::/64", "BLOCK_SIZE"},
		{"hosts that share a kernel", func(o *Options) { o.BootFile = "/etc/calico/boot_id" }, "-v /etc/calico/boot_id:/etc/calico/boot_id:ro calico/node", ""},
		{"which start of the host it is", func(o *Options) { o.BootFile = "/etc/calico/boot_id" }, "-e CALICO_BOOT_ID_FILE=/etc/calico/boot_id", ""},
		{"felix's parameters", func(o *Options) { o.Felix = []string{"LogSeverityScreen=debug"} }, "-e FELIX_LOGSEVERITYSCREEN=debug", ""},
		{"what is given wins", func(o *Options) { o.Env = []string{"CALICO_NETWORKING_BACKEND=none", "EMPTY="} }, "-e CALICO_NETWORKING_BACKEND=none -e EMPTY= ", "gobgp"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := defaults()
			tc.change(&o)
			if err := o.Validate(); err != nil {
				t.Fatal(err)
			}
			got := Shell(Command(o, etcd))
			if !strings.Contains(got, tc.has) || (tc.lacks != "" && strings.Contains(got, tc.lacks)) {
				t.Errorf("command must contain %q and not %q:\n%s", tc.has, tc.lacks, got)
			}
		})
	}
}

func TestSecrets(t *testing.T) {
	o := defaults()
	o.Env = []string{"MY_TOKEN=# t=1 $x", "PLAIN=1"}
	etcd := etcdstore.Config{Username: "u", Password: "p w"}
	if got, want := Secrets(o, etcd), "ETCD_PASSWORD=p w\nMY_TOKEN=# t=1 $x\n"; got != want {
		t.Errorf("secrets are %q, want %q", got, want)
	}
	if got := Secrets(defaults(), etcdstore.Config{}); got != "" {
		t.Errorf("without secrets: %q", got)
	}
}

func TestCheckCommand(t *testing.T) {
	o := defaults()
	o.Force = true
	want := "docker run --rm --net=host --name=calico-node-check --entrypoint=calico-node " +
		"-e NODENAME=node00 -e CALICO_NETWORKING_BACKEND=gobgp -e CALICO_LIBNETWORK_ENABLED=true -e CALICO_LIBNETWORK_IFPREFIX=cali " +
		"-e CALICO_LIBNETWORK_SCOPE=global -e ETCD_USERNAME=u --env-file=/tmp/s -v /a:/a:ro calico/node:v0.1.0 startup --check --force"
	if diff := cmp.Diff(want, Shell(CheckCommand(o, etcdstore.Config{Username: "u", Password: "p"}, "/tmp/s", []string{"/a:/a:ro"}))); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
}

func TestCreateCommand(t *testing.T) {
	want := "create --net=host --name=next -e A=b image"
	if got := strings.Join(createCommand(strings.Fields("docker run --net=host --name=calico-node -d --restart=always -e A=b image"), "next"), " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestFelixParameters compares with felix's own list, which another module must not import.
func TestFelixParameters(t *testing.T) {
	text, err := os.ReadFile("../../../../felix/internal/config/params.go")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`(?:Param|oneOf)\("(\w+)"`).FindAllStringSubmatch(string(text), -1) {
		if !strings.HasPrefix(m[1], "Etcd") && m[1] != "FelixHostname" {
			want = append(want, m[1])
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, FelixParameters()); diff != "" {
		t.Errorf("felix's parameters (-felix +calicoctl):\n%s", diff)
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"all defaults", func(*Options) {}, ""},
		{"IPv6 for --ip", func(o *Options) { o.IP = "fd00::1" }, "--ip is wrong IP version"},
		{"IPv4 for --ip6", func(o *Options) { o.IP6 = "192.0.2.1" }, "--ip6 is wrong IP version"},
		{"no address", func(o *Options) { o.IP = "host" }, "invalid IP address specified for --ip: host"},
		{"address with its subnet", func(o *Options) { o.IP = "192.0.2.1/24" }, ""},
		{"backend", func(o *Options) { o.Backend = "frr" }, "unknown backend 'frr'"},
		{"AS", func(o *Options) { o.AS = "99999999999" }, "invalid AS Number specified: 99999999999"},
		{"method", func(o *Options) { o.IPMethod = "foo" }, "invalid IP autodetection method: foo"},
		{"prefix", func(o *Options) { o.IfPrefix = "ca-li" }, "invalid interface prefix 'ca-li'"},
		{"no address at all", func(o *Options) { o.IP, o.IP6 = "none", "none" }, ""},
		{"pool", func(o *Options) { o.Pool4.CIDR = "10.0.0.1/8" }, "--ipv4pool-cidr=10.0.0.1/8 is not an IPv4 network"},
		{"pool of the other family", func(o *Options) { o.Pool6.CIDR = "10.0.0.0/8" }, "--ipv6pool-cidr=10.0.0.0/8 is not an IPv6 network"},
		{"NAT", func(o *Options) { o.Pool4.NATOutgoing = "perhaps" }, "--ipv4pool-nat-outgoing=perhaps is neither true nor false"},
		{"IP-in-IP", func(o *Options) { o.Pool4.IPIP = "maybe" }, "--ipv4pool-ipip=maybe: use always, cross-subnet or off"},
		{"block size", func(o *Options) { o.Pool4.BlockSize = "64" }, "--ipv4pool-block-size=64 is not the length of a prefix"},
		{"node selector", func(o *Options) { o.Pool4.NodeSelector = "rack = 1" }, "--ipv4pool-node-selector: "},
		{"pools and none", func(o *Options) { o.NoDefaultPools, o.Pool4.CIDR = true, "10.0.0.0/8" }, "exclude each other"},
		{"a variable without a value", func(o *Options) { o.Env = []string{"A"} }, "--env=A: expected NAME=VALUE"},
		{"a variable of two lines", func(o *Options) { o.Env = []string{"A=b\nc"} }, "--env=A: a value is one line"},
		{"felix", func(o *Options) { o.Felix = []string{"LogSeverityScren=debug"} }, `felix has no such parameter; did you mean "LogSeverityScreen"?`},
		{"felix in another case", func(o *Options) { o.Felix = []string{"FELIX_LOGSEVERITYSCREEN=debug"} }, ""},
		{"labels without networks", func(o *Options) { o.UseLabels, o.DisableDockerNetworking = true, true }, "invalid to disable Docker Networking and enable Container labels"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := defaults()
			tc.change(&o)
			err := o.Validate()
			if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("Validate() = %v, want %q", err, tc.want)
			}
		})
	}
}

func TestValidateWritesPlainAS(t *testing.T) {
	o := defaults()
	o.AS = "1.1"
	if err := o.Validate(); err != nil || o.AS != "65537" {
		t.Errorf("AS = %s, %v; want 65537", o.AS, err)
	}
}

func TestSharedRun(t *testing.T) {
	for _, tc := range []struct {
		name, mountinfo string
		want            bool
	}{
		{"a private root", "25 1 254:0 / / rw - ext4 /dev/vda rw\n", false},
		{"shared /run wins over the root", "25 1 254:0 / / rw - ext4 /dev/vda rw\n30 25 0:23 / /run rw,nosuid shared:5 - tmpfs tmpfs rw\n", true},
		{"private /run wins over a shared root", "25 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n30 25 0:23 / /run rw - tmpfs tmpfs rw\n", false},
		{"no mount of its own", "25 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n", true},
	} {
		if got := SharedRun(strings.NewReader(tc.mountinfo)); got != tc.want {
			t.Errorf("%s: got %t", tc.name, got)
		}
	}
}

// TestAMethodThatIsChosen is one also when it is the one that is tried last by itself.
func TestAMethodThatIsChosen(t *testing.T) {
	o := defaults()
	named := func() (found []string) {
		open, _ := environment(o, etcdstore.Config{})
		for _, v := range open {
			if strings.HasSuffix(v.name, "_AUTODETECTION_METHOD") && v.value != "" {
				found = append(found, v.String())
			}
		}
		return found
	}
	if found := named(); len(found) > 0 {
		t.Errorf("without a choice: %v", found)
	}
	o.IPMethod, o.IP6Method = "first-found", "first-found"
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	if found := named(); !slices.Equal(found, []string{"IP_AUTODETECTION_METHOD=first-found", "IP6_AUTODETECTION_METHOD=first-found"}) {
		t.Errorf("chosen: %v", found)
	}
}
