package launch

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/etcdstore"
)

func defaults() Options {
	return Options{Name: "node00", LogDir: "/var/log/calico", Image: "calico/node:v0.1.0", Backend: "gobgp", IfPrefix: "cali", IPMethod: "first-found", IP6Method: "first-found", Scope: "global", SharedRun: true}
}

func TestCommand(t *testing.T) {
	o := defaults()
	o.IP = "172.17.8.100"
	etcd := etcdstore.Config{Endpoints: []string{"http://172.17.8.10:2379"}}
	want := "docker run --net=host --cap-add=NET_ADMIN --cap-add=NET_RAW --cap-add=SYS_ADMIN " +
		"--security-opt=systempaths=unconfined --security-opt=apparmor=unconfined --name=calico-node -d --restart=always " +
		"-e NODENAME=node00 -e CALICO_NETWORKING_BACKEND=gobgp -e CALICO_LIBNETWORK_ENABLED=true -e ETCD_ENDPOINTS=http://172.17.8.10:2379 " +
		"-e IP=172.17.8.100 -e CALICO_LIBNETWORK_IFPREFIX=cali -e CALICO_LIBNETWORK_SCOPE=global " +
		"-v /var/log/calico:/var/log/calico -v /var/lib/calico:/var/lib/calico -v /run:/run:rslave -v /var/run/calico:/var/run/calico calico/node:v0.1.0"
	if diff := cmp.Diff(want, Shell(Command(o, etcd), true)); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
}

func TestCommandVariants(t *testing.T) {
	etcd := etcdstore.Config{Endpoints: []string{"https://a:2379", "https://b:2379"}, CACertFile: "/ca", CertFile: "/cert", KeyFile: "/key", Username: "u", Password: "p w"}
	for _, tc := range []struct {
		name       string
		change     func(*Options)
		has, lacks string
	}{
		{"labels instead of profiles", func(o *Options) { o.UseLabels = true }, "-e CALICO_LIBNETWORK_CREATE_PROFILES=false -e CALICO_LIBNETWORK_LABEL_ENDPOINTS=true", ""},
		{"without Docker's networks", func(o *Options) { o.DisableDockerNetworking = true }, "CALICO_LIBNETWORK_ENABLED=false", "IFPREFIX"},
		{"privileged on demand", func(o *Options) { o.Privileged = true }, "--privileged", "--cap-add"},
		{"under an init system", func(o *Options) { o.InitSystem = true }, "--rm", "--restart"},
		{"TLS files are mounted", func(*Options) {}, "-v /ca:/etc/calico/certs/ca_cert.crt:ro -v /key:/etc/calico/certs/key.pem:ro -v /cert:/etc/calico/certs/cert.crt:ro", ""},
		{"a password is not shown", func(*Options) {}, "ETCD_PASSWORD=<hidden>", "p w"},
		{"/run without propagation", func(o *Options) { o.SharedRun = false }, "-v /run:/run ", "rslave"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := defaults()
			tc.change(&o)
			got := Shell(Command(o, etcd), false)
			if !strings.Contains(got, tc.has) || (tc.lacks != "" && strings.Contains(got, tc.lacks)) {
				t.Errorf("command must contain %q and not %q:\n%s", tc.has, tc.lacks, got)
			}
		})
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
