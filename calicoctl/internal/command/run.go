package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/localnet"
)

// The exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Env is the world around a command.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	// Taken lists what the machine's network has taken; nil lists nothing.
	Taken func() ([]localnet.Place, error)
	// Sandboxes lists the machine's containers by its kernel; nil lists none.
	Sandboxes func() ([]localnet.Sandbox, error)

	registry   *manifest.Registry
	configPath string
	// log is for whoever asks for it with --log-level; it goes to Stderr.
	log         *slog.Logger
	traced      bool // requests to etcd too
	configOnce  sync.Once
	collections collections
	// apiVersion is the dialect that a command line asks for.
	apiVersion string
}

// OSEnv is the world of the process.
func OSEnv() *Env {
	return &Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Taken: localnet.List, Sandboxes: localnet.Sandboxes}
}

// Builder makes a command that belongs to an environment.
type Builder func(*Env) *cobra.Command

// Run carries out a command line and returns the exit status. The commands of more
// come beside those that every calicoctl has.
func Run(ctx context.Context, env *Env, args []string, more ...Builder) int {
	env.collections.putOff(env)
	root := NewRoot(env, more...)
	root.SetArgs(args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	return env.report(cmd, err)
}

// report writes an error and says with which status to exit.
func (env *Env) report(cmd *cobra.Command, err error) int {
	var usage *usageError
	var status *statusError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &status):
		return status.code
	case errors.As(err, &usage):
		fmt.Fprintf(env.Stderr, "Error: %s\n", usage.msg)
		fmt.Fprintf(env.Stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
		return exitUsage
	}
	fmt.Fprintln(env.Stderr, err)
	return exitFailed
}

// usageError is a mistake in the command line.
type usageError struct {
	msg string
}

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{msg: fmt.Sprintf(format, args...)}
}

// statusError ends the program with a status after everything has been said.
type statusError struct {
	code int
}

func (e *statusError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// executing prefixes an error as the commands that are not about manifests do.
func executing(err error) error {
	var usage *usageError
	var status *statusError
	if err == nil || errors.As(err, &usage) || errors.As(err, &status) {
		return err
	}
	return fmt.Errorf("Error executing command: %w", err)
}

// atMost refuses arguments beyond a number; commands check themselves whether there
// are enough, since what is missing depends on flags.
func atMost(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > n {
			return usagef("unexpected argument %q", args[n])
		}
		return nil
	}
}
