package launch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"calico.internal/libcalico/etcdstore"
)

var etcdWithPassword = etcdstore.Config{Endpoints: []string{"http://172.17.8.10:2379"}, Username: "u", Password: `a "b" $c %d: #`}

func TestComposeIsYAMLThatSaysTheSame(t *testing.T) {
	o := defaults()
	o.IP = "172.17.8.100"
	var doc struct {
		Services map[string]struct {
			Image         string
			ContainerName string `yaml:"container_name"`
			NetworkMode   string `yaml:"network_mode"`
			Restart       string
			Privileged    bool
			CapAdd        []string `yaml:"cap_add"`
			SecurityOpt   []string `yaml:"security_opt"`
			Environment   []string
			Volumes       []string
		}
	}
	if err := yaml.Unmarshal([]byte(Compose(o, etcdWithPassword)), &doc); err != nil {
		t.Fatal(err)
	}
	s := doc.Services["calico-node"]
	got := []string{"docker", "run", "--net=" + s.NetworkMode}
	for _, c := range s.CapAdd {
		got = append(got, "--cap-add="+c)
	}
	for _, c := range s.SecurityOpt {
		got = append(got, "--security-opt="+c)
	}
	got = append(got, "--name="+s.ContainerName, "-d", "--restart="+s.Restart)
	for _, e := range s.Environment {
		if e == "ETCD_PASSWORD" { // from compose's own environment
			got = append(got, "--env-file="+SecretsFile)
			continue
		}
		got = append(got, "-e", e)
	}
	for _, v := range s.Volumes {
		got = append(got, "-v", v)
	}
	got = append(got, s.Image)
	if diff := cmp.Diff(Command(o, etcdWithPassword), got); diff != "" {
		t.Errorf("what compose runs (-want +got):\n%s", diff)
	}
}

func TestUnit(t *testing.T) {
	o := defaults()
	o.Privileged, o.Env = true, []string{`ODD=a "b" $c %d`}
	want := `[Unit]
Description=Calico for Docker
Documentation=man:docker-run(1)
After=docker.service network-online.target
Wants=network-online.target
Requires=docker.service

[Service]
# Directories, kernel modules and settings of the host, and etcd's password out of calicoctl.cfg.
ExecStartPre=/usr/local/bin/calicoctl node prepare
# One that was not stopped in order.
ExecStartPre=-/usr/bin/docker rm -f calico-node
ExecStart=/usr/bin/docker run \
  --net=host \
  --privileged \
  --name=calico-node \
  --rm \
  -e NODENAME=node00 \
  -e CALICO_NETWORKING_BACKEND=gobgp \
  -e CALICO_LIBNETWORK_ENABLED=true \
  -e ETCD_ENDPOINTS=http://172.17.8.10:2379 \
  -e CALICO_LIBNETWORK_IFPREFIX=cali \
  -e CALICO_LIBNETWORK_SCOPE=global \
  -e ETCD_USERNAME=u \
  -e "ODD=a \"b\" $$c %%d" \
  --env-file=/var/lib/calico/calico-node.env \
  -v /var/log/calico:/var/log/calico \
  -v /var/lib/calico:/var/lib/calico \
  -v /run:/run:rslave \
  -v /var/run/calico:/var/run/calico \
  -v /etc/resolv.conf:/etc/resolv.conf:ro \
  calico/node:v0.1.0
# The programs end within docker's ten seconds.
ExecStop=-/usr/bin/docker stop calico-node
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
`
	if diff := cmp.Diff(want, Unit(o, etcdWithPassword)); diff != "" {
		t.Errorf("unit (-want +got):\n%s", diff)
	}
}

// TestComposeIsAccepted has the compose that is installed read the file.
func TestComposeIsAccepted(t *testing.T) {
	compose := []string{"docker-compose"}
	if exec.CommandContext(t.Context(), "docker", "compose", "version").Run() == nil {
		compose = []string{"docker", "compose"}
	} else if _, err := exec.LookPath("docker-compose"); err != nil {
		t.Skip("neither docker-compose nor docker compose is installed")
	}
	o := defaults()
	o.UserNamespaces = true
	file := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(file, []byte(Compose(o, etcdWithPassword)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), compose[0], append(compose[1:], "-f", file, "config")...)
	cmd.Env = append(os.Environ(), "ETCD_PASSWORD=secret")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"ETCD_PASSWORD: secret", "userns_mode: host", "apparmor"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in what compose reads:\n%s", want, out)
		}
	}
	if strings.Contains(Compose(o, etcdWithPassword), "systempaths") {
		t.Error("docker-compose 1 hands systempaths=unconfined to the engine, which refuses it")
	}
}

// TestUnitIsAccepted has systemd read the unit.
func TestUnitIsAccepted(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	o := defaults()
	o.Env, o.Self = []string{`ODD=a "b" $c %d`}, "/bin/true"
	file := filepath.Join(t.TempDir(), "calico-node.service")
	text := strings.ReplaceAll(Unit(o, etcdWithPassword), "/usr/bin/docker", "/bin/true")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", file).CombinedOutput()
	if said := string(out); err != nil && strings.Contains(said, "calico-node.service") && !strings.Contains(said, "docker.service not found") {
		t.Errorf("%v: %s", err, said)
	}
}
