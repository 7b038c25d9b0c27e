package launch

import (
	"fmt"
	"strconv"
	"strings"

	"calico.internal/libcalico/etcdstore"
)

// Compose is the container as a compose file (the Compose Specification, which
// docker-compose 1.27 and docker compose 2 read). It holds the password for etcd, if
// there is one.
func Compose(o Options, etcd etcdstore.Config) string {
	var b strings.Builder
	quote := func(s string) string { return strconv.Quote(strings.ReplaceAll(s, "$", "$$")) }
	list := func(name string, values []string) {
		fmt.Fprintf(&b, "    %s:\n", name)
		for _, v := range values {
			fmt.Fprintf(&b, "      - %s\n", quote(v))
		}
	}
	b.WriteString("services:\n  " + ContainerName + ":\n")
	fmt.Fprintf(&b, "    image: %s\n    container_name: %s\n    network_mode: host\n    restart: always\n", quote(o.Image), ContainerName)
	if o.Privileged {
		b.WriteString("    privileged: true\n")
	} else {
		list("cap_add", capabilities)
		list("security_opt", securityOptions)
	}
	list("environment", environment(o, etcd))
	list("volumes", volumes(o, etcd))
	return b.String()
}

// Unit is the container as a systemd unit (systemd.service(5)). It holds the password for
// etcd, if there is one.
func Unit(o Options, etcd etcdstore.Config) string {
	o.InitSystem = true
	var line strings.Builder
	for i, w := range Command(o, etcd) {
		switch {
		case i == 0:
			line.WriteString("/usr/bin/" + w)
		case strings.HasPrefix(w, "-") || w == o.Image:
			line.WriteString(" \\\n  " + unitWord(w))
		default:
			line.WriteString(" " + unitWord(w))
		}
	}
	return `[Unit]
Description=Calico for Docker
Documentation=man:docker-run(1)
After=docker.service
Requires=docker.service

[Service]
ExecStartPre=-/usr/bin/docker rm -f ` + ContainerName + `
ExecStart=` + line.String() + `
ExecStop=-/usr/bin/docker stop ` + ContainerName + `
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
`
}

// unitWord is a word of a command line in a unit.
func unitWord(w string) string {
	w = strings.NewReplacer("%", "%%", "$", "$$").Replace(w)
	if plainWord.MatchString(w) {
		return w
	}
	return strconv.Quote(w)
}
