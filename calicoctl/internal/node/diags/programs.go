package diags

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"calico.internal/libcalico/grpcsock"
	bgpdv1 "calico.internal/proto/bgpd/v1"
	felixv1 "calico.internal/proto/felix/v1"
	libnetworkv1 "calico.internal/proto/libnetwork/v1"
	nodev1 "calico.internal/proto/node/v1"
)

// errAbsent is for what is not there and need not be.
var errAbsent = errors.New("not on this host, and not needed")

// question is one that a program of this host answers.
type question struct {
	program, socket, name string
	ask                   func(context.Context, grpc.ClientConnInterface) (proto.Message, error)
}

// maxAnswer is the size of an answer: 100,000 routes take 20 MB.
const maxAnswer = 256 << 20

// answerTime is for one answer.
const answerTime = 5 * time.Second

var bigAnswer = grpc.MaxCallRecvMsgSize(maxAnswer)

var questions = []question{
	{"calico-node", "node.sock", "status", func(ctx context.Context, c grpc.ClientConnInterface) (proto.Message, error) {
		return nodev1.NewNodeClient(c).Status(ctx, &nodev1.StatusRequest{})
	}},
	{"felix", "felix.sock", "status", func(ctx context.Context, c grpc.ClientConnInterface) (proto.Message, error) {
		return felixv1.NewFelixClient(c).Status(ctx, &felixv1.StatusRequest{})
	}},
	{"felix", "felix.sock", "endpoints", func(ctx context.Context, c grpc.ClientConnInterface) (proto.Message, error) {
		return felixv1.NewFelixClient(c).ListEndpoints(ctx, &felixv1.ListEndpointsRequest{}, bigAnswer)
	}},
	{"bgpd", "bgpd.sock", "status", func(ctx context.Context, c grpc.ClientConnInterface) (proto.Message, error) {
		return bgpdv1.NewBgpdClient(c).Status(ctx, &bgpdv1.StatusRequest{})
	}},
	{"bgpd", "bgpd.sock", "peers", func(ctx context.Context, c grpc.ClientConnInterface) (proto.Message, error) {
		return bgpdv1.NewBgpdClient(c).ListPeers(ctx, &bgpdv1.ListPeersRequest{}, bigAnswer)
	}},
	{"bgpd", "bgpd.sock", "routes", func(ctx context.Context, c grpc.ClientConnInterface) (proto.Message, error) {
		return bgpdv1.NewBgpdClient(c).ListRoutes(ctx, &bgpdv1.ListRoutesRequest{}, bigAnswer)
	}},
	{"libnetwork", "libnetwork.sock", "status", func(ctx context.Context, c grpc.ClientConnInterface) (proto.Message, error) {
		return libnetworkv1.NewLibnetworkClient(c).Status(ctx, &libnetworkv1.StatusRequest{})
	}},
}

// Programs are the sources of what the programs of this host say over their sockets in a
// directory. Of those that should not run here, nothing is missing.
func Programs(runDir string, wanted []string) (sources []Source) {
	for _, q := range questions {
		should := slices.Contains(wanted, q.program) || q.program == "calico-node" && len(wanted) > 0
		sources = append(sources, Source{
			Name: "programs/" + q.program + "-" + q.name + ".json",
			Read: func(ctx context.Context) ([]byte, error) {
				return q.answer(ctx, filepath.Join(runDir, q.socket), should)
			},
		})
	}
	return sources
}

func (q question) answer(ctx context.Context, socket string, should bool) ([]byte, error) {
	if _, err := os.Stat(socket); errors.Is(err, fs.ErrNotExist) {
		if !should {
			return nil, errAbsent
		}
		return nil, fmt.Errorf("%s should run here, and does not answer: %w", q.program, err)
	}
	conn, err := grpcsock.Dial(socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // only asked
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	answer, err := q.ask(ctx, conn)
	if err != nil {
		return nil, err
	}
	data, err := protojson.MarshalOptions{Multiline: true}.Marshal(answer)
	return append(bytes.TrimSpace(data), '\n'), err
}
