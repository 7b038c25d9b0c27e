package daemon

import (
	"context"

	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/nodestart"
)

// who is what a start-up has found out of this host.
type who struct {
	nodestart.Outcome

	name        string
	clusterGUID string
}

// makeNode makes this host a node, and says who it is.
func makeNode(ctx context.Context, cfg nodestart.Config) (who, error) {
	o, err := nodestart.Run(ctx, cfg)
	return knowing(cfg, o, err)
}

// fromRecord says who this host was when it was last made a node. An error says that it never
// was, or is to be another one.
func fromRecord(cfg nodestart.Config) (who, error) {
	o, err := nodestart.FromRecord(cfg)
	return knowing(cfg, o, err)
}

func knowing(cfg nodestart.Config, o nodestart.Outcome, err error) (who, error) {
	if err != nil {
		return who{}, err
	}
	// One that cannot be read does not tell the cluster: the start-up has said so.
	record, _, _ := hostrecord.Read(cfg.StateDir)
	return who{o, o.Name, record.ClusterGUID}, nil
}
