package main

import (
	"bytes"
	"io/fs"
	"strings"
	"testing"
)

// invoke runs the program in surroundings that hold only what is given.
func invoke(t *testing.T, env map[string]string, file string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	var all []string
	for k, v := range env {
		all = append(all, k+"="+v)
	}
	code = run(t.Context(), args, environment{
		lookup: func(name string) string { return env[name] },
		all:    all,
		readFile: func(name string) ([]byte, error) {
			if file == "" || name != "/etc/calico/felix.cfg" {
				return nil, fs.ErrNotExist
			}
			return []byte(file), nil
		},
		stdout: &out, stderr: &errs,
	})
	return code, out.String(), errs.String()
}

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		name           string
		env            map[string]string
		file           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{name: "help", args: []string{"--help"}, stdout: "cleanup"},
		{name: "version", args: []string{"version"}, stdout: "dev ("},
		{name: "an unknown command", args: []string{"bogus"}, code: exitUsage, stderr: `unknown command or argument "bogus"`},
		{name: "an unknown flag", args: []string{"run", "--bogus"}, code: exitUsage, stderr: "unknown flag: --bogus"},
		{name: "a bad log format", args: []string{"run", "--log-format=xml"}, code: exitUsage, stderr: `log format "xml"`},
		{name: "defaults", args: []string{"config", "--local"}, stdout: "DefaultEndpointToHostAction"},
		{
			name: "sources", args: []string{"config", "--local"}, env: map[string]string{"FELIX_LOGPREFIX": "e"}, file: "HealthPort = 99\n",
			stdout: "LogPrefix",
		},
		{
			name: "etcd does not answer", args: []string{"config", "--node-name=n", "--etcd-endpoints=http://127.0.0.1:9"},
			stdout: "LogPrefix", stderr: "cannot reach etcd at http://127.0.0.1:9",
		},
		{
			name: "the dataplane to come", args: []string{"run"}, env: map[string]string{"FELIX_DATAPLANE": "nftables", "NODENAME": "n"},
			code: exitFailed, stderr: "dataplane nftables: not built yet; set Dataplane to auto or iptables",
		},
		{
			name: "a mistyped name", args: []string{"config", "--local"}, file: "HealthPrt = 99\n",
			stdout: "HealthPort", stderr: "did you mean HealthPort",
		},
		{
			name: "a bad parameter", args: []string{"config", "--local"}, env: map[string]string{"FELIX_DEFAULTENDPOINTTOHOSTACTION": "ACEPT"},
			code: exitFailed, stdout: "LogPrefix", stderr: "DefaultEndpointToHostAction = ACEPT (environment)",
		},
		{
			name: "a bad parameter stops the agent", args: []string{"run"}, env: map[string]string{"FELIX_DEFAULTENDPOINTTOHOSTACTION": "ACEPT"},
			code: exitFailed, stderr: "want one of DROP, RETURN, ACCEPT",
		},
		{
			name: "a bad address of etcd", args: []string{"run", "--etcd-endpoints=ftp://x"}, env: map[string]string{"NODENAME": "n"},
			code: exitFailed, stderr: "ftp",
		},
		{
			name: "a bad node name", args: []string{"run", "--node-name=a/b"},
			code: exitFailed, stderr: "a/b",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := invoke(t, c.env, c.file, c.args...)
			if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
				t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", code, c.code, stdout, stderr)
			}
		})
	}
}

func TestConfigShowsWhereValuesCameFrom(t *testing.T) {
	_, stdout, _ := invoke(t, map[string]string{"FELIX_LogPrefix": "e"}, "HealthPort = 99\n", "config", "--local")
	for _, want := range []struct{ name, value, source string }{
		{"LogPrefix", "e", "environment"}, {"HealthPort", "99", "file"}, {"HealthEnabled", "false", "default"},
	} {
		found := false
		for line := range strings.Lines(stdout) {
			fields := strings.Fields(line)
			found = found || len(fields) == 3 && fields[0] == want.name && fields[1] == want.value && fields[2] == want.source
		}
		if !found {
			t.Errorf("%v is not in\n%s", want, stdout)
		}
	}
}
