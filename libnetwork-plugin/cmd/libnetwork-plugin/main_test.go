package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

func TestExitCodesAndStreams(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		name           string
		args           []string
		env            map[string]string
		code           int
		stdout, stderr string
	}{
		{"version", []string{"version"}, nil, exitDone, "dev", ""},
		{"help", []string{"help"}, nil, exitDone, "libnetwork-plugin run", ""},
		{"help on run", []string{"run", "--help"}, nil, exitDone, "", "-felix-timeout"},
		{"the socket's unit", []string{"unit", "socket"}, nil, exitDone, "ListenStream=/run/docker/plugins/calico-ipam.sock", ""},
		{"the service's unit", []string{"unit", "service", "/opt/p", "/etc/e"}, nil, exitDone, "ExecStart=/opt/p run", ""},
		{"a unit of a program that is not named", []string{"unit", "service"}, nil, exitUsage, "", "PROGRAM"},
		{"a path with a blank", []string{"unit", "service", "/opt/a b", "/etc/e"}, nil, exitUsage, "", "absolute path"},
		{"an unknown command", []string{"serve"}, nil, exitUsage, "", `unknown command "serve"`},
		{"an unknown option", []string{"run", "--nope"}, nil, exitUsage, "", "nope"},
		{
			"a bad value", nil,
			map[string]string{"CALICO_LIBNETWORK_VETH_MTU": "big"},
			exitUsage, "",
			"CALICO_LIBNETWORK_VETH_MTU",
		},
		{
			"a start that fails",
			[]string{"--docker-host", "nonsense", "--run-dir", dir, "--plugin-dir", filepath.Join(dir, "plugins")},
			map[string]string{"NODENAME": "node00"},
			exitFailed, "", "DOCKER_HOST",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), tt.args, func(k string) string { return tt.env[k] }, &stdout, &stderr)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("stdout %q, stderr %q", &stdout, &stderr)
			}
			if tt.stdout == "" && stdout.Len() > 0 {
				t.Errorf("unasked for on stdout: %q", &stdout)
			}
		})
	}
}
