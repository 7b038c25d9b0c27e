package judge

import (
	"fmt"
	"slices"
	"time"
)

// NodeState is how a host's programs are in all.
type NodeState int

// The states of a node.
const (
	NodeStarting NodeState = iota
	NodeHealthy
	NodeDegraded
)

// Problem is what is not as it should be.
type Problem struct {
	Object, Reason, Cure string
}

// Node is what is known of a host beside its programs.
type Node struct {
	// StartedUp is whether the start-up is done, FromRecord whether the programs run without
	// that, and StartupWhy why it is not done.
	StartedUp, FromRecord bool
	StartupWhy            string
	// Held says why nothing was written to etcd although it answers: it is not the cluster's, or
	// locked.
	Held string
	// Connected is whether etcd answers, since Since; else Why says why it does not.
	Connected bool
	Since     time.Time
	Why       string
}

// Problems are those of a host and of its programs. A program that waits for etcd is not one beside
// that etcd is away.
func Problems(n Node, programs []Program) []Problem {
	var out []Problem
	if !n.StartedUp {
		out = append(out, startup(n))
	}
	if n.StartedUp && !n.Connected {
		out = append(out, Problem{
			"etcd", fmt.Sprintf("does not answer since %s: %s; what is in force stays so", n.Since.Local().Format(time.DateTime), n.Why),
			"bring etcd back; nothing on this host needs a restart",
		})
	}
	if n.begins() {
		return out // its programs are not to run yet
	}
	for _, p := range programs {
		if p.State == Ready || p.State == Starting || p.State == NotReady && p.Answers && !n.Connected {
			continue
		}
		out = append(out, Problem{p.Name, p.State.String() + ": " + p.Why, p.Cure})
	}
	return out
}

// begins is whether nothing has begun yet but the start-up.
func (n Node) begins() bool { return !n.StartedUp && !n.FromRecord && n.Held == "" }

func startup(n Node) Problem {
	if n.Held != "" {
		return Problem{"start-up", "nothing was written: " + n.Held, ""}
	}
	const runOn = "the programs run by what this host remembers, and what is in force stays so"
	switch {
	case n.FromRecord && n.Connected:
		return Problem{"start-up", "is not done, and tried again every few seconds (" + n.StartupWhy + "): " + runOn, ""}
	case n.FromRecord:
		return Problem{
			"start-up", "etcd does not answer (" + n.StartupWhy + "): " + runOn,
			"bring etcd back; the start-up is made up for by itself",
		}
	}
	return Problem{"start-up", n.StartupWhy, ""}
}

// Sum sums up. Nothing is wrong yet with what has not had its time to start.
func Sum(n Node, programs []Program, problems int) NodeState {
	waiting := slices.ContainsFunc(programs, func(p Program) bool { return p.State == Starting })
	switch {
	case n.begins():
		return NodeStarting
	case problems > 0:
		return NodeDegraded
	case waiting:
		return NodeStarting
	}
	return NodeHealthy
}
