package launch

import (
	"context"
	"io"
	"testing"
	"time"
)

// A client that attends a container is told to end, and does so in its own time.
func TestAnAttendedContainerIsEndedInOrder(t *testing.T) {
	t.Parallel()
	out, in := io.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- attend(ctx, in, []string{"sh", "-c", `trap 'sleep 0.3; echo ended; exit 0' TERM; echo runs; while :; do sleep 0.1; done`})
		_ = in.Close()
	}()
	begun := make([]byte, len("runs\n"))
	if _, err := io.ReadFull(out, begun); err != nil {
		t.Fatal(err)
	}
	cancel()
	if said, err := io.ReadAll(out); err != nil || string(said) != "ended\n" {
		t.Errorf("it said %q, %v", said, err)
	}
	<-ended
}
