package checksystem

import (
	"context"
	"io/fs"
	"os"
	"sync"
)

// Host is the host that is looked at.
type Host struct {
	// Root holds its files, Sys the kernel's settings.
	Root fs.FS
	Sys  string
	// RunDir is the directory of the programs' sockets.
	RunDir string
	// BGPPort says who listens on the port of BGP; it is empty when nobody does.
	BGPPort func() string
	// Datastore looks at etcd.
	Datastore func(context.Context) []Finding
}

// Find tries and reads everything. It takes no longer than the context lets it.
func Find(ctx context.Context, h Host) System {
	version, kernel := kernelVersion(h.Root)
	var trials, engine, outside []Finding
	var both sync.WaitGroup
	both.Go(func() { outside = h.Datastore(ctx) })
	both.Go(func() {
		var info engineInfo
		info, engine = askEngine(ctx)
		engine = append(engine, NamesOfContainers(h.Root, info.ClusterStore != ""))
		t := findTools(info.nodePID)
		if os.Geteuid() != 0 {
			trials, _ = h.try(ctx, t, variantNFT)
			return
		}
		trials, _ = h.try(ctx, t, usedVariant(ctx, t))
	})
	own := append(h.settings(), h.network()...)
	both.Wait()
	s := System{Kernel: version, OK: true}
	for _, list := range [][]Finding{{kernel}, trials, own, engine, outside} {
		s.Checks = append(s.Checks, list...)
	}
	s.OK = len(s.In(Fault)) == 0
	return s
}
