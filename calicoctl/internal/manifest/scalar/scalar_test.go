package scalar_test

import (
	"testing"

	"calico.internal/calicoctl/internal/manifest/scalar"
)

// FuzzIPNet checks that whatever is read as a network is printed as one that is read as
// the same.
func FuzzIPNet(f *testing.F) {
	for _, text := range []string{"10.0.0.0/8", "10.0.0.5/8", "10.1.2.3", "fd00::/8", "::ffff:1.2.3.4/96", "::ffff:1.2.3.4", "fe80::1%eth0", "0.0.0.0/0", "1.2.3.4/33", "01.2.3.4"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var n, back scalar.IPNet
		if n.UnmarshalText([]byte(text)) != nil {
			return
		}
		if !n.IsValid() || n.Addr().Zone() != "" {
			t.Errorf("%q is read as %v", text, n)
		}
		if err := back.UnmarshalText([]byte(n.String())); err != nil || back != n {
			t.Errorf("%q is read as %v, which is read as %v (%v)", text, n, back, err)
		}
	})
}
