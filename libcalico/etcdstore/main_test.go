package etcdstore_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

// newClient connects the code under test to a server.
func newClient(tb testing.TB, s *etcdtest.Server) *etcdstore.Client {
	tb.Helper()
	c, err := etcdstore.New(etcdstore.Config{Endpoints: s.Endpoints()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

func ctxOf(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

func policyKey(i int) model.PolicyKey { return model.NewPolicyKey("", fmt.Sprintf("p%04d", i)) }

func policy(selector string) *model.Policy {
	return &model.Policy{Selector: selector, InboundRules: []model.Rule{{Action: model.ActionAllow}}}
}

func must[T any](tb testing.TB) func(T, error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
