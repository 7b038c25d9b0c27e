package main

import (
	"io"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

func TestExitCodes(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want int
	}{
		{[]string{"version"}, exitDone},
		{[]string{"--help"}, exitDone},
		{[]string{"check", "../../testdata/reference.toml"}, exitDone},
		{[]string{"check", "nothing.toml"}, exitFailed},
		{[]string{"reload", "--run-dir", "/nowhere"}, exitFailed},
		{[]string{"dance"}, exitUsage},
		{[]string{"check"}, exitUsage},
	} {
		if got := run(t.Context(), tc.args, func(string) string { return "" }, io.Discard, io.Discard); got != tc.want {
			t.Errorf("bgpd %v ends with %d, want %d", tc.args, got, tc.want)
		}
	}
}
