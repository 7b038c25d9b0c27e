package etcdstore

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"calico.internal/libcalico/logattr"
)

// trace logs requests at debug level: which keys, never values, for there are passwords
// among them.
func trace(log *slog.Logger) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		start := time.Now()
		err := invoke(ctx, method, req, reply, cc, opts...)
		attrs := []slog.Attr{
			slog.String(logattr.Method, path.Base(method)),
			slog.String(logattr.Key, subject(req)),
			slog.Duration(logattr.Took, time.Since(start)),
		}
		if err != nil {
			attrs = append(attrs, slog.Any(logattr.Err, err))
		}
		log.LogAttrs(ctx, slog.LevelDebug, "etcd request", attrs...)
		return err
	}
}

// subject says what a request is about.
func subject(req any) string {
	switch r := req.(type) {
	case *pb.RangeRequest:
		return keys(r.Key, r.RangeEnd)
	case *pb.PutRequest:
		return string(r.Key)
	case *pb.DeleteRangeRequest:
		return keys(r.Key, r.RangeEnd)
	case *pb.TxnRequest:
		return transaction(r)
	}
	return ""
}

func keys(from, to []byte) string {
	if len(to) == 0 {
		return string(from)
	}
	return fmt.Sprintf("%s…%s", from, to)
}

// transaction names the first key and how many steps there are.
func transaction(r *pb.TxnRequest) string {
	return fmt.Sprintf("%s (%d conditions, %d steps)", firstKey(r), len(r.Compare), len(r.Success))
}

func firstKey(r *pb.TxnRequest) string {
	for _, op := range r.Success {
		switch op := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			return keys(op.RequestRange.Key, op.RequestRange.RangeEnd)
		case *pb.RequestOp_RequestPut:
			return string(op.RequestPut.Key)
		case *pb.RequestOp_RequestDeleteRange:
			return keys(op.RequestDeleteRange.Key, op.RequestDeleteRange.RangeEnd)
		case *pb.RequestOp_RequestTxn:
			return firstKey(op.RequestTxn)
		}
	}
	return ""
}
