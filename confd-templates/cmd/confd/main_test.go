package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	empty := t.TempDir()
	for _, c := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string // parts of the output
	}{
		{"the version", []string{"-version"}, 0, "template engine: confd v0.16.0", ""},
		{"help", []string{"-help"}, 0, "", "-keep-stage-file"},
		{"an unknown flag", []string{"-colour"}, exitUsage, "", "confd: flag provided but not defined: -colour; see confd -help\n"},
		{"an unknown log level", []string{"-log-level=loud"}, exitUsage, "", `confd: log level "loud"`},
		{"another backend", []string{"-backend=consul"}, exitUsage, "", "confd: -backend=consul"},
		{"no template resources", []string{"-confdir", empty, "-onetime"}, exitFailed, "", "confd: template resources: "},
		{"no etcd", []string{"-confdir", "../..", "-onetime", "-node=127.0.0.1:1", "-run-dir", empty}, exitFailed, "", "127.0.0.1:1"},
		{"a missing keyring", []string{"-confdir", "../..", "-secret-keyring", filepath.Join(empty, "none")}, exitFailed, "", "confd: -secret-keyring: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(c.args, func(string) string { return "" }, &stdout, &stderr)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if !strings.Contains(stdout.String(), c.stdout) || (c.stdout == "") != (stdout.Len() == 0) {
				t.Errorf("stdout %q, want %q in it", stdout.String(), c.stdout)
			}
			if !strings.Contains(stderr.String(), c.stderr) || (c.stderr == "") != (stderr.Len() == 0) {
				t.Errorf("stderr %q, want %q in it", stderr.String(), c.stderr)
			}
		})
	}
}
