package localnet_test

import (
	"testing"

	"calico.internal/libcalico/localnet"
)

func TestDockersBridgesAreKnownByTheirNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"br-0123456789ab": true, "br-lan": false, "br-ex": false, "br-0123456789aB": false, "br-0123456789abc": false,
		"br-0123456789xy": false, "docker0": true, "docker_gwbridge": true, "docker1": false, "br0": false, "": false,
	} {
		if got := localnet.IsDockerBridge(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
