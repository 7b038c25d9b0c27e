package statusapi

import (
	"strings"
	"testing"

	libnetworkv1 "calico.internal/proto/libnetwork/v1"
)

// TestNetworksThatDifferAreProblems: what the plugin says of a network is said of the node.
func TestNetworksThatDifferAreProblems(t *testing.T) {
	t.Parallel()
	a := answers{libnetwork: &libnetworkv1.StatusResponse{EngineConnected: true, Networks: []*libnetworkv1.Network{
		{Name: "net1", Id: "1"}, {Name: "net2", Problem: "there is another network of this name, of the driver bridge"},
	}}}
	got := a.problems(true)
	if len(got) != 1 || got[0].Object != "network net2" || !strings.Contains(got[0].Reason, "of the driver bridge") || !strings.Contains(got[0].Cure, "get network net2") {
		t.Errorf("problems: %v", got)
	}
}
