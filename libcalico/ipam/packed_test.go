package ipam

import (
	"strings"
	"testing"
)

func TestAPackedOwnerIsTheOwner(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, o := range []Owner{
		{},
		{Handle: "h"},
		{Attrs: map[string]string{AttrNode: ""}},
		{Handle: id, Attrs: map[string]string{
			AttrEndpoint: id, AttrNode: "node-1", AttrNetwork: "net1", AttrContainer: "web", AttrTimestamp: "2026-01-02T03:04:05.123456789Z",
		}},
		{Handle: "h", Attrs: map[string]string{"": "", "strange\x00name": "h", AttrType: "tunnel", "ünicode": strings.Repeat("x", 300)}},
	} {
		p := pack(o.Handle, o.Attrs)
		if got := p.owner(); !sameOwner(got, o) {
			t.Errorf("%v came back as %v", o, got)
		}
		for name, value := range o.Attrs {
			if got := p.attr(name); got != value {
				t.Errorf("%v: %s is %q", o, name, got)
			}
		}
		if got := p.attr("none"); got != "" {
			t.Errorf("%v: there is a %q", o, got)
		}
	}
}

func FuzzPackedOwner(f *testing.F) {
	f.Add("h", AttrNode, "a", "other", "h")
	f.Add("", "", "", "\xff", "\x00")
	f.Fuzz(func(t *testing.T, handle, name1, value1, name2, value2 string) {
		o := Owner{Handle: handle, Attrs: map[string]string{name1: value1, name2: value2}}
		if got := pack(o.Handle, o.Attrs).owner(); !sameOwner(got, o) {
			t.Errorf("%q came back as %q", o, got)
		}
	})
}
