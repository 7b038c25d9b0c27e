// Package unit writes the systemd units of the plugin as a service of the host (pure). The
// socket's unit holds Docker's two sockets, so that calls wait while the service is away.
package unit

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// The names of the units.
const (
	SocketName  = "calico-libnetwork.socket"
	ServiceName = "calico-libnetwork.service"
)

// Paths are the files that the units name, all absolute.
type Paths struct {
	// Binary is the plugin's program.
	Binary string
	// Environment is the file of variables such as ETCD_ENDPOINTS. It may hold passwords,
	// so its mode should be 0600.
	Environment string
}

// Socket is the text of the socket's unit.
func Socket() string { return socket }

// Service is the text of the service's unit.
func Service(p Paths) (string, error) {
	if err := errors.Join(check("program", p.Binary), check("file of variables", p.Environment)); err != nil {
		return "", err
	}
	return strings.NewReplacer("@BINARY@", p.Binary, "@ENVIRONMENT@", p.Environment).Replace(service), nil
}

// check refuses what systemd would read as something else than a path: specifiers,
// variables, quotes and separators of words.
func check(what, file string) error {
	if !path.IsAbs(file) || strings.ContainsAny(file, "%$\"'\\; \t\n") {
		return fmt.Errorf("%s %q: give an absolute path without blanks, quotes, %%, $, ; and \\", what, file)
	}
	return nil
}

const socket = `# Docker's sockets of Calico's network and IPAM driver. Their holder is systemd, so calls of
# the engine wait here while the service starts or is replaced, and none is refused.
[Unit]
Description=Sockets of Calico's network plugin for Docker
Before=docker.service

[Socket]
ListenStream=/run/docker/plugins/calico.sock
ListenStream=/run/docker/plugins/calico-ipam.sock
SocketMode=0600
DirectoryMode=0755
Backlog=4096
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
`

// Why each line of the service is as it is:
//
//   - Before=docker.service: at a boot the plugin serves before the engine starts containers,
//     at a shutdown it serves until the engine has ended.
//   - StartLimitIntervalSec=0: a service that may not start any more takes its sockets down.
//   - TimeoutStartSec: it is ready within 4 s, with and without etcd; Docker waits no longer.
//   - TimeoutStopSec: calls that have begun are given 7 s.
//   - RuntimeDirectoryPreserve: the folder has sockets of other programs of this host.
//   - CAP_NET_ADMIN makes interfaces and sets their kernel parameters. CAP_DAC_READ_SEARCH
//     reads certificates whatever their owner, CAP_DAC_OVERRIDE connects to sockets of
//     felix and Docker whatever theirs.
//   - Not ProtectKernelTunables, which makes /proc/sys read-only; not PrivateNetwork and
//     PrivateUsers, as the interfaces are the host's; not ProtectHostname, as the host's
//     name is the node's.
const service = `# Calico's network and IPAM driver for Docker, as a service of the host: an engine that starts
# finds it there, and does not wait for a container that it must start itself.
[Unit]
Description=Calico's network plugin for Docker
Requires=calico-libnetwork.socket
After=calico-libnetwork.socket local-fs.target
Before=docker.service
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
EnvironmentFile=@ENVIRONMENT@
ExecStart=@BINARY@ run
Restart=always
RestartSec=1
TimeoutStartSec=15
TimeoutStopSec=10
RuntimeDirectory=calico
RuntimeDirectoryPreserve=yes
StateDirectory=calico
StateDirectoryMode=0700
UMask=0077

CapabilityBoundingSet=CAP_NET_ADMIN CAP_DAC_READ_SEARCH CAP_DAC_OVERRIDE
NoNewPrivileges=yes
ProtectSystem=full
ProtectHome=read-only
PrivateTmp=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectClock=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
`
