package engine

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"calico.internal/libcalico/grpcsock"
	libnetworkv1 "calico.internal/proto/libnetwork/v1"
)

// pluginTimeout bounds the question to the plugin, which is on this host.
const pluginTimeout = 3 * time.Second

// Served asks the plugin whose socket is in a folder which engine it serves, and for which
// node. Both are empty when there is no plugin, or none that can tell.
func Served(ctx context.Context, runDir string) (node, id string) {
	socket := filepath.Join(runDir, "libnetwork.sock")
	if _, err := os.Stat(socket); err != nil {
		return "", ""
	}
	conn, err := grpcsock.Dial(socket)
	if err != nil {
		return "", ""
	}
	defer conn.Close() //nolint:errcheck // only asked
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	answer, err := libnetworkv1.NewLibnetworkClient(conn).Status(ctx, &libnetworkv1.StatusRequest{})
	if err != nil {
		return "", ""
	}
	return answer.GetNode(), answer.GetEngineId()
}
