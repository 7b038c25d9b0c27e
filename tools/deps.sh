#!/usr/bin/env bash
# Installs the Debian packages that building, the lab and the tests need, and sees
# that Docker's engine runs. Without root it prints the command that does it.
set -euo pipefail

# command:package
needs=(
  gcc:gcc protoc:protobuf-compiler shellcheck:shellcheck
  etcd:etcd-server etcdctl:etcd-client
  ip:iproute2 iptables:iptables ipset:ipset conntrack:conntrack
  ping:iputils-ping tcpdump:tcpdump ethtool:ethtool bird:bird2 ps:procps
  busybox:busybox-static mmdebstrap:mmdebstrap runsvdir:runit
  docker:docker.io docker-compose:docker-compose
)

export PATH=$PATH:/usr/sbin:/sbin

missing() {
  local need
  for need in "${needs[@]}"; do
    command -v "${need%%:*}" >/dev/null || echo "${need#*:}"
  done
  [ -e /usr/include/google/protobuf/timestamp.proto ] || echo libprotobuf-dev
  [ -e /usr/include/stdlib.h ] || echo libc6-dev
}

# Debian starts a service when its package is installed; ours are started by the
# tests that use them.
no_autostart() {
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod +x /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
}

install_packages() {
  local install="apt-get install -y --no-install-recommends $*"
  if [ "$(id -u)" != 0 ]; then
    echo "missing packages: $*" >&2
    echo "run: sudo sh -c 'apt-get update && $install'" >&2
    exit 1
  fi
  echo "installing: $*"
  [ -e /usr/sbin/policy-rc.d ] || no_autostart
  apt-get -qq update
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive $install >/dev/null
}

engine_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

start_engine() {
  if [ "$(id -u)" != 0 ]; then
    echo "Docker's engine does not answer; start it: sudo systemctl start docker" >&2
    exit 1
  fi
  echo "starting Docker's engine"
  rm -f /usr/sbin/policy-rc.d
  if [ -d /run/systemd/system ]; then
    systemctl start docker
  else
    service docker start >/dev/null
  fi
  for _ in $(seq 60); do
    engine_answers && return
    sleep 0.5
  done
  echo "Docker's engine does not answer after 30 s; look into /var/log/docker.log" >&2
  exit 1
}

mapfile -t packages < <(missing | sort -u)
[ ${#packages[@]} = 0 ] || install_packages "${packages[@]}"
engine_answers || start_engine
