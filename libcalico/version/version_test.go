package version_test

import (
	"testing"

	"calico.internal/libcalico/version"
)

func TestStringOfAnUnstampedBuild(t *testing.T) {
	t.Parallel()
	if got, want := version.String(), "dev (unknown, unknown)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
