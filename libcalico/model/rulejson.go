package model

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"strings"
)

// ruleJSON is a rule as v2.6 stores it. Negated fields have a "!" before the name.
type ruleJSON struct {
	Action    string   `json:"action,omitempty"`
	IPVersion int      `json:"ip_version,omitempty"`
	Protocol  Protocol `json:"protocol,omitempty"`
	ICMPType  *int     `json:"icmp_type,omitempty"`
	ICMPCode  *int     `json:"icmp_code,omitempty"`

	SrcTag      string         `json:"src_tag,omitempty"`
	SrcNet      *netip.Prefix  `json:"src_net,omitempty"`
	SrcNets     []netip.Prefix `json:"src_nets,omitempty"`
	SrcSelector string         `json:"src_selector,omitempty"`
	SrcPorts    []Port         `json:"src_ports,omitempty"`
	DstTag      string         `json:"dst_tag,omitempty"`
	DstNet      *netip.Prefix  `json:"dst_net,omitempty"`
	DstNets     []netip.Prefix `json:"dst_nets,omitempty"`
	DstSelector string         `json:"dst_selector,omitempty"`
	DstPorts    []Port         `json:"dst_ports,omitempty"`

	NotProtocol    Protocol       `json:"!protocol,omitempty"`
	NotICMPType    *int           `json:"!icmp_type,omitempty"`
	NotICMPCode    *int           `json:"!icmp_code,omitempty"`
	NotSrcTag      string         `json:"!src_tag,omitempty"`
	NotSrcNet      *netip.Prefix  `json:"!src_net,omitempty"`
	NotSrcNets     []netip.Prefix `json:"!src_nets,omitempty"`
	NotSrcSelector string         `json:"!src_selector,omitempty"`
	NotSrcPorts    []Port         `json:"!src_ports,omitempty"`
	NotDstTag      string         `json:"!dst_tag,omitempty"`
	NotDstNet      *netip.Prefix  `json:"!dst_net,omitempty"`
	NotDstNets     []netip.Prefix `json:"!dst_nets,omitempty"`
	NotDstSelector string         `json:"!dst_selector,omitempty"`
	NotDstPorts    []Port         `json:"!dst_ports,omitempty"`

	LogPrefix   string            `json:"log_prefix,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	Unknown Unknown `json:"-"`
}

// MarshalJSON writes the rule with v2.6's flat names.
func (r Rule) MarshalJSON() ([]byte, error) {
	w := ruleJSON{
		Action: r.Action, IPVersion: r.IPVersion, Protocol: r.Protocol, NotProtocol: r.NotProtocol,

		SrcTag: r.Source.Tag, SrcNets: r.Source.Nets, SrcSelector: r.Source.Selector, SrcPorts: r.Source.Ports,
		NotSrcTag: r.Source.NotTag, NotSrcNets: r.Source.NotNets,
		NotSrcSelector: r.Source.NotSelector, NotSrcPorts: r.Source.NotPorts,

		DstTag: r.Destination.Tag, DstNets: r.Destination.Nets,
		DstSelector: r.Destination.Selector, DstPorts: r.Destination.Ports,
		NotDstTag: r.Destination.NotTag, NotDstNets: r.Destination.NotNets,
		NotDstSelector: r.Destination.NotSelector, NotDstPorts: r.Destination.NotPorts,

		LogPrefix: r.LogPrefix, Annotations: r.Annotations, Unknown: r.Unknown,
	}
	w.ICMPType, w.ICMPCode = r.ICMP.wire()
	w.NotICMPType, w.NotICMPCode = r.NotICMP.wire()
	data, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	return withUnknown(data, reflect.ValueOf(w)), nil
}

// UnmarshalJSON reads a rule as v2.6 or this package wrote it: a single net beside
// or instead of a list, a missing action (allow), "pass" for "next-tier".
func (r *Rule) UnmarshalJSON(data []byte) error {
	var w ruleJSON
	if err := unmarshal(data, &w); err != nil {
		return err
	}
	icmp, err := newICMP(w.ICMPType, w.ICMPCode)
	if err != nil {
		return err
	}
	notICMP, err := newICMP(w.NotICMPType, w.NotICMPCode)
	if err != nil {
		return err
	}
	*r = Rule{
		Action: storedAction(w.Action), IPVersion: w.IPVersion,
		Protocol: w.Protocol, NotProtocol: w.NotProtocol, ICMP: icmp, NotICMP: notICMP,
		Source: Match{
			Tag: w.SrcTag, Nets: netList(w.SrcNet, w.SrcNets), Selector: w.SrcSelector, Ports: portList(w.SrcPorts),
			NotTag: w.NotSrcTag, NotNets: netList(w.NotSrcNet, w.NotSrcNets),
			NotSelector: w.NotSrcSelector, NotPorts: portList(w.NotSrcPorts),
		},
		Destination: Match{
			Tag: w.DstTag, Nets: netList(w.DstNet, w.DstNets), Selector: w.DstSelector, Ports: portList(w.DstPorts),
			NotTag: w.NotDstTag, NotNets: netList(w.NotDstNet, w.NotDstNets),
			NotSelector: w.NotDstSelector, NotPorts: portList(w.NotDstPorts),
		},
		LogPrefix: w.LogPrefix, Unknown: w.Unknown,
	}
	if len(w.Annotations) > 0 {
		r.Annotations = w.Annotations
	}
	return nil
}

func storedAction(action string) string {
	switch action = strings.ToLower(action); action {
	case "":
		return ActionAllow
	case "pass":
		return ActionPass
	default:
		return action
	}
}

func (i *ICMP) wire() (icmpType, icmpCode *int) {
	if i == nil {
		return nil, nil
	}
	return &i.Type, i.Code
}

func newICMP(icmpType, icmpCode *int) (*ICMP, error) {
	switch {
	case icmpType != nil:
		return &ICMP{Type: *icmpType, Code: icmpCode}, nil
	case icmpCode != nil:
		return nil, errors.New("icmp_code without icmp_type")
	default:
		return nil, nil
	}
}

func netList(single *netip.Prefix, list []netip.Prefix) []netip.Prefix {
	if single != nil {
		list = append([]netip.Prefix{*single}, list...)
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

func portList(list []Port) []Port {
	if len(list) == 0 {
		return nil
	}
	return list
}
