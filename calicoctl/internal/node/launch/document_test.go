package launch

import (
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
		if e == `ETCD_PASSWORD=a "b" $$c %d: #` { // compose takes $$ for $
			e = "ETCD_PASSWORD=" + etcdWithPassword.Password
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
	o.Privileged = true
	want := `[Unit]
Description=Calico for Docker
Documentation=man:docker-run(1)
After=docker.service
Requires=docker.service

[Service]
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
  -e "ETCD_PASSWORD=a \"b\" $$c %%d: #" \
  -v /var/log/calico:/var/log/calico \
  -v /var/lib/calico:/var/lib/calico \
  -v /run:/run:rslave \
  -v /var/run/calico:/var/run/calico \
  calico/node:v0.1.0
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
