package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// asBgpd makes this test's binary be bgpd, so that tests run real processes.
const asBgpd = "BGPD_TEST_IS_BGPD"

func TestMain(m *testing.M) {
	if os.Getenv(asBgpd) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
	}
	testscript.Main(m, map[string]func(){
		"bgpd": func() { os.Exit(run(context.Background(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr)) },
	})
}
