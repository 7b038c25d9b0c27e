package rules

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
)

// The longest names that the kernel takes.
const (
	MaxChainName = 28
	MaxSetName   = 31
)

// The chains of the frame.
const (
	chainPrerouting  = "cali-PREROUTING"
	chainPostrouting = "cali-POSTROUTING"
	chainInput       = "cali-INPUT"
	chainForward     = "cali-FORWARD"
	chainOutput      = "cali-OUTPUT"

	chainFromWorkload   = "cali-from-wl-dispatch"
	chainToWorkload     = "cali-to-wl-dispatch"
	chainWorkloadToHost = "cali-wl-to-host"
	chainWorkloadGuard  = "cali-from-wl-guard"

	chainForwardWorkload = "cali-forward-wl"
	chainToDocker        = "cali-to-docker"

	chainDNSIn  = "cali-dns-in"
	chainDNSOut = "cali-dns-out"

	chainFromHost        = "cali-from-host-endpoint"
	chainToHost          = "cali-to-host-endpoint"
	chainFromHostForward = "cali-from-hep-forward"
	chainToHostForward   = "cali-to-hep-forward"

	chainAllow = "cali-allow"
	chainPass  = "cali-pass"

	chainUntrackedIn  = "cali-untracked-in"
	chainUntrackedOut = "cali-untracked-out"

	chainEtcdIn  = "cali-etcd-in"
	chainEtcdOut = "cali-etcd-out"

	chainFailsafeIn  = "cali-failsafe-in"
	chainFailsafeOut = "cali-failsafe-out"

	chainDNAT        = "cali-fip-dnat"
	chainSNAT        = "cali-fip-snat"
	chainNATOutgoing = "cali-nat-outgoing"
)

// SetName is the kernel's name of an address set in a family: cali4-<id> or cali6-<id>,
// shortened to what the kernel takes. The id of a selector's set is a hash already, and
// is cut.
func SetName(f Family, id desired.SetID) string {
	prefix := "cali" + strconv.Itoa(int(f)) + "-"
	if strings.HasPrefix(string(id), "s:") && isPlain(string(id)) {
		name := prefix + string(id)
		return name[:min(len(name), MaxSetName)]
	}
	return shorten(prefix, string(id), MaxSetName)
}

// endpointChain is the name of a workload's chain: cali-tw-<interface> for traffic to it,
// cali-fw-<interface> for traffic from it.
func endpointChain(d desired.Direction, iface string) string {
	if d == desired.Ingress {
		return shorten("cali-tw-", iface, MaxChainName)
	}
	return shorten("cali-fw-", iface, MaxChainName)
}

// everyInterface stands for the interface in the chains of a host endpoint that is for
// all interfaces.
const everyInterface = "any-interface-at-all"

// hostChain is the name of a host endpoint's chain: cali-fh-<interface> for packets that
// come in by it (ingress), cali-th-<interface> for those that go out (egress); with
// "fw" for forwarded ones.
func hostChain(d desired.Direction, forward bool, iface string) string {
	prefix := "cali-th"
	if d == desired.Ingress {
		prefix = "cali-fh"
	}
	if forward {
		prefix += "fw"
	}
	if iface == "*" {
		iface = everyInterface
	}
	return shorten(prefix+"-", iface, MaxChainName)
}

// policyChain is the name of a policy's chain: cali-pi-<tier>/<name> for rules of
// traffic to an endpoint, cali-po-<tier>/<name> for traffic from it.
func policyChain(d desired.Direction, k model.PolicyKey) string {
	if d == desired.Ingress {
		return shorten("cali-pi-", k.Tier+"/"+k.Name, MaxChainName)
	}
	return shorten("cali-po-", k.Tier+"/"+k.Name, MaxChainName)
}

// profileChain is the name of a profile's chain: cali-pri-<name> or cali-pro-<name>.
func profileChain(d desired.Direction, name string) string {
	if d == desired.Ingress {
		return shorten("cali-pri-", name, MaxChainName)
	}
	return shorten("cali-pro-", name, MaxChainName)
}

// shorten is prefix + id; or, when that is too long or the id holds what a name cannot
// have, prefix + "_" + as much of a hash of the id as fits. No id that stays as it is
// begins with "_", so that a name belongs to one id only.
func shorten(prefix, id string, limit int) string {
	if len(prefix)+len(id) <= limit && isPlain(id) {
		return prefix + id
	}
	sum := sha256.Sum256([]byte(id))
	hash := base64.RawURLEncoding.EncodeToString(sum[:])
	return prefix + "_" + hash[:limit-len(prefix)-1]
}

func isPlain(id string) bool {
	if id == "" || id[0] == '_' {
		return false
	}
	return strings.IndexFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/:%@+", r))
	}) < 0
}
