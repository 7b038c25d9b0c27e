// Package calicoctl_test runs the program as its users do: each file of
// testdata/script is a session of command lines with what they must print.
package calicoctl_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/calicoctl/internal/command"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/localnet"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"calicoctl":   func() { os.Exit(command.Run(context.Background(), scriptEnv(), os.Args[1:], command.NewNode)) },
		"kv":          func() { os.Exit(status(kv(os.Args[1:]))) },
		"v2":          func() { os.Exit(status(v2(os.Args[1]))) },
		"ipam-assign": func() { os.Exit(status(assign(os.Args[1:]))) },
	})
}

// scriptEnv is the world of a script's programs. What the machine's network has taken is
// for the script to say: TAKEN is "PREFIX WHAT" for one place.
func scriptEnv() *command.Env {
	env := command.OSEnv()
	env.Taken = func() ([]localnet.Place, error) {
		prefix, what, ok := strings.Cut(os.Getenv("TAKEN"), " ")
		if !ok {
			return nil, nil
		}
		p, err := netip.ParsePrefix(prefix)
		return []localnet.Place{{Prefix: p, What: what}}, err
	}
	return env
}

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	etcd := etcdtest.Start(t, etcdtest.EnableV2())
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			etcd.Wipe(t) // the scripts share it, one after the other
			testscript.Run(t, testscript.Params{
				Files:               []string{file},
				RequireExplicitExec: true,
				Condition:           func(name string) (bool, error) { return name == "root" && os.Geteuid() == 0, nil },
				UpdateScripts:       os.Getenv("UPDATE") != "",
				Setup: func(env *testscript.Env) error {
					env.Setenv("ETCD_ENDPOINTS", etcd.Endpoint())
					env.Setenv(hostrecord.DirVariable, filepath.Join(env.WorkDir, "state"))
					return nil
				},
			})
		})
	}
}

// withEnv connects to the datastore that a script's environment names.
func withEnv(f func(context.Context, *etcdstore.Client) error) error {
	c, err := etcdstore.New(etcdstore.Config{Endpoints: []string{os.Getenv("ETCD_ENDPOINTS")}})
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // the test is over
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return f(ctx, c)
}

func status(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// kv is a program for scripts: "kv get KEY", "kv keys PREFIX", "kv put KEY VALUE",
// "kv del KEY", and "kv wipe", which deletes all in one revision.
func kv(args []string) error {
	return withEnv(func(ctx context.Context, c *etcdstore.Client) error {
		switch args[0] {
		case "put":
			_, err := c.Raw().Put(ctx, args[1], args[2])
			return err
		case "del":
			_, err := c.Raw().Delete(ctx, args[1])
			return err
		case "wipe":
			_, err := c.Raw().Delete(ctx, "", clientv3.WithFromKey())
			return err
		}
		var opts []clientv3.OpOption
		if args[0] == "keys" {
			opts = append(opts, clientv3.WithPrefix())
		}
		got, err := c.Raw().Get(ctx, args[1], opts...)
		if err != nil {
			return err
		}
		for _, pair := range got.Kvs {
			if args[0] == "keys" {
				fmt.Println(string(pair.Key))
			} else {
				fmt.Println(string(pair.Value))
			}
		}
		return nil
	})
}

// assign is a program for scripts that gives an address to an owner:
// "ipam-assign NODE ADDRESS HANDLE [NAME=VALUE...]".
func assign(args []string) error {
	return withEnv(func(ctx context.Context, c *etcdstore.Client) error {
		addr, err := netip.ParseAddr(args[1])
		if err != nil {
			return err
		}
		owner := ipam.Owner{Handle: args[2], Attrs: map[string]string{}}
		for _, arg := range args[3:] {
			name, value, _ := strings.Cut(arg, "=")
			owner.Attrs[name] = value
		}
		return ipam.New(c, args[0]).Assign(ctx, addr, owner)
	})
}

// v2 is a program for scripts that puts the "KEY VALUE" lines of a file into the v2
// tree.
func v2(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		form := url.Values{"value": {value}}
		if strings.HasSuffix(key, "/status") {
			form.Set("ttl", "300")
		}
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPut,
			os.Getenv("ETCD_ENDPOINTS")+"/v2/keys"+key, strings.NewReader(form.Encode()))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		if err := resp.Body.Close(); err != nil {
			return err
		}
		if resp.StatusCode >= http.StatusBadRequest {
			return fmt.Errorf("%s: %s", key, resp.Status)
		}
	}
	return nil
}
