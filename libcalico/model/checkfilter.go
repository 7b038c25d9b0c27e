package model

import "strconv"

func checkBGPFilter(f *faults, k BGPFilterKey, b *BGPFilter) {
	f.meta(b.Meta)
	f.name("metadata.name", k.Name)
	f.filterRules("spec.exportV4", b.ExportV4, 4)
	f.filterRules("spec.importV4", b.ImportV4, 4)
	f.filterRules("spec.exportV6", b.ExportV6, 6)
	f.filterRules("spec.importV6", b.ImportV6, 6)
}

func (f *faults) filterRules(field string, rules []BGPFilterRule, family int) {
	for i := range rules {
		f.filterRule(indexed(field, i), &rules[i], family)
	}
}

func (f *faults) filterRule(field string, r *BGPFilterRule, family int) {
	switch r.Action {
	case FilterAccept, FilterReject:
	default:
		f.add(field+".action", r.Action, "must be Accept or Reject")
	}
	switch r.Operator {
	case "", "Equal", "NotEqual", "In", "NotIn":
	default:
		f.add(field+".matchOperator", r.Operator, "must be Equal, NotEqual, In or NotIn")
	}
	f.unless(r.CIDR.IsValid() == (r.Operator != ""), field, "", "cidr and matchOperator are set together")
	if r.CIDR.IsValid() && f.cidr(field+".cidr", r.CIDR) {
		f.unless(familyNumber(r.CIDR.Addr()) == family, field+".cidr", r.CIDR, "is not of IPv"+strconv.Itoa(family))
	}
	f.prefixLengths(field, r, family)
	f.unless(r.Source == "" || r.Source == "RemotePeers", field+".source", r.Source, "must be RemotePeers")
	f.unless(r.Interface == "" || isInterfacePattern(r.Interface), field+".interface", r.Interface, interfaceRule+", or '*' at the end")
}

func (f *faults) prefixLengths(field string, r *BGPFilterRule, family int) {
	most := 32
	if family == 6 {
		most = 128
	}
	low, high := 0, most
	for _, bound := range []struct {
		name  string
		given *int
		value *int
	}{{"min", r.MinLength, &low}, {"max", r.MaxLength, &high}} {
		if bound.given == nil {
			continue
		}
		*bound.value = *bound.given
		f.unless(*bound.given >= 0 && *bound.given <= most, field+".prefixLength."+bound.name, *bound.given,
			"must be 0 to "+strconv.Itoa(most))
	}
	given := r.MinLength != nil || r.MaxLength != nil
	f.unless(!given || r.CIDR.IsValid(), field+".prefixLength", "", "needs a cidr")
	f.unless(low <= high, field+".prefixLength", low, "the bounds exclude each other")
}
