// Package health is the edge to what programs say of themselves on their sockets, by
// grpc.health.v1. It listens; only whether a program that has gone silent still answers is asked,
// now and then.
package health

import (
	"context"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/calico-node/internal/judge"
	"calico.internal/libcalico/grpcsock"
)

const (
	// askEvery is how often a program is asked whether it still answers, and askLimit how long it may
	// take.
	askEvery = 30 * time.Second
	askLimit = 5 * time.Second
	// pause is between a connection that broke and the next try.
	pause = 100 * time.Millisecond
)

// Heard is told what a program says of itself.
type Heard func(program string, h judge.Health)

// Follow tells what the program that serves a socket says of itself, until ctx ends. A program
// that is not there, or hangs, is silent.
func Follow(ctx context.Context, runDir, program string, heard Heard) error {
	conn, err := grpcsock.Dial(filepath.Join(runDir, program+".sock"))
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // only asked
	f := follower{client: healthgrpc.NewHealthClient(conn), heard: func(h judge.Health) { heard(program, h) }}
	for ctx.Err() == nil {
		f.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		f.heard(judge.Silent)
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
	return nil
}

type follower struct {
	client healthgrpc.HealthClient
	heard  func(judge.Health)
}

// follow listens on one stream until it ends or the program hangs.
func (f *follower) follow(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := f.client.Watch(ctx, &healthgrpc.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return
	}
	answers := make(chan judge.Health)
	go func() {
		defer close(answers)
		for {
			answer, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case answers <- of(answer):
			case <-ctx.Done():
				return
			}
		}
	}()
	f.listen(ctx, answers)
}

func (f *follower) listen(ctx context.Context, answers <-chan judge.Health) {
	ask := time.NewTicker(askEvery)
	defer ask.Stop()
	for {
		select {
		case h, ok := <-answers:
			if !ok {
				return
			}
			f.heard(h)
		case <-ask.C:
			// A program that hangs keeps its stream.
			if !f.answers(ctx) {
				return
			}
		}
	}
}

func (f *follower) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	_, err := f.client.Check(ctx, &healthgrpc.HealthCheckRequest{})
	return err == nil
}

func of(answer *healthgrpc.HealthCheckResponse) judge.Health {
	if answer.GetStatus() == healthgrpc.HealthCheckResponse_SERVING {
		return judge.Serving
	}
	return judge.NotServing
}
