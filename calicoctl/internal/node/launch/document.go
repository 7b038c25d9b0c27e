package launch

import (
	"fmt"
	"strconv"
	"strings"

	"calico.internal/libcalico/etcdstore"
)

// Compose is the container as a compose file, which docker-compose 1.27 and docker compose 2
// read. Secrets are not in it: compose takes them from its own environment, or from a file
// .env beside it.
func Compose(o Options, etcd etcdstore.Config) string {
	var b strings.Builder
	quote := func(s string) string { return strconv.Quote(strings.ReplaceAll(s, "$", "$$")) }
	list := func(name string, values []string) {
		fmt.Fprintf(&b, "    %s:\n", name)
		for _, v := range values {
			fmt.Fprintf(&b, "      - %s\n", quote(v))
		}
	}
	open, secret := environment(o, etcd)
	var env []string
	for _, v := range open {
		env = append(env, v.String())
	}
	if len(secret) > 0 {
		fmt.Fprintf(&b, "# %s: set in the environment of compose, or in a file .env (mode 0600) beside this one.\n", strings.Join(SecretNames(o, etcd), ", "))
	}
	for _, v := range secret {
		env = append(env, v.name) // without a value, compose's own
	}
	b.WriteString("# The host itself is prepared by: calicoctl node prepare (at each boot).\n")
	b.WriteString("services:\n  " + ContainerName + ":\n")
	fmt.Fprintf(&b, "    image: %s\n    container_name: %s\n    network_mode: host\n    restart: always\n", quote(o.Image), ContainerName)
	if o.UserNamespaces {
		b.WriteString("    userns_mode: host\n")
	}
	if o.Privileged {
		b.WriteString("    privileged: true\n")
	} else {
		list("cap_add", capabilities)
		list("security_opt", securityOptions)
	}
	list("environment", env)
	list("volumes", volumes(o))
	return b.String()
}

// Unit is the container as a systemd unit (systemd.service(5)), which prepares the host, too.
// Secrets are not in it: docker reads them from [SecretsFile].
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
	prepare := o.Self + " node prepare"
	if o.LogDir != DefaultLogDir {
		prepare += " " + unitWord("--log-dir="+o.LogDir)
	}
	return `[Unit]
Description=Calico for Docker
Documentation=man:docker-run(1)
After=docker.service network-online.target
Wants=network-online.target
Requires=docker.service

[Service]
# Directories, kernel modules and settings of the host, and etcd's password out of calicoctl.cfg.
ExecStartPre=` + prepare + `
# One that was not stopped in order.
ExecStartPre=-/usr/bin/docker rm -f ` + ContainerName + `
ExecStart=` + line.String() + `
# The programs end within docker's ten seconds.
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
