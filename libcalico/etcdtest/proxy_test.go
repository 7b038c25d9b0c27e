package etcdtest

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestAProxyLosesOneWrite(t *testing.T) {
	s := Start(t)
	p := s.Proxy(t)
	direct, through := s.Client(t), connect(t, p.Endpoint())
	watch := through.Watch(t.Context(), "/k")
	for _, how := range Losses {
		t.Run(how.String(), func(t *testing.T) {
			if _, err := direct.Delete(t.Context(), "/k"); err != nil {
				t.Fatal(err)
			}
			p.Lose(2, how)
			put := func(value string) error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := through.Txn(ctx).Then(clientv3.OpPut("/k", value)).Commit()
				return err
			}
			if err := put("first"); err != nil {
				t.Fatal("the first write: ", err)
			}
			if err := put("second"); err == nil {
				t.Fatal("the second write was answered")
			}
			stored := "second"
			if how == RequestCut || how == RequestLate {
				stored = "first"
			}
			if got := value(t, direct); got != stored {
				t.Errorf("etcd holds %q, want %q", got, stored)
			}
			if how == RequestLate {
				p.AwaitLate()
				if got := value(t, direct); got != "second" {
					t.Errorf("etcd holds %q in the end, want the second write", got)
				}
			}
			if err := put("third"); err != nil {
				t.Error("the third write: ", err)
			}
			if got := p.Writes(); got != 3 {
				t.Errorf("%d writes were counted, want 3", got)
			}
		})
	}
	select {
	case got := <-watch:
		if got.Err() != nil || len(got.Events) == 0 {
			t.Errorf("the watch: %v, %d events", got.Err(), len(got.Events))
		}
	case <-time.After(5 * time.Second):
		t.Error("no watch through the proxy")
	}
}

func value(t *testing.T, client *clientv3.Client) string {
	t.Helper()
	got, err := client.Get(t.Context(), "/k")
	if err != nil || len(got.Kvs) != 1 {
		t.Fatal(got, err)
	}
	return string(got.Kvs[0].Value)
}
