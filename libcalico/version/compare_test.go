package version_test

import (
	"testing"

	"calico.internal/libcalico/version"
)

func TestAtLeast(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		have, need string
		want       bool
	}{
		{"v0.3.0", "v0.3.0", true},
		{"v0.3.1", "v0.3.0", true},
		{"v0.10.0", "v0.9.9", true},
		{"v1.0.0", "v0.9.9", true},
		{"0.3.0", "v0.3.0", true},
		{"v0.3.0-4-g1a2b3c4", "v0.3.0", true},
		{"v0.3.0+local", "v0.3.0", true},
		{"v0.2.9", "v0.3.0", false},
		{"v0.2.9-rc1", "v0.3.0", false},
		{"dev", "v99.0.0", true},
		{"", "v99.0.0", true},
		{"v1.2", "v99.0.0", true},
		{"v0.3.0", "what this program cannot read", false},
		{"dev", "what this program cannot read", true},
	} {
		if got := version.AtLeast(tt.have, tt.need); got != tt.want {
			t.Errorf("AtLeast(%q, %q) = %v", tt.have, tt.need, got)
		}
	}
	if !version.IsRelease("v0.1.0") || version.IsRelease("dev") || version.IsRelease("v1.2") || version.IsRelease("v1.2.x") {
		t.Error("IsRelease")
	}
}
