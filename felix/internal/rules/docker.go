package rules

// OfBridges are the chains that depend on which bridges are Docker's. Nothing else is
// written when one comes or goes.
func (r *Renderer) OfBridges(bridges []string) []Chain {
	return []Chain{r.forwardWorkload(bridges), r.dnsIn(bridges), r.dnsOut(bridges)}
}

// forwardWorkload is the chain for packets of workloads that their policies allowed. They are
// accepted, but not between a workload and a bridge of Docker's: there Docker's own chains,
// which come next, decide, so that no workload reaches a port that is not published, or a
// network that Docker keeps internal. bridges are Docker's.
func (r *Renderer) forwardWorkload(bridges []string) Chain {
	c := Chain{ChainID: ChainID{Filter, chainForwardWorkload}}
	for _, name := range bridges {
		c.add(
			Rule{Match: Match{In: Interface{Name: name}}, Action: goTo(chainToDocker)},
			Rule{Match: Match{Out: Interface{Name: name}}, Action: goTo(chainToDocker)},
		)
	}
	if r.cfg.FilterAllow == Accept {
		c.add(Rule{Action: do(Accept), Comment: "Allowed by policy"})
	}
	return c
}

// toDocker leaves a packet to Docker: what felix allowed counts no more.
func (r *Renderer) toDocker() Chain {
	return Chain{ChainID: ChainID{Filter, chainToDocker}, Rules: []Rule{{Action: clearMark(r.marks.accept)}}}
}
