package command

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/clientconfig"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/nodename"
)

// Config reads how to reach the datastore, as the command line and the environment
// say.
func (env *Env) Config() (clientconfig.Config, error) {
	cfg, err := clientconfig.Load(clientconfig.Sources{Path: env.configPath, Getenv: env.Getenv, ReadFile: os.ReadFile})
	if err != nil || env.log == nil {
		return cfg, err
	}
	env.configOnce.Do(func() {
		env.log.Info("configuration", logattr.File, cfg.Source, logattr.Endpoints, cfg.Etcd.Endpoints)
	})
	if env.traced {
		cfg.Etcd.Log = env.log
	}
	return cfg, nil
}

// withStore connects to the datastore, makes sure that it answers, and calls f.
func (env *Env) withStore(cmd *cobra.Command, f func(context.Context, *resource.Store) error) error {
	return env.inStore(cmd.Context(), f)
}

// inStore is withStore for what has a context of its own.
func (env *Env) inStore(ctx context.Context, f func(context.Context, *resource.Store) error) error {
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	client, err := Connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer client.Close() //nolint:errcheck // there is nothing left to lose
	s := resource.New(client)
	s.OnWarning(func(msg string) { fmt.Fprintf(env.Stderr, "Warning: %s\n", msg) })
	s.OnProgress(func(done, all int) { fmt.Fprintf(env.Stderr, "Written %d of %d resources\n", done, all) })
	s.OnMachine(env.machine())
	return f(ctx, s)
}

// machine is the machine that the command runs on.
func (env *Env) machine() resource.Machine {
	m := resource.Machine{Taken: env.Taken}
	if name, err := nodename.Resolve("", env.Getenv); err == nil {
		m.Node = name
	}
	return m
}

// Connect opens the datastore of a configuration and makes sure that it answers.
func Connect(ctx context.Context, cfg clientconfig.Config) (*etcdstore.Client, error) {
	etcd, err := cfg.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	client, err := etcdstore.New(etcd)
	if err != nil {
		return nil, err
	}
	if err := client.Ping(ctx); err != nil {
		client.Close() //nolint:errcheck // the first error is the one to show
		if cfg.Source != clientconfig.FromEnvironment {
			err = fmt.Errorf("%w (configured in %s)", err, cfg.Source)
		}
		return nil, err
	}
	return client, nil
}
