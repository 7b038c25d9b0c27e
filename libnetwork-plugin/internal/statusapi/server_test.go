package statusapi

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/registry"
	libnetworkv1 "calico.internal/proto/libnetwork/v1"
)

// TestEtcdGoneUnnoticed: an etcd that has gone, which is not known yet, does not keep the plugin
// from telling how it is.
func TestEtcdGoneUnnoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Sources{
			Node: "node00", Scope: func() string { return "global" },
			DatastoreConnected: func() bool { return true }, EngineConnected: func() bool { return false },
			Networks: func() []registry.Network { return []registry.Network{{Name: "net1", ID: "1"}} },
			Problems: func() map[string]string { return map[string]string{"net1": "differs", "net2": "of another driver"} },
			Endpoints: func(ctx context.Context) (map[string]*model.WorkloadEndpoint, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			},
		})
		// As long as calico-node waits.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, err := s.Status(ctx, &libnetworkv1.StatusRequest{})
		if err != nil || ctx.Err() != nil {
			t.Fatalf("no answer in time: %v, %v", err, ctx.Err())
		}
		if got.GetDatastoreConnected() || got.GetScope() != "global" || len(got.GetNetworks()) != 2 ||
			got.GetNetworks()[0].GetProblem() != "differs" || got.GetNetworks()[1].GetProblem() != "of another driver" || got.GetNetworks()[1].GetId() != "" {
			t.Errorf("it says %v", got)
		}
	})
}
