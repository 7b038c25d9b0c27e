package etcdtest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// StartMembers runs a cluster of several members for one test. Each member is a [Server] of
// its own, which can be paused; none can be reset, saved or moved.
func StartMembers(tb testing.TB, count int) []*Server {
	tb.Helper()
	members := make([]*Server, count)
	var cluster []string
	for i := range members {
		members[i] = &Server{opts: options{host: "127.0.0.1", scheme: "http"}, dir: tb.TempDir()}
		if err := members[i].choosePorts(); err != nil {
			tb.Fatal(err)
		}
		cluster = append(cluster, fmt.Sprintf("m%d=http://%s", i, members[i].peer))
	}
	errs := make([]error, count)
	var all sync.WaitGroup
	for i, m := range members {
		// What comes later on etcd's command line counts.
		m.opts.args = []string{fmt.Sprintf("--name=m%d", i), "--initial-cluster=" + strings.Join(cluster, ",")}
		all.Go(func() { errs[i] = m.start() })
	}
	all.Wait()
	for _, m := range members {
		tb.Cleanup(m.Close)
	}
	if err := errors.Join(errs...); err != nil {
		tb.Fatal(err)
	}
	return members
}
