package v1

import (
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// place is where the dialect has the value that the model complains about: the model
// knows only lists of networks, and has the addresses of each IP version together.
func place(r *tree.Report, f *model.FieldError) string {
	path := f.Field
	for _, list := range []struct{ many, one string }{{".nets[0]", ".net"}, {".notNets[0]", ".notNet"}} {
		before, found := strings.CutSuffix(path, list.many)
		if found && r.Root().At(before+list.one) != nil {
			return before + list.one
		}
	}
	for _, list := range []string{"spec.expectedIPs", "spec.ipNetworks"} {
		if strings.HasPrefix(path, list+"[") {
			return dialect.ByValue(r, list, f)
		}
	}
	return path
}
