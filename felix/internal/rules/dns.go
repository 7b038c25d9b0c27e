package rules

import "calico.internal/felix/internal/desired"

// dnsPort is where the workloads' gateway answers names.
const dnsPort = 53

// atGateway matches what goes to (Dst), or comes from (Src), the port for names of the
// workloads' gateways: one match for each gateway of the family and each protocol.
func (r *Renderer) atGateway(f Family, side Side) []Match {
	var list []Match
	for _, gw := range r.cfg.Gateways {
		if !f.Of(gw) {
			continue
		}
		for _, proto := range []desired.Protocol{desired.UDP, desired.TCP} {
			m := Match{Protocol: proto, Ports: []Ports{{Side: side, Ranges: []desired.PortRange{{First: dnsPort, Last: dnsPort}}}}}
			if side == Dst {
				m.Destination = Net{Prefix: gw}
			} else {
				m.Source = Net{Prefix: gw}
			}
			list = append(list, m)
		}
	}
	return list
}

// askDNS leads packets of names to the chain that knows who may ask.
func (r *Renderer) askDNS(f Family, side Side, chain string) []Rule {
	if !r.cfg.WorkloadDNS {
		return nil
	}
	var list []Rule
	for _, m := range r.atGateway(f, side) {
		list = append(list, Rule{Match: m, Action: jump(chain), Comment: "DNS of the gateway"})
	}
	return list
}

// dnsOfWorkloads lets workloads ask for names where all else that they send the host is
// stopped.
func (r *Renderer) dnsOfWorkloads(f Family) []Rule {
	if !r.cfg.WorkloadDNS {
		return nil
	}
	var list []Rule
	for _, m := range r.atGateway(f, Dst) {
		list = append(list, r.fromWorkloads(Rule{Match: m, Action: do(Accept)})...)
	}
	return list
}

// dnsIn decides who asks the gateway for names: workloads, whatever their egress policy says,
// and containers on Docker's bridges, whatever host endpoints do. What the host itself asks
// goes the way of its other packets; nobody else asks.
func (r *Renderer) dnsIn(bridges []string) Chain {
	c := Chain{ChainID: ChainID{Filter, chainDNSIn}}
	c.add(r.fromWorkloads(Rule{Action: do(Accept)})...)
	for _, name := range bridges {
		c.add(Rule{Match: Match{In: Interface{Name: name}}, Action: do(Accept)})
	}
	c.add(Rule{Match: Match{In: Interface{Name: "lo"}}, Action: do(Return)})
	c.add(Rule{Action: do(Drop), Comment: "Only containers of this host ask the gateway"})
	return c
}

// dnsOut lets the answers go, also where connections are not known.
func (r *Renderer) dnsOut(bridges []string) Chain {
	c := Chain{ChainID: ChainID{Filter, chainDNSOut}}
	c.add(r.toWorkloads(Rule{Action: do(Accept)})...)
	for _, name := range bridges {
		c.add(Rule{Match: Match{Out: Interface{Name: name}}, Action: do(Accept)})
	}
	return c
}
