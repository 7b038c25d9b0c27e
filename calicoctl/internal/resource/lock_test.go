package resource

import (
	"testing"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

// TestALockWhoseAnswerGotLostIsTaken loses the answer to the locking, or the request.
func TestALockWhoseAnswerGotLostIsTaken(t *testing.T) {
	server := etcdtest.Shared(t)
	for _, how := range []etcdtest.Loss{etcdtest.AnswerCut, etcdtest.RequestCut, etcdtest.RequestLate} {
		t.Run(how.String(), func(t *testing.T) {
			server.Wipe(t)
			server.SetUp(t)
			proxy := server.Proxy(t)
			far, err := etcdstore.New(etcdstore.Config{Endpoints: []string{proxy.Endpoint()}})
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close() //nolint:errcheck // the test is over
			s := New(far)
			by := &model.Lock{ID: "mine", By: "ann@h1", Command: "calicoctl datastore lock"}
			proxy.Lose(1, how)
			if got, err := s.Lock(t.Context(), by); err != nil || !got.Changed || !got.By.Is(by) {
				t.Errorf("locked %+v, %v", got, err)
			}
			proxy.AwaitLate()
			if state, err := far.LockState(t.Context()); err != nil || !state.By.Is(by) {
				t.Errorf("the lock is %+v, %v", state, err)
			}
			if got, err := s.Lock(t.Context(), &model.Lock{By: "ann@h1"}); err != nil || got.Changed {
				t.Errorf("locked again %+v, %v", got, err)
			}
		})
	}
}
