package felix

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/felixtest"
)

var key = model.WorkloadEndpointKey{Node: "node00", Orchestrator: "libnetwork", Workload: "libnetwork", Name: "e1"}

// waiter returns one for a felix.
func waiter(t *testing.T, f *felixtest.Felix, timeout time.Duration) *Waiter {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+f.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return New(conn, f.Socket, timeout)
}

func TestWaitAsksForTheEndpointAndTheRevision(t *testing.T) {
	f := felixtest.Start(t)
	if err := waiter(t, f, 5*time.Second).Wait(t.Context(), key, 42); err != nil {
		t.Fatal(err)
	}
	got := f.Waits()
	if len(got) != 1 || got[0].GetRevision() != 42 || got[0].GetId().GetEndpoint() != "e1" || got[0].GetId().GetNode() != "node00" {
		t.Errorf("asked %v", got)
	}
}

func TestWaitFailsWithASentenceThatNamesFelix(t *testing.T) {
	tests := []struct {
		name  string
		felix func(testing.TB) *felixtest.Felix
		want  string
	}{
		{"felix does not run", felixtest.New, "felix does not answer on"},
		{"felix is stopped", func(t testing.TB) *felixtest.Felix {
			f := felixtest.Start(t)
			f.SetSilent(true)
			return f
		}, "felix does not answer on"},
		{"felix knows what is missing", func(t testing.TB) *felixtest.Felix {
			f := felixtest.Start(t)
			f.SetWhy("the interface is not up")
			return f
		}, "the interface is not up"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := waiter(t, tt.felix(t), 50*time.Millisecond).Wait(t.Context(), key, 1)
			if !errors.Is(err, ErrNotInForce) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestWaitOutlastsALateFelix(t *testing.T) {
	f := felixtest.New(t)
	done := make(chan error, 1)
	w := waiter(t, f, 10*time.Second)
	go func() { done <- w.Wait(t.Context(), key, 1) }()
	f.Listen(t)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestACallThatDockerGaveUpEndsAtOnce(t *testing.T) {
	f := felixtest.Start(t)
	f.SetSilent(true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := waiter(t, f, time.Minute).Wait(ctx, key, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
